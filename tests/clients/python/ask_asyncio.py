"""As ask.py, with asyncio: python ask_asyncio.py 127.0.0.1:50051 "Nə vaxt suvarım?" """

import asyncio
import sys

import grpc
from alim.v1 import graph_service_pb2, graph_service_pb2_grpc
from ask import SERVICE_CONFIG, Failure


def connect(target: str, *options: tuple[str, str]) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(target, [("grpc.service_config", SERVICE_CONFIG), *options])


async def main(target: str, message: str) -> None:
    async with connect(target) as channel:
        alim = graph_service_pb2_grpc.GraphServiceStub(channel)
        try:
            async for event in alim.Stream(graph_service_pb2.StreamRequest(message=message), timeout=60):
                if event.HasField("token"):
                    print(event.token.text, end="", flush=True)
            print()
        except grpc.aio.AioRpcError as error:
            sys.exit(f"{Failure.of(error)}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
