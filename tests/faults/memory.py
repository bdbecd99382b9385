"""The bridge's memory under callers who don't behave, beside one who does: MEMORY_LIMIT must hold, the polite caller must be
answered, and nothing that was paid for may be thrown away for lack of room.

    run memory [--seconds 60] [--limit 128] [--above 32]

The hostile callers: two connections that keep 40 unfinished messages of 4 MiB each, two that keep 40 unread replies of 3 MiB
each (one without HTTP/2 windows, one that does not read its socket), and one with 200 streams and the largest windows that does not
read either, while ALİM sends events of 1 MiB as fast as they are taken.
"""

import argparse
import asyncio
import contextlib
import statistics
import struct
import time
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from asking import told
from google.protobuf.struct_pb2 import Struct
from processes import Bridge, check, finish, free_port, servers

from alim.v1.graph_service_pb2 import InvokeRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub

MIB = 1 << 20
MESSAGE = 4 * MIB - 64
PREFIX = b"\0" + struct.pack(">I", MESSAGE)
REPLY = 3 * MIB
LARGEST_WINDOW = 2**31 - 1
INVOKE, STREAM = "/alim.v1.GraphService/Invoke", "/alim.v1.GraphService/Stream"
POLITE_CALLS = 50
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
    """proc(5), VmRSS, in MiB."""
    lines = Path(f"/proc/{bridge.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def metrics(admin: str) -> dict[str, float]:
    text = urllib.request.urlopen(f"http://{admin}/metrics", timeout=20).read().decode()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


async def polite(address: str, seconds: float) -> tuple[Counter[str], list[float]]:
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


async def attack(bridge: Bridge, seconds: float, peaks: list[float]) -> tuple[Counter[str], list[float]]:
    seen = {kind: Counter() for kind in ("unfinished", "unread", "unread socket", "flood")}

    async def hostile() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(keep(Unfinished, seen["unfinished"]))
            group.create_task(keep(Unread, seen["unread"]))
            unread = unread_socket(bridge.address, INVOKE, 40, question("unread", bytes=REPLY), seen["unread socket"])
            group.create_task(unread)
            flood = unread_socket(bridge.address, STREAM, 200, question("flood", flood=MIB - 64), seen["flood"])
            group.create_task(flood)

    async def keep(kind: type[Hostile], events: Counter[str]) -> None:
        while True:
            await kind(40, events).run(bridge.address)

    async def watch() -> None:
        while True:
            peaks.append(resident(bridge))
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(hostile()), asyncio.create_task(watch())]
    await asyncio.sleep(2)
    outcome = await polite(bridge.address, seconds)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(ended, asyncio.CancelledError):
            raise RuntimeError("the attack ended by itself") from ended
    for kind, events in seen.items():
        print(f"   {kind}: {dict(events)}")
    return outcome


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--limit", type=int, default=128, help="MEMORY_LIMIT in MiB")
    parser.add_argument("--above", type=int, default=32, help="MiB beyond it that the process may take")
    asked = parser.parse_args()
    admin = f"127.0.0.1:{free_port()}"
    with servers(MEMORY_LIMIT=f"{asked.limit}MiB", ADMIN_LISTEN=admin, ACCESS_LOG="off") as (upstream, [bridge]):
        base, peaks = resident(bridge), []
        outcomes, times = await attack(bridge, asked.seconds, peaks)
        begin = time.monotonic()
        while resident(bridge) > base + SETTLED_MIB and time.monotonic() - begin < SETTLE_SECONDS:
            await asyncio.sleep(0.2)
        after, took = resident(bridge), time.monotonic() - begin
        figures, posts = await asyncio.to_thread(metrics, admin), upstream.seen()["posts"]
    state = ("alim_bridge_open_calls", "alim_bridge_open_connections", "alim_bridge_buffered_bytes")
    print("  ", {name: figures[name] for name in state})
    print(f"base {base:.0f} MiB, median {statistics.median(peaks):.0f}, peak {max(peaks):.0f}; {after:.0f} after {took:.1f} s")
    print(f"polite: {dict(outcomes)}; median {statistics.median(times):.3f} s, worst {max(times):.3f} s; ALİM saw {dict(posts)}")
    for name in ("alim_bridge_overload_actions_total", "alim_bridge_failures_total", "grpc_server_handled_total"):
        print("  ", {key.removeprefix(name): value for key, value in figures.items() if key.startswith(name) and value})
    check(max(peaks) < asked.limit + asked.above, f"memory stayed under {asked.limit} + {asked.above} MiB")
    check(after <= base + SETTLED_MIB, f"it was back to base + {SETTLED_MIB} MiB within {SETTLE_SECONDS} s")
    check(outcomes["OK"] >= POLITE_CALLS * 0.9, "at least nine of ten polite calls were answered")
    check(set(outcomes) <= {"OK", "UNAVAILABLE BRIDGE_SATURATED"}, "the others were BRIDGE_SATURATED")
    check(max(times) < 2, "each within 2 s")
    check(posts["polite"] == outcomes["OK"], "ALİM ran as many polite calls as were answered")
    reasons = {key.split('"')[1] for key, value in figures.items() if key.startswith("alim_bridge_failures_total") and value}
    unsent, unread = {"BRIDGE_SATURATED", "MESSAGE_TIMEOUT"}, {"CALLER_STALLED"}
    check(reasons <= unsent | unread, "what ALİM ran was delivered, or its caller left or did not read")
    finish()


if __name__ == "__main__":
    asyncio.run(main())
