"""Calls through toxiproxy, one fault at a time: each caller must learn the right code and reason, whether ALİM may have seen the
call, and how many events came, within the bridge's timeouts. ALİM must see no call twice. After each fault the same bridge answers
both kinds of calls, and gives back what the call held.
"""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from calls import Ended, invoke, stream
from certificates import Authority
from memory import metrics, resident
from processes import Bridge, Upstream, free_port
from results import Suite

from alim.v1.graph_service_pb2_grpc import GraphServiceStub

TIMEOUTS = {"CONNECT_TIMEOUT": "1s", "INVOKE_TIMEOUT": "3s", "STREAM_INITIAL_TIMEOUT": "2s", "STREAM_IDLE_TIMEOUT": "1s"}
SOON = 0.9  # below each of these timeouts, on a machine that others use
LATE = 1.0  # how much later than its timeout a call may end there
PAIR = {"tokens": 40, "gap": 0.005}
SLOW = {"tokens": 100, "gap": 0.05}  # five seconds: a fault in it comes long before its end
GROWTH_MIB = 16
SETTLE_SECONDS = 10.0
EVENT = b"1c\r\nevent: token\ndata: 10 \n\n"


class Toxiproxy:
    def __init__(self) -> None:
        self.port = free_port()
        command = [os.environ["TOXIPROXY_BIN"], "-host", "127.0.0.1", "-port", str(self.port)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=os.environ | {"LOG_LEVEL": "panic"}, **quiet)
        until(lambda: self.process.poll() is not None or self.is_up(), "toxiproxy answers")

    def is_up(self) -> bool:
        try:
            return bool(self.ask("GET", "version"))
        except urllib.error.URLError:
            return False

    def ask(self, method: str, path: str, **body: Any) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", json.dumps(body).encode() if body else None, method=method)
        request.add_header("content-type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.loads(reply.read() or b"null")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {SETTLE_SECONDS:.0f} s: {what}")
        time.sleep(0.02)


class Stage:
    """An upstream, a proxy in front of it, and a bridge that knows only the proxy."""

    def __init__(self, stack: ExitStack, toxiproxy: Toxiproxy, name: str, authority: Authority | None) -> None:
        self.toxiproxy, self.name, self.number = toxiproxy, name, 0
        tls = [str(path) for path in (*authority.certificate("alim"), authority.file)] if authority else []
        self.upstream = Upstream(*tls)
        stack.callback(self.upstream.stop)
        scheme, to = self.upstream.url.split("://")
        made = toxiproxy.ask("POST", "proxies", name=name, listen="127.0.0.1:0", upstream=to, enabled=True)
        self.admin = f"127.0.0.1:{free_port()}"
        settings = TIMEOUTS | {"ADMIN_LISTEN": self.admin, "UPSTREAM_HEALTH_INTERVAL": "1h", "ACCESS_LOG": "off"}
        if authority:
            settings["UPSTREAM_CA_FILE"] = str(authority.file)
        self.bridge = Bridge(self.upstream, **settings | {"UPSTREAM_URL": f"{scheme}://{made['listen']}/api/v1"})
        stack.callback(self.bridge.kill)
        channel = stack.enter_context(grpc.insecure_channel(self.bridge.address, [("grpc.enable_retries", 0)]))
        self.stub = GraphServiceStub(channel)
        self.assert_answers()
        self.cut()
        self.descriptors, self.resident = self.open_files(), resident(self.bridge)

    def toxic(self, kind: str, towards: str = "downstream", **attributes: int) -> None:
        self.toxiproxy.ask("POST", f"proxies/{self.name}/toxics", type=kind, stream=towards, attributes=attributes)

    def enable(self, enabled: bool) -> None:
        self.toxiproxy.ask("POST", f"proxies/{self.name}", enabled=enabled)

    def cut(self) -> None:
        """Closes the proxy's connections, and waits until the bridge has noticed."""
        self.enable(False)
        until(lambda: metrics(self.admin)["alim_bridge_open_calls"] == 0, "no open call")
        if hasattr(self, "descriptors"):
            until(lambda: self.open_files() <= self.descriptors, f"{self.open_files()} descriptors are {self.descriptors} again")
        self.enable(True)

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.bridge.process.pid}/fd"))

    def message(self) -> str:
        self.number += 1
        return f"{self.name} {self.number}"

    def posts(self, message: str) -> int:
        return self.upstream.seen()["posts"].get(message, 0)

    def assert_answers(self) -> None:
        reply, answer = invoke(self.stub, "healthy", hold=0), stream(self.stub, "healthy", **PAIR)
        assert reply.text == "healthy" and answer.is_done, f"the bridge is not well: {reply}; {answer}"

    def assert_well(self) -> None:
        """After a fault: both kinds of calls are answered, and nothing of the failed one is left."""
        self.toxiproxy.ask("POST", "reset")
        self.cut()
        self.assert_answers()
        self.cut()
        figures = metrics(self.admin)
        assert figures["alim_bridge_buffered_bytes"] == 0, f"{figures['alim_bridge_buffered_bytes']} bytes are left"
        assert self.bridge.process.poll() is None, "the bridge has ended"


