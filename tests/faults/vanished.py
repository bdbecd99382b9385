"""Pages that vanish without a FIN, as a phone that lost its network: HTTP/1.1 has no PING, so only TCP can find out. One page is in
a stream that goes on, so that what it is sent is never acknowledged; one waits for an answer, so that nothing is sent.

Bridge and page each have a network namespace of this test's own; the page's link is then taken down. Needs root and iproute2.

    run vanished
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack

from processes import BIN, check, finish, first_line

SERVER, PAGE = f"alim-server-{os.getpid()}", f"alim-page-{os.getpid()}"
ADDRESS = "192.0.2.1"  # RFC 5737: documentation, here inside the namespaces alone
PATIENCE = 60
CALLER = """
import json, socket, struct, sys, time
def message(fault):
    context = json.dumps({"message": "Salam", "userId": "page", "scenarioContext": {"emulator_fault": fault}})
    sys.path[:0] = json.loads(sys.argv[1])
    from google.protobuf import json_format
    from alim.v1 import graph_service_pb2 as pb
    body = json_format.Parse(context, pb.StreamRequest()).SerializeToString()
    return b"\\0" + struct.pack(">I", len(body)) + body
pages = []
for fault in ("slow", "silent"):
    page, body = socket.create_connection(("192.0.2.1", 50051)), message(fault)
    page.sendall(b"POST /alim.v1.GraphService/Stream HTTP/1.1\\r\\nhost: bridge\\r\\ncontent-type: application/grpc-web+proto\\r\\n"
                 + f"content-length: {len(body)}\\r\\n\\r\\n".encode() + body)
    pages.append(page)
pages[0].recv(1)
print("listening on pages", flush=True)
time.sleep(600)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def inside(namespace: str, command: list[str], stack: ExitStack, **variables: str) -> subprocess.Popen:
    """Starts a command in a namespace, and waits for the line that it begins with."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")} | variables
    process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], env=env, stdout=subprocess.PIPE, text=True)
    stack.callback(process.wait)
    stack.callback(process.kill)
    first_line(process)
    return process


def namespaces(stack: ExitStack) -> None:
    for name in (SERVER, PAGE):
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("-n", SERVER, "link", "add", "server", "type", "veth", "peer", "name", "page", "netns", PAGE)
    for name, link, address in ((SERVER, "server", ADDRESS), (PAGE, "page", "192.0.2.2")):
        ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
        ip("-n", name, "link", "set", link, "up")


def open_calls() -> int:
    """What the bridge's metrics say, from inside its namespace."""
    script = "import urllib.request as it; print(it.urlopen('http://127.0.0.1:9464/metrics').read().decode())"
    command = ["ip", "netns", "exec", SERVER, sys.executable, "-c", script]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    line = next(line for line in told.splitlines() if line.startswith("alim_bridge_open_calls "))
    return int(line.split()[1])


def main() -> None:
    with ExitStack() as stack:
        namespaces(stack)
        inside(SERVER, [BIN, "emulate", "--listen", "127.0.0.1:8000", "--log", "off"], stack)
        settings = {
            "LISTEN": f"{ADDRESS}:50051",
            "ADMIN_LISTEN": "127.0.0.1:9464",
            "GRPC_WEB": "*",
            "UPSTREAM_URL": "http://127.0.0.1:8000/api/v1",
            "UPSTREAM_API_KEY": "dev-api-key-change-in-production",
            "LOG": "error",
        }
        inside(SERVER, [BIN, "serve"], stack, **{f"ALIM_BRIDGE_{name}": value for name, value in settings.items()})
        inside(PAGE, [sys.executable, "-c", CALLER, json.dumps(os.environ["PYTHONPATH"].split(":"))], stack)
        check(open_calls() == 2, "two pages are in a call")
        ip("-n", PAGE, "link", "set", "page", "down")
        begin = time.monotonic()
        time.sleep(5)
        check(open_calls() == 2, "nobody knows yet that they are gone")
        while (left := open_calls()) and time.monotonic() - begin < PATIENCE:
            time.sleep(0.5)
        check(left == 0, f"both calls gave their permits back within a minute: after {time.monotonic() - begin:.0f} s")
    finish()


if __name__ == "__main__":
    main()
