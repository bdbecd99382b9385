"""Asks the reference and the bridge's emulator the same over raw sockets, and compares what they answer: status, the
headers that matter, the body, the events byte by byte and chunk by chunk, and when connections are closed. Where they
differ, the emulator is wrong.

    tests/reference/parity

Compared as shapes: ids, addresses, what the model says unless it was told what, and in which words the graph fails.
"""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from parity_rows import CONNECTIONS, ROWS, STREAMS
from wire import Answer, ask, converse

HERE = Path(__file__).parent
STARTS = {
    "reference": [sys.executable, "-m", "app", "--port", "0"],
    "emulator": [os.environ["ALIM_BRIDGE_BIN"], "emulate", "--listen", "127.0.0.1:0", "--token-delay", "1ms", "--log", "warn"],
}
HEADERS = ["allow", "content-type", "location", "www-authenticate", "x-accel-buffering", "connection"]
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
GRAPH_FAILED = re.compile(r"(Graph execution failed: ).*", re.DOTALL)


@contextmanager
def running(command: list[str]):
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline()
            if "listening on " not in line:
                sys.exit(f"{command} printed {line!r}")
            yield line.split()[-1].removeprefix("http://")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def plain(text: str, address: str) -> str:
    return UUID.sub("UUID", text.replace(address, "HOST"))


def shape(value, loose: bool):
    """A body with its texts as they are, or only what kinds of value stand where."""
    match value:
        case dict():
            return {key: shape(inner, loose) for key, inner in value.items()}
        case list():
            return [shape(inner, loose) for inner in value] if not loose else "list"
        case _ if loose:
            return type(value).__name__
        case str():
            return GRAPH_FAILED.sub(r"\1…", value)
    return value


def told(answer: Answer, address: str, loose: bool) -> dict:
    """What is compared of an answer."""
    body = plain(answer.body.decode(errors="replace"), address)
    kind = answer.headers.get("content-type", "")
    if kind == "application/json" and body:
        body = shape(json.loads(body), loose)
    elif kind.startswith("text/html"):
        body = "<html>" if "<html>" in body else body
        kind = kind.partition(";")[0]
    elif kind.startswith("text/event-stream"):
        body = [plain(chunk.decode(), address) for chunk in answer.chunks]
    headers = {name: plain(answer.headers[name], address) for name in HEADERS if name in answer.headers}
    return {"status": answer.status, "headers": headers | ({"content-type": kind} if kind else {}), "body": body}


def events(chunks: list[str]) -> list[str]:
    """Which events came: the names of nodes and what failed are each upstream's own."""
    return [re.sub(r"^(event: (node|error|intent|citation)\ndata: ).*(?=\n\n)", r"\1…", chunk) for chunk in chunks]


class Comparison:
    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses
        self.passed = self.failed = 0

    def compare(self, name: str, of) -> None:
        answers = {who: of(address) for who, address in self.addresses.items()}
        if answers["reference"] == answers["emulator"]:
            self.passed += 1
            return
        self.failed += 1
        print(f"DIFFERS  {name}")
        for who, answer in answers.items():
            print(f"  {who:9} {answer}")

    def row(self, row) -> None:
        self.compare(row.name, lambda address: told(ask(address, row), address, row.loose))

    def stream(self, row) -> None:
        def of(address: str):
            answer = told(ask(address, row), address, False)
            answer["body"] = row.judge(events(answer["body"]))
            return answer

        self.compare(row.name, of)


def main() -> None:
    with running(STARTS["reference"]) as reference, running(STARTS["emulator"]) as emulator:
        comparison = Comparison({"reference": reference, "emulator": emulator})
        for row in ROWS:
            comparison.row(row)
        for row in STREAMS:
            comparison.stream(row)
        for name, of in CONNECTIONS:
            comparison.compare(name, lambda address, of=of: converse(address, of))
    print(f"{comparison.passed} passed, {comparison.failed} failed")
    sys.exit(1 if comparison.failed else 0)


if __name__ == "__main__":
    main()