@dataclass
class Expected:
    code: str = "OK"
    reason: str = ""
    sent: str | None = None
    pushback: str | None = None
    seconds: tuple[float, float] = (0.0, SOON)
    posts: int | None = 1

    def compare(self, ended: Ended, posts: int) -> None:
        found = (ended.code, ended.reason, ended.metadata.get("sent"), ended.pushback)
        assert found == (self.code, self.reason, self.sent, self.pushback), f"not {self}: {ended} pushback {ended.pushback}"
        assert self.seconds[0] <= ended.seconds <= self.seconds[1], f"not within {self.seconds}: {ended}"
        assert posts == self.posts or (self.posts is None and posts <= 1), f"ALİM saw it {posts} times: {ended}"
        assert ended.is_done == (self.code == "OK"), f"never both Done and a status: {ended}"


def answered(begin: float = 0.0, end: float = SOON) -> Expected:
    return Expected(seconds=(begin, end))


def failed(code: str, reason: str, end: float = SOON, begin: float = 0.0, posts: int | None = 1) -> Expected:
    """A call that ALİM may have seen."""
    return Expected(code, reason, "true", "-1", (begin, end), posts)


def late(reason: str, seconds: float, posts: int | None = 1) -> Expected:
    return failed("DEADLINE_EXCEEDED", reason, seconds + LATE, seconds - 0.1, posts)


def unreachable(end: float = SOON) -> Expected:
    return Expected("UNAVAILABLE", "UPSTREAM_UNREACHABLE", "false", None, (0.0, end), 0)


INTERRUPTED, TRUNCATED = ("UNAVAILABLE", "UPSTREAM_INTERRUPTED"), ("UNAVAILABLE", "UPSTREAM_STREAM_TRUNCATED")


def invoked(stage: Stage, expected: Expected, timeout: float = 30.0, **pace: Any) -> str:
    message = stage.message()
    ended = invoke(stage.stub, message, timeout, **(pace or {"hold": 0}))
    expected.compare(ended, stage.posts(message))
    whole = "x" * int(pace["bytes"]) if "bytes" in pace else message
    assert ended.text == (whole if ended.is_done else ""), f"{len(ended.text)} other characters"
    return str(ended)


def streamed(stage: Stage, expected: Expected, inside: Callable[[], object] | None = None, timeout: float = 30.0, **pace: Any) -> str:
    message, pace = stage.message(), pace or PAIR
    ended = stream(stage.stub, message, timeout, inside, **pace)
    expected.compare(ended, stage.posts(message))
    tokens = [f"{token} " for token in range(int(pace["tokens"]))]
    if ended.is_done:
        assert ended.text == "".join(tokens), f"not the answer: {ended.text!r}"
        return str(ended)
    whole = "".join(tokens[: ended.events])
    assert ended.text == whole, f"{ended.text!r} is not whole tokens: {whole!r}"
    delivered = ended.metadata.get("eventsDelivered")
    assert delivered == (str(ended.events) if ended.events or delivered else None), f"{delivered} events, and {ended.events} came"
    assert not inside or ended.events >= 3, f"what came before the fault is lost: {ended}"
    return str(ended)


def both(stage: Stage, expected: Expected) -> str:
    return f"{invoked(stage, expected)}; {streamed(stage, expected)}"


