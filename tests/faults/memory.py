"""The bridge's memory under callers who don't behave, beside one who does: MEMORY_LIMIT must hold, the polite caller must be
answered, and nothing that was paid for may be thrown away for lack of room.

    run memory [--seconds 60] [--limit 128MiB] [--above 32] [--connections 1] [--kinds flood]
    run memory --cgroup 512MiB [--seconds 60] [--connections 1]     as root: the kernel kills what exceeds it

For each of `--connections` there are: two connections that keep 40 unfinished messages of 4 MiB each, two that keep 40 unread
replies of 3 MiB each (one without HTTP/2 windows, one that does not read its socket), and one with 200 streams and the largest
windows that does not read either, while ALİM sends events of 1 MiB as fast as they are taken. `--kinds` takes some of them. They are a process of their own, so
that the polite caller waits for nobody but the bridge and ALİM.

In a cgroup the bridge has no MEMORY_LIMIT: `auto` must find the group's limit, and leave it whole with all that the kernel keeps
for the bridge.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import struct
import time
import urllib.request
from collections import Counter
from collections.abc import Coroutine, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from asking import told
from cgroup import Cgroup, Unavailable, cgroup
from google.protobuf.struct_pb2 import Struct
from processes import Bridge, Upstream, check, finish, free_port, servers

from alim.v1.graph_service_pb2 import InvokeRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub

MIB = 1 << 20
MESSAGE = 4 * MIB - 64
PREFIX = b"\0" + struct.pack(">I", MESSAGE)
REPLY = 3 * MIB
LARGEST_WINDOW = 2**31 - 1
INVOKE, STREAM = "/alim.v1.GraphService/Invoke", "/alim.v1.GraphService/Stream"
STREAMS = 40
KINDS = ("unfinished", "unread", "unread socket", "flood")
POLITE_CALLS = 50
START_SECONDS = 2
SETTLE_SECONDS = 10
SETTLED_MIB = 32


def question(message: str, **pace: float) -> bytes:
    context = Struct()
    context.update(pace)
    body = InvokeRequest(message=message, scenario_context=context).SerializeToString()
    return b"\0" + struct.pack(">I", len(body)) + body


def head(path: str) -> list[tuple[str, str]]:
    return [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "bridge"),
            ("content-type", "application/grpc"), ("te", "trailers")]


class Hostile:
    """One connection that keeps `streams` calls open, and opens another for each that ends."""

    def __init__(self, streams: int, seen: Counter[str]) -> None:
        self.streams, self.seen = streams, seen
        self.http2 = h2.connection.H2Connection(h2.config.H2Configuration(validate_inbound_headers=False))
        self.open: dict[int, int] = {}

    def begin(self) -> None:
        raise NotImplementedError

    def go_on(self) -> None:
        """What there is to send on the streams that are open."""

    async def run(self, address: str) -> None:
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            self.http2.initiate_connection()
            while True:
                while len(self.open) < self.streams:
                    self.begin()
                self.go_on()
                writer.write(self.http2.data_to_send())
                await writer.drain()
                if not (data := await reader.read(65_536)):
                    self.seen["closed"] += 1
                    return
                events = self.http2.receive_data(data)
                for event in events:
                    self.take(event)
                if any(isinstance(event, h2.events.ConnectionTerminated) for event in events):
                    self.seen["goaway"] += 1
                    return
        finally:
            writer.transport.abort()

    def take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            fields = {name.decode(): value.decode() for name, value in event.headers}
            if "grpc-status" in fields:
                self.seen[f"status {fields['grpc-status']}"] += 1
        if isinstance(event, h2.events.StreamReset | h2.events.StreamEnded) and self.open.pop(event.stream_id, None) is not None:
            if isinstance(event, h2.events.StreamReset):
                self.seen["reset"] += 1
            else:  # answered before its message was whole
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self.http2.reset_stream(event.stream_id, h2.errors.ErrorCodes.CANCEL)


class Unfinished(Hostile):
    """Messages that never become whole: all but their last byte is sent, as fast as the windows let."""

    def begin(self) -> None:
        stream = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, head(INVOKE))
        self.open[stream] = len(PREFIX) + MESSAGE - 1

    def go_on(self) -> None:
        for stream, left in self.open.items():
            while left > 0 and (room := min(left, self.http2.local_flow_control_window(stream), 16_384)) > len(PREFIX):
                sent = len(PREFIX) + MESSAGE - 1 - left
                self.http2.send_data(stream, PREFIX[sent:] + b"x" * (room - len(PREFIX[sent:])))
                left -= room
            self.open[stream] = left


class Unread(Hostile):
    """Large replies for which there is no window."""

    def begin(self) -> None:
        stream = self.http2.get_next_available_stream_id()
        self.http2.send_headers(stream, head(INVOKE))
        self.http2.send_data(stream, question("unread", bytes=REPLY), end_stream=True)
        self.open[stream] = 0


async def unread_socket(address: str, path: str, streams: int, message: bytes, seen: Counter[str]) -> None:
    """The largest windows, and a socket that nobody reads; another when it is closed."""
    host, port = address.split(":")
    while True:
        http2 = h2.connection.H2Connection()
        http2.initiate_connection()
        http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})
        http2.increment_flow_control_window(LARGEST_WINDOW - 65_535)
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        for _ in range(streams):
            stream = http2.get_next_available_stream_id()
            http2.send_headers(stream, head(path))
            http2.send_data(stream, message, end_stream=True)
        writer.write(http2.data_to_send())
        try:
            while not writer.transport.is_closing():
                await asyncio.sleep(0.2)
            seen["closed"] += 1
        finally:
            writer.transport.abort()


def resident(bridge: Bridge) -> float:
    """proc(5), VmRSS, in MiB; 0 when it has ended."""
    lines = Path(f"/proc/{bridge.process.pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def metrics(admin: str) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=20).read().decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def polite(address: str, seconds: float) -> tuple[Counter[str], list[float]]:
    """What became of the polite calls, and how long each answered one took."""
    outcomes, times = Counter(), []
    async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        stub, begin = GraphServiceStub(channel), time.monotonic()
        for call in range(POLITE_CALLS):
            await asyncio.sleep(max(0.0, begin + seconds * call / POLITE_CALLS - time.monotonic()))
            start = time.monotonic()
            try:
                reply = await stub.Invoke(InvokeRequest(message="polite", scenario_context={"hold": 0.0}), timeout=10)
                outcomes["OK" if reply.response == "polite" else "another's answer"] += 1
                times.append(time.monotonic() - start)
            except grpc.aio.AioRpcError as error:
                outcomes[told(error)] += 1
    return outcomes, times


async def attack(address: str, connections: int, seen: dict[str, Counter[str]]) -> None:
    """Attacks by the kinds of `seen` until it is cancelled."""

    async def keep(kind: type[Hostile], events: Counter[str]) -> None:
        while True:
            try:
                await kind(STREAMS, events).run(address)
            except ConnectionError:
                events["reset by peer"] += 1

    def begin(kind: str, events: Counter[str]) -> list[Coroutine]:
        match kind:
            case "unfinished":
                return [keep(Unfinished, events), keep(Unfinished, events)]
            case "unread":
                return [keep(Unread, events)]
            case "unread socket":
                return [unread_socket(address, INVOKE, STREAMS, question("unread", bytes=REPLY), events)]
            case _:
                return [unread_socket(address, STREAM, 5 * STREAMS, question("flood", flood=MIB - 64), events)]

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            for kind, events in seen.items():
                for attacker in begin(kind, events):
                    group.create_task(attacker)


def attack_until_told(address: str, connections: int, kinds: list[str], told_to_stop: Connection) -> None:
    """The attackers' process: it sends back what they have seen."""
    seen = {kind: Counter() for kind in kinds}

    async def run() -> None:
        task = asyncio.create_task(attack(address, connections, seen))
        stop = asyncio.create_task(asyncio.to_thread(told_to_stop.recv))
        await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
        if task.done():  # the bridge is gone
            await stop
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())
    told_to_stop.send(seen)


