"""A bridge on grpc.aio and aiohttp, under uvloop: `bridge.py UPSTREAM_URL`.

Tuned as their docs say: one session for all calls, no limit of connections, no total timeout for streams, TCP_NODELAY
(aiohttp's default), and whole reads split here, which costs less than aiohttp's line by line.
"""

import asyncio
import sys

import aiohttp
import grpc
import uvloop
from alim.v1 import graph_service_pb2 as pb
from alim.v1 import graph_service_pb2_grpc as rpc

KEY = {"x-api-key": "dev-api-key-change-in-production"}


class Bridge(rpc.GraphServiceServicer):
    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self.session = session
        self.base = base

    async def Invoke(self, request, context):
        async with self.session.post(f"{self.base}/graph/invoke", json={"message": request.message}) as answer:
            if answer.status != 200:
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"upstream said {answer.status}")
            reply = await answer.json()
            return pb.InvokeResponse(
                response=reply["response"], thread_id=reply["thread_id"], model=reply.get("model") or ""
            )

    async def Stream(self, request, context):
        async with self.session.post(f"{self.base}/graph/stream", json={"message": request.message}) as answer:
            if answer.status != 200:
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"upstream said {answer.status}")
            tokens = 0
            async for kind, data in events(answer.content):
                if kind == "token":
                    tokens += 1
                    yield pb.StreamResponse(token=pb.Token(text=data))
                elif kind == "node":
                    yield pb.StreamResponse(node=pb.Node(name=data))
                elif kind == "done":
                    yield pb.StreamResponse(done=pb.Done(token_count=tokens))
                    return
                else:
                    yield pb.StreamResponse(other=pb.Other(type=kind, data=data))


async def events(content: aiohttp.StreamReader):
    """The events of a body whose lines end with LF, as ALİM's do."""
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            kind, data = "message", []
            for line in event.decode("utf-8", "replace").split("\n"):
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if name == "event":
                    kind = value
                elif name == "data":
                    data.append(value)
            yield kind, "\n".join(data)


async def main(base: str) -> None:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=3)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=KEY) as session:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        rpc.add_GraphServiceServicer_to_server(Bridge(session, base), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(f"aiohttp listening on 127.0.0.1:{port}", flush=True)
        await server.wait_for_termination()


uvloop.run(main(sys.argv[1]))
