"""Stands between a bridge and its upstream: counts what is sent, and lets attempts fail as an upstream can't.

A call is known by its x-request-id, which a caller's retries share. `{"witness": ["reset"]}` in `scenario_context`, or in
a thread's metadata, names what its first attempt meets, then its second and so on; an attempt that no word is left for
reaches the upstream.

    unavailable   503 with the HTML page of a proxy, without Retry-After; unavailable_0, _1, _30 and _past have that Retry-After
    rate_limited  429 with Retry-After: 1
    failed        500 with FastAPI's detail
    reset         the connection is reset once the request has been read
    silent        no answer
    accepted      the head of the upstream's answer, then nothing
    held          the upstream's answer up to its first event, then nothing
    cut           the same, then a reset

`GET /seen/ID` answers {"posts": ..., "closed": ...}: how often the call was sent, and how often the bridge hung up
before the answer was whole. `GET /closed/ID` answers the same once the bridge has hung up, or after 5 s.
"""

import asyncio
import json
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

PAGE = "<html><h1>503 Service Temporarily Unavailable</h1></html>"
ANSWERS = {
    "unavailable": ("503 Service Unavailable", "content-type: text/html", PAGE),
    "unavailable_0": ("503 Service Unavailable", "retry-after: 0", PAGE),
    "unavailable_1": ("503 Service Unavailable", "retry-after: 1", PAGE),
    "unavailable_30": ("503 Service Unavailable", "retry-after: 30", PAGE),
    "unavailable_past": ("503 Service Unavailable", "retry-after: Sun, 06 Nov 1994 08:49:37 GMT", PAGE),
    "rate_limited": ("429 Too Many Requests", "retry-after: 1", '{"detail": "Rate limit exceeded"}'),
    "failed": ("500 Internal Server Error", "content-type: application/json", '{"detail": "Graph execution failed"}'),
}


@dataclass
class Call:
    posts: int = 0
    closed: int = 0


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def to(self, host: str) -> bytes:
        """The request as the upstream gets it: the same, on a connection of its own."""
        headers = self.headers | {"host": host, "connection": "close"}
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


async def read_request(reader: StreamReader) -> Request:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body)


def answer(status: str, header: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\n{header}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return (head + body).encode()


def reset(writer: StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)  # with no time to linger, closing is a reset
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


class Witness:
    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.calls: defaultdict[str, Call] = defaultdict(Call)

    def plan(self, request: Request) -> list[str]:
        """What the attempts of the request's call meet, one after the other."""
        body = json.loads(request.body or b"{}")
        context = body.get("scenario_context") or body.get("metadata") or {}
        return context.get("witness", [])

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        # A health probe opens a connection and says nothing; a cancelled call's may be gone at any time.
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            request = await read_request(reader)
            if request.path.startswith(("/seen/", "/closed/")):
                writer.write(await self.tell(request.path))
            else:
                await self.attend(request, reader, writer)
        with suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    async def tell(self, path: str) -> bytes:
        _, question, name = path.split("/")
        call = self.calls[name]
        if question == "closed":
            with suppress(TimeoutError):
                async with asyncio.timeout(5):
                    while not call.closed:
                        await asyncio.sleep(0.01)
        return answer("200 OK", "content-type: application/json", json.dumps(asdict(call)))

    async def attend(self, request: Request, reader: StreamReader, writer: StreamWriter) -> None:
        """One attempt, until it is answered or the bridge hangs up."""
        call, meets = self.calls[request.headers.get("x-request-id", "")], ""
        if request.method == "POST":
            meets = (self.plan(request)[call.posts :] or [""])[0]
            call.posts += 1
        answering = asyncio.create_task(self.meet(meets, request, writer))
        leaving = asyncio.create_task(reader.read(1))
        done, pending = await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        if answering in done:
            answering.result()
        else:
            call.closed += 1

    async def meet(self, meets: str, request: Request, writer: StreamWriter) -> None:
        if meets in ANSWERS:
            writer.write(answer(*ANSWERS[meets]))
        elif meets == "reset":
            reset(writer)
        elif meets == "silent":
            await asyncio.Event().wait()
        else:
            await self.pass_on(meets, request, writer)
        await writer.drain()

    async def pass_on(self, meets: str, request: Request, writer: StreamWriter) -> None:
        reader, upstream = await asyncio.open_connection(self.upstream.hostname, self.upstream.port)
        try:
            upstream.write(request.to(self.upstream.netloc))
            if meets in ("accepted", "held", "cut"):
                writer.write(await reader.readuntil(b"\r\n\r\n"))
                if meets == "accepted":
                    await writer.drain()
                    await asyncio.Event().wait()
                writer.write(await reader.readuntil(b"\n\n\r\n"))  # the first event, which is a chunk of its own
                await writer.drain()
                await (asyncio.Event().wait() if meets == "held" else asyncio.sleep(0.1))  # else it may overtake
                return reset(writer)
            while (piece := await reader.read(1 << 16)) and not writer.is_closing():
                writer.write(piece)
                await writer.drain()
        finally:
            upstream.close()


@contextmanager
def witness(upstream: str) -> Iterator[str]:
    """Runs a witness in front of that upstream; gives its URL."""
    with running(Witness(upstream)) as url:
        yield url


@contextmanager
def running(attentive: Witness) -> Iterator[str]:
    """Runs that witness in a thread of its own; gives its URL."""
    started: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(attentive.serve, "127.0.0.1", 0)
        started.set_result((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
        async with server:
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    port, loop, stop = started.result(timeout=10)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