@contextlib.contextmanager
def attackers(address: str, connections: int, kinds: list[str]) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=attack_until_told, args=(address, connections, kinds, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield
        ours.send(None)
        if not ours.poll(20):
            raise RuntimeError("the attack does not end")
        for kind, events in ours.recv().items():
            print(f"   {kind}: {dict(events)}")
    finally:
        process.kill()
        process.join()


class Watch:
    """What is read during the attack: the bridge's memory in MiB, and how long ALİM itself takes, asked without the bridge."""

    def __init__(self, upstream: Upstream, bridge: Bridge, group: Cgroup | None) -> None:
        self.upstream, self.bridge, self.group = upstream, bridge, group
        self.in_group: list[tuple[int, int]] = []
        self.resident: list[float] = []
        self.alim: list[float] = []

    async def memory(self) -> None:
        while True:
            self.resident.append(resident(self.bridge))
            if self.group:
                self.in_group.append(self.group.usage())
            await asyncio.sleep(0.05)

    async def ask_alim(self) -> None:
        while True:
            start = time.monotonic()
            await asyncio.to_thread(self.upstream.seen)
            self.alim.append(time.monotonic() - start)
            await asyncio.sleep(0.1)


async def under_attack(watch: Watch, asked: argparse.Namespace) -> tuple[Counter[str], list[float]]:
    tasks = [asyncio.create_task(watch.memory()), asyncio.create_task(watch.ask_alim())]
    with attackers(watch.bridge.address, asked.connections, asked.kinds):
        await asyncio.sleep(START_SECONDS)
        outcome = await polite(watch.bridge.address, asked.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return outcome


def mib(text: str) -> int:
    """MiB of a size such as 512MiB."""
    return int(text.removesuffix("MiB"))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--limit", type=mib, default=128, help="MEMORY_LIMIT in MiB")
    parser.add_argument("--above", type=int, default=32, help="MiB beyond it that the process may take")
    parser.add_argument("--connections", type=int, default=1, help="hostile connections of each kind")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--cgroup", type=mib, help="MiB of a cgroup for the bridge, in place of MEMORY_LIMIT")
    asked = parser.parse_args()
    with contextlib.ExitStack() as stack:
        group = None
        if asked.cgroup:
            try:
                group = stack.enter_context(cgroup(asked.cgroup * MIB))
                asked.limit = asked.cgroup * 7 // 10
            except Unavailable as error:
                asked.limit = asked.cgroup * 7 // 10
                print(f"no cgroup can be made here ({error}): MEMORY_LIMIT={asked.limit}MiB, and resident memory is watched")
        await measure(asked, group)
    finish()


async def measure(asked: argparse.Namespace, group: Cgroup | None) -> None:
    admin = f"127.0.0.1:{free_port()}"
    settings = {"ADMIN_LISTEN": admin, "ACCESS_LOG": "off"} | ({} if group else {"MEMORY_LIMIT": f"{asked.limit}MiB"})
    with servers(launcher=group.launcher() if group else [], **settings) as (upstream, [bridge]):
        base, watch = resident(bridge), Watch(upstream, bridge, group)
        outcomes, times = await under_attack(watch, asked)
        if group:
            check_cgroup(group, asked.cgroup, max(watch.in_group))
        if (ended := bridge.process.poll()) is not None:
            print(f"polite: {dict(outcomes)}; peak {max(watch.resident):.0f} MiB")
            return check(False, f"the bridge lived: it ended with {ended}")
        begin = time.monotonic()
        while resident(bridge) > base + SETTLED_MIB and time.monotonic() - begin < SETTLE_SECONDS:
            await asyncio.sleep(0.2)
        after, took = resident(bridge), time.monotonic() - begin
        figures, posts = await asyncio.to_thread(metrics, admin), upstream.seen()["posts"]
    state = ("alim_bridge_open_calls", "alim_bridge_open_connections", "alim_bridge_buffered_bytes")
    print("  ", {name: figures[name] for name in state})
    print(f"base {base:.0f} MiB, median {statistics.median(watch.resident):.0f}, peak {max(watch.resident):.0f}; {after:.0f} after {took:.1f} s")
    slow = f"median {statistics.median(times):.3f} s, worst {max(times):.3f} s" if times else "none answered"
    print(f"polite: {dict(outcomes)}; {slow}; ALİM itself at worst {max(watch.alim):.3f} s; it saw {dict(posts)}")
    for name in ("alim_bridge_overload_actions_total", "alim_bridge_failures_total", "grpc_server_handled_total"):
        print("  ", {key.removeprefix(name): value for key, value in figures.items() if key.startswith(name) and value})
    auto = figures["alim_bridge_memory_limit_bytes"] / MIB
    check(asked.limit <= auto < asked.limit + 1, f"the bridge's limit is {asked.limit} MiB, in a cgroup 70 % of its own")
    check(max(watch.resident) < asked.limit + asked.above, f"memory stayed under {asked.limit} + {asked.above} MiB")
    check(after <= base + SETTLED_MIB, f"it was back to base + {SETTLED_MIB} MiB within {SETTLE_SECONDS} s")
    check(outcomes["OK"] >= POLITE_CALLS * 0.9, "at least nine of ten polite calls were answered")
    check(set(outcomes) <= {"OK", "UNAVAILABLE BRIDGE_SATURATED"}, "the others were BRIDGE_SATURATED")
    check(max(times, default=0) < 2 + max(watch.alim), "each within 2 s, and what ALİM itself took")
    check(posts["polite"] == outcomes["OK"], "ALİM ran as many polite calls as were answered")
    reasons = {key.split('"')[1] for key, value in figures.items() if key.startswith("alim_bridge_failures_total") and value}
    unsent, unread = {"BRIDGE_SATURATED", "MESSAGE_TIMEOUT"}, {"CALLER_STALLED"}
    check(reasons <= unsent | unread, "what ALİM ran was delivered, or its caller left or did not read")


def check_cgroup(group: Cgroup, limit: int, peak: tuple[int, int]) -> None:
    held, sockets = (size / MIB for size in peak)
    print(f"the group's peak: {held:.0f} MiB of {limit}, {sockets:.0f} of them in sockets")
    check(group.oom_kills() == 0, "the kernel killed nothing")
    check(held < limit, "the process and its sockets stayed under the group's limit")


if __name__ == "__main__":
    asyncio.run(main())
