"""A light upstream for these tests, on real uvicorn and its keep-alive of 5.0 s: it answers at the pace it is told to,
and counts how often each message was posted and how long a connection had been idle when it was used again.

    python -m upstream [CERT KEY]  # in this folder; prints the address once it answers; with TLS if it has a certificate
"""

import asyncio
import json
import socket
import sys
import time
from collections import Counter

import uvicorn

THREAD = "01a20443-d4c5-7483-899c-61f7c3ac97e9"
FLOOD_PIECE = 128 * 1024  # so that thousands of floods leave a turn to other calls
KEPT_SECONDS = 5.5  # idle for longer, it is another connection from the same port
posts: Counter[str] = Counter()
idle_since: dict[tuple[str, int], float] = {}
opened: Counter[tuple[str, int]] = Counter()
reused_after: list[float] = []


async def app(scope, receive, send) -> None:
    if scope["type"] == "lifespan":
        return await answer_lifespan(receive, send)
    if scope["method"] == "GET":
        return await answer_json(send, {"posts": posts, "connections": opened.total(), "reused_after": reused_after})
    connection = tuple(scope["client"])
    idle = time.monotonic() - idle_since.get(connection, 0)
    if idle < KEPT_SECONDS:
        reused_after.append(round(idle, 3))
    else:
        opened[connection] += 1
    asked = json.loads(await read(receive))
    posts[asked["message"]] += 1
    pace = asked.get("scenario_context", {})
    if "flood" in pace:
        await flood(receive, send, int(pace["flood"]))
    elif scope["path"].endswith("/stream"):
        await answer_stream(send, int(pace["tokens"]), pace["gap"])
    elif "bytes" in pace:
        await answer_json(send, {"response": "x" * int(pace["bytes"]), "thread_id": THREAD, "model": "none"})
    else:
        await asyncio.sleep(pace["hold"])
        await answer_json(send, {"response": asked["message"], "thread_id": THREAD, "model": "none"})
    idle_since[connection] = time.monotonic()


async def read(receive) -> bytes:
    body, more = b"", True
    while more:
        part = await receive()
        body, more = body + part.get("body", b""), part.get("more_body", False)
    return body


async def answer_json(send, body) -> None:
    body = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_stream(send, tokens: int, gap: float) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for token in range(tokens):
        await asyncio.sleep(gap)
        event = f"event: token\ndata: {token} \n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"event: done\ndata: [DONE]\n\n"})


async def flood(receive, send, size: int) -> None:
    """Events of so many bytes, as fast as they are taken, until the caller leaves."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    left = asyncio.create_task(receive())
    event = b"event: token\ndata: " + b"x" * size + b"\n\n"
    pieces = [event[at : at + FLOOD_PIECE] for at in range(0, len(event), FLOOD_PIECE)]
    while not left.done():
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)


async def answer_lifespan(receive, send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


class Server(uvicorn.Server):
    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        print(f"listening on {'https' if self.config.is_ssl else 'http'}://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


if __name__ == "__main__":
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    tls = dict(zip(("ssl_certfile", "ssl_keyfile"), sys.argv[1:]))
    Server(uvicorn.Config(app, log_level="critical", http="httptools", backlog=4096, **tls)).run(sockets=[listener])