def out_of_time(stage: Stage) -> str:
    """The caller's deadline: its library and the bridge both keep it, and either may be first to say so."""
    message = stage.message()
    ended = invoke(stage.stub, message, timeout=0.5, hold=0)
    assert ended.code == "DEADLINE_EXCEEDED" and ended.reason in ("", "CALLER_DEADLINE"), str(ended)
    assert 0.4 <= ended.seconds <= 0.5 + LATE and stage.posts(message) == 1, str(ended)
    until(lambda: metrics(stage.admin)["alim_bridge_open_calls"] == 0, "the bridge has ended it too")
    return str(ended)


Case = Callable[[Stage], str]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def keep(body: Case) -> Case:
        CASES[name] = body
        return body

    return keep


@case("latency: answers are late and whole")
def latency(stage: Stage) -> str:
    stage.toxic("latency", latency=300)
    return both(stage, answered(0.3, 2.5))


@case("latency on the way to ALİM")
def latency_of_requests(stage: Stage) -> str:
    stage.toxic("latency", "upstream", latency=300)
    return both(stage, answered(0.3, 2.5))


@case("latency beyond the caller's deadline")
def latency_beyond_the_deadline(stage: Stage) -> str:
    stage.toxic("latency", latency=2000)
    return out_of_time(stage)


@case("jitter: tokens keep their order")
def jitter(stage: Stage) -> str:
    stage.toxic("latency", latency=50, jitter=50)
    return both(stage, answered(0, 6))


@case("bandwidth: a long answer takes its time")
def bandwidth(stage: Stage) -> str:
    stage.toxic("bandwidth", rate=40)
    return invoked(stage, answered(0.3, 2.9), bytes=40_000)


@case("bandwidth too low for INVOKE_TIMEOUT")
def bandwidth_too_low(stage: Stage) -> str:
    stage.toxic("bandwidth", rate=4)
    return invoked(stage, late("INVOKE_TIMEOUT", 3), bytes=40_000)


@case("slow_close: nobody waits for the close")
def slow_close(stage: Stage) -> str:
    stage.toxic("slow_close", delay=2000)
    return both(stage, answered())


@case("timeout: no answer, then a close")
def timeout_with_a_close(stage: Stage) -> str:
    stage.toxic("timeout", timeout=400)
    return both(stage, failed(*INTERRUPTED, end=0.4 + LATE, begin=0.3))


@case("timeout: silence before the answer")
def silence(stage: Stage) -> str:
    stage.toxic("timeout", timeout=0)
    return f"{invoked(stage, late('INVOKE_TIMEOUT', 3))}; {streamed(stage, late('INITIAL_TIMEOUT', 2))}"


@case("timeout: silence inside a stream")
def silence_inside(stage: Stage) -> str:
    return streamed(stage, late("IDLE_TIMEOUT", 1), lambda: stage.toxic("timeout", timeout=0), **SLOW)


@case("timeout: silence, and the caller's deadline")
def silence_and_a_deadline(stage: Stage) -> str:
    stage.toxic("timeout", timeout=0)
    return out_of_time(stage)


@case("reset_peer before the head")
def reset(stage: Stage) -> str:
    stage.toxic("reset_peer", timeout=200)
    return both(stage, failed(*INTERRUPTED, end=0.2 + LATE, posts=None))


@case("reset_peer inside a stream")
def reset_inside(stage: Stage) -> str:
    return streamed(stage, failed(*TRUNCATED), lambda: stage.toxic("reset_peer", timeout=0), **SLOW)


@case("slicer: an answer in pieces of a few bytes")
def slicer(stage: Stage) -> str:
    stage.toxic("slicer", average_size=3, size_variation=2, delay=10)
    return both(stage, answered(0, 10))


@case("slicer on the way to ALİM")
def slicer_of_requests(stage: Stage) -> str:
    stage.toxic("slicer", "upstream", average_size=3, size_variation=2, delay=10)
    return both(stage, answered(0, 10))


@case("limit_data in the request")
def limit_in_the_request(stage: Stage) -> str:
    stage.toxic("limit_data", "upstream", bytes=60)
    return both(stage, failed(*INTERRUPTED, posts=0))


