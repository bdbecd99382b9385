"""Calls by asyncio, each with a message of its own, and what became of it: "OK", or code and reason."""

from google.rpc.error_details_pb2 import ErrorInfo
import grpc
from grpc_status import rpc_status

from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub

CALL_SECONDS = 60


async def invoke(stub: GraphServiceStub, message: str, hold: float) -> str:
    try:
        reply = await stub.Invoke(InvokeRequest(message=message, scenario_context={"hold": hold}), timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        return told(error)
    return "OK" if reply.response == message else "another's answer"


async def stream(stub: GraphServiceStub, message: str, tokens: int, gap: float) -> str:
    pace = {"tokens": tokens, "gap": gap}
    text, ended = "", False
    try:
        async for event in stub.Stream(StreamRequest(message=message, scenario_context=pace), timeout=CALL_SECONDS):
            text += event.token.text
            ended = event.HasField("done")
    except grpc.aio.AioRpcError as error:
        return f"{told(error)}{' inside' if text else ''}"
    whole = text == "".join(f"{token} " for token in range(tokens))
    return "OK" if ended and whole else "not whole"


def told(error: grpc.aio.AioRpcError) -> str:
    """A status without a reason of ours is not the bridge's: the connection broke, or the client gave up."""
    rich = rpc_status.from_call(error)
    info = ErrorInfo()
    if rich and any(packed.Unpack(info) for packed in rich.details):
        return f"{error.code().name} {info.reason}"
    return f"{error.code().name} RESET ({error.details()[:120]})"
