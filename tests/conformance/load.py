"""h2load and ghz against a bridge: what they report, what the bridge counted, and what it holds afterwards."""

import json
import os
import re
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from certificates import Authority
from memory import metrics, resident
from processes import BIN, Bridge, first_line, free_port
from results import Suite

from alim.v1.graph_service_pb2 import InvokeRequest

SECONDS = 30 if os.environ.get("CONFORMANCE_LONG") == "1" else 6
WARM_SECONDS = 2
CLIENTS, STREAMS = 10, 10
GROWTH_MIB = 24
GROWTH_FILES = 8  # what the bridge opens once, after its start
SETTLE_SECONDS = 20.0
MESSAGE = "Nə vaxt suvarım?"
METHODS = ("Invoke", "Stream")
WORK = Path(os.environ["CONFORMANCE_WORK"]) / "load"
KEY = "dev-api-key-change-in-production"
HANDLED = re.compile(r'grpc_server_handled_total\{.*grpc_code="(\w+)".*grpc_service="alim\.v1\.GraphService"')


@contextmanager
def emulator() -> Iterator[SimpleNamespace]:
    command = [BIN, "emulate", "--listen", "127.0.0.1:0", "--token-delay", "0ms", "--log", "off"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")}
    server = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        yield SimpleNamespace(url=first_line(server))
    finally:
        server.kill()
        server.wait()


class Target:
    """A bridge under load, and what it held before."""

    def __init__(self, upstream: SimpleNamespace, authority: Authority | None) -> None:
        self.admin, self.authority = f"127.0.0.1:{free_port()}", authority
        settings = {"ADMIN_LISTEN": self.admin, "ACCESS_LOG": "off", "POOL_IDLE_TIMEOUT": "1s", "UPSTREAM_API_KEY": KEY, "UPSTREAM_HEALTH_INTERVAL": "1h"}
        if authority:
            cert, key = authority.certificate("bridge")
            settings |= {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)}
        self.bridge = Bridge(upstream, **settings)
        self.scheme = "https" if authority else "http"
        self.descriptors = self.open_files()
        self.resident = 0.0

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.bridge.process.pid}/fd"))

    def handled(self) -> Counter[str]:
        codes: Counter[str] = Counter()
        for name, value in metrics(self.admin).items():
            if found := HANDLED.match(name):
                codes[found[1]] += int(value)
        return codes

    def settle(self) -> str:
        """Waits until it holds what it held before; the base of memory is what it held after the first load of all."""
        held: dict[str, float] = {}

        def is_settled() -> bool:
            figures = metrics(self.admin)
            held["open calls"] = figures["alim_bridge_open_calls"]
            held["buffered bytes"] = figures["alim_bridge_buffered_bytes"]
            held["connections"] = figures["alim_bridge_open_connections"]
            held["descriptors"] = max(self.open_files() - self.descriptors - GROWTH_FILES, 0)
            held["MiB more"] = max(resident(self.bridge) - self.resident - GROWTH_MIB, 0) if self.resident else 0
            return not any(held.values())

        deadline = time.monotonic() + SETTLE_SECONDS
        while not is_settled():
            assert time.monotonic() < deadline, f"not as before within {SETTLE_SECONDS:.0f} s: {held}"
            time.sleep(0.2)
        before, self.resident = self.resident, self.resident or resident(self.bridge)
        return f"{before or self.resident:.0f} MiB before, {resident(self.bridge):.0f} MiB after"


def run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + 60)
    assert ended.returncode == 0, f"{command[0]} ended with {ended.returncode}: {ended.stderr[-500:]}"
    return ended.stdout


def h2load(target: Target, method: str, seconds: int) -> int:
    """h2load reads no trailers: the bridge's count says how calls ended. Those that its end cuts off are cancelled."""
    body = InvokeRequest(message=MESSAGE).SerializeToString()
    question = WORK / "question.bin"
    question.write_bytes(b"\0" + struct.pack(">I", len(body)) + body)
    url = f"{target.scheme}://{target.bridge.address}/alim.v1.GraphService/{method}"
    headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    before = target.handled()
    shape = ["-c", str(CLIENTS), "-m", str(STREAMS), "-D", str(seconds)]
    said = run(["h2load", *shape, *headers, "-d", str(question), url])
    figures = {word: int(count) for count, word in re.findall(r"(\d+) (done|succeeded|failed|errored|timeout|2xx|4xx|5xx)", said)}
    assert figures["succeeded"], said
    assert not figures["failed"] + figures["errored"] + figures["timeout"] + figures["4xx"] + figures["5xx"], str(figures)
    settled(target)
    ends = target.handled() - before
    cut_off = ends.pop("Canceled", 0) + ends.pop("Cancelled", 0)
    assert set(ends) == {"OK"} and cut_off <= CLIENTS * STREAMS, f"{dict(ends)}, {cut_off} cancelled"
    assert ends["OK"] >= figures["succeeded"], f"{dict(ends)} for {figures}"
    return ends["OK"]


def settled(target: Target) -> None:
    """The calls have ended, and are counted."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while metrics(target.admin)["alim_bridge_open_calls"]:
        assert time.monotonic() < deadline, "calls go on"
        time.sleep(0.1)


def ghz(target: Target, method: str, seconds: int) -> int:
    """ghz learns the contract by reflection, and reads each status."""
    security = ["--cacert", str(target.authority.file), "--cname", "localhost"] if target.authority else ["--insecure"]
    shape = ["--concurrency", str(CLIENTS * STREAMS), "--connections", str(CLIENTS), "--duration", f"{seconds}s", "--duration-stop", "wait"]
    question = ["--call", f"alim.v1.GraphService/{method}", "--data", json.dumps({"message": MESSAGE}), "--format", "json"]
    before = target.handled()
    said = json.loads(run([os.environ["GHZ_BIN"], *security, *shape, *question, target.bridge.address]))
    assert said["count"], "no call"
    assert set(said["statusCodeDistribution"]) == {"OK"}, f"{said['statusCodeDistribution']} {said.get('errorDistribution')}"
    ends = target.handled() - before
    assert set(ends) == {"OK"} and ends["OK"] >= said["count"], f"{dict(ends)} for {said['count']}"
    return said["count"]


Tool = Callable[[Target, str, int], int]


def load(target: Target, tool: Tool, method: str) -> str:
    calls = tool(target, method, SECONDS)
    return f"{calls} calls without an error; {target.settle()}"


def main() -> None:
    suite = Suite("load")
    with emulator() as upstream:
        for name, authority in (("plain", None), ("TLS", Authority(WORK))):
            target = Target(upstream, authority)
            try:
                suite.check(f"{name}, warm-up", lambda target=target: (h2load(target, "Stream", WARM_SECONDS), target.settle())[1])
                plans: list[tuple[Tool, str]] = [(tool, method) for tool in (h2load, ghz) for method in METHODS]
                for tool, method in plans if not authority or SECONDS == 30 else [(h2load, "Stream"), (ghz, "Invoke")]:
                    suite.check(f"{name}, {tool.__name__} {method}", lambda tool=tool, method=method: load(target, tool, method))
            finally:
                target.bridge.kill()


if __name__ == "__main__":
    main()
