"""The reference backend with its engine gone, and with its rate limit on: what a caller of the bridge is told.

    run outage
"""

import asyncio
import socket
import subprocess
import sys
import time

import grpc
from asking import invoke, stream
from processes import HERE, Bridge, check, finish, first_line

from alim.v1.graph_service_pb2_grpc import GraphServiceStub

CALLS_A_MINUTE = 2


class Reference:
    """As the other upstreams, with an engine whose port is taken and where nobody listens."""

    def __init__(self, gone: socket.socket) -> None:
        gone.bind(("127.0.0.1", 0))
        engine = f"http://127.0.0.1:{gone.getsockname()[1]}"
        command = [sys.executable, "-m", "app", "--port", "0", "--engine", engine, "--rate-limit", str(CALLS_A_MINUTE)]
        self.process = subprocess.Popen(command, cwd=HERE.parent / "reference", stdout=subprocess.PIPE, text=True)
        self.url = first_line(self.process)


async def run(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub, begin = GraphServiceStub(channel), time.monotonic()
        told = await asyncio.gather(invoke(stub, "a", 0), stream(stub, "b", 1, 0))
        check(told[0] == "INTERNAL UPSTREAM_FAILED", f"an invoke without an engine: {told[0]}")
        check(told[1] == "INTERNAL UPSTREAM_STREAM_FAILED", f"a stream without an engine: {told[1]}")
        check(time.monotonic() - begin > 5, "both took as long as the backend tries to reach it")
        for told in (await invoke(stub, "c", 0), await stream(stub, "d", 1, 0)):
            check(told == "RESOURCE_EXHAUSTED UPSTREAM_RATE_LIMITED", f"over the rate limit: {told}")


def main() -> None:
    with socket.socket() as gone:
        reference = Reference(gone)
        try:
            bridge = Bridge(reference, UPSTREAM_API_KEY="dev-api-key-change-in-production")
            try:
                asyncio.run(run(bridge.address))
            finally:
                bridge.kill()
        finally:
            reference.process.kill()
            reference.process.wait()
    finish()


if __name__ == "__main__":
    main()