@case("limit_data in the answer's head")
def limit_in_the_head(stage: Stage) -> str:
    stage.toxic("limit_data", bytes=40)
    return both(stage, failed(*INTERRUPTED))


@case("limit_data in a JSON answer")
def limit_in_the_answer(stage: Stage) -> str:
    stage.toxic("limit_data", bytes=1000)
    return invoked(stage, failed(*INTERRUPTED), bytes=40_000)


@case("limit_data in an event")
def limit_in_an_event(stage: Stage) -> str:
    """Wherever it falls: each length cuts the event at another byte. All are beyond the head and TLS's handshake."""
    said = ""
    for more in range(0, len(EVENT), 5):
        stage.toxic("limit_data", bytes=1500 + more)
        said = streamed(stage, failed(*TRUNCATED), tokens=100, gap=0)
        stage.toxiproxy.ask("DELETE", f"proxies/{stage.name}/toxics/limit_data_downstream")
    return said


@case("down: nothing is sent")
def down(stage: Stage) -> str:
    stage.enable(False)
    return both(stage, unreachable(end=SOON + LATE))


@case("down inside a stream")
def down_inside(stage: Stage) -> str:
    return streamed(stage, failed(*TRUNCATED), lambda: stage.enable(False), **SLOW)


@case("down and up again: a kept connection is not trusted")
def down_and_up(stage: Stage) -> str:
    said = ""
    for _ in range(5):
        invoked(stage, answered())  # leaves its connection in the pool
        stage.enable(False)
        stage.enable(True)
        said = both(stage, answered())
    return said


TLS_CASES = [latency, jitter, silence_inside, reset_inside, slicer, limit_in_an_event, down, down_inside, down_and_up]
TLS_ONLY: dict[str, Case] = {}


def tls_case(name: str) -> Callable[[Case], Case]:
    def keep(body: Case) -> Case:
        TLS_ONLY[name] = body
        return body

    return keep


@tls_case("limit_data in the handshake")
def limit_in_the_handshake(stage: Stage) -> str:
    stage.toxic("limit_data", bytes=100)
    return both(stage, unreachable(end=SOON + LATE))


@tls_case("timeout: silence in the handshake")
def silence_in_the_handshake(stage: Stage) -> str:
    """CONNECT_TIMEOUT holds for each attempt. INVOKE_TIMEOUT ends the third, and says `sent` to be safe: docs/errors.md."""
    stage.toxic("timeout", timeout=0)
    waits = invoked(stage, late("INVOKE_TIMEOUT", 3, posts=0))
    return f"{waits}; {streamed(stage, late('INITIAL_TIMEOUT', 2, posts=0))}"


@tls_case("reset_peer in the handshake")
def reset_in_the_handshake(stage: Stage) -> str:
    stage.toxic("reset_peer", timeout=0)
    return both(stage, unreachable(end=SOON + LATE))


def result(stage: Stage, body: Case) -> str:
    try:
        said = body(stage)
    except Exception:
        stage.assert_well()
        raise
    stage.assert_well()
    return said


def run(suite: Suite, stage: Stage, cases: dict[str, Case], prefix: str = "") -> None:
    for name, body in cases.items():
        suite.check(prefix + name, lambda body=body: result(stage, body))
    suite.check(f"{prefix}memory and descriptors are back", lambda: assert_memory(stage))


def assert_memory(stage: Stage) -> str:
    until(lambda: resident(stage.bridge) < stage.resident + GROWTH_MIB, "the memory of before")
    return f"{stage.resident:.0f} MiB before, {resident(stage.bridge):.0f} MiB after; {stage.open_files()} descriptors"


@contextmanager
def toxiproxy() -> Iterator[Toxiproxy]:
    server = Toxiproxy()
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    suite = Suite("toxiproxy")
    with toxiproxy() as server, ExitStack() as stack:
        run(suite, Stage(stack, server, "plain", None), CASES)
        authority = Authority(Path(os.environ["CONFORMANCE_WORK"]) / "toxiproxy")
        both_ways = {name: body for name, body in CASES.items() if body in TLS_CASES}
        run(suite, Stage(stack, server, "tls", authority), both_ways | TLS_ONLY, "TLS, ")


if __name__ == "__main__":
    main()
