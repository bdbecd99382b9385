"""A call by grpcio, with all that the bridge says of its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub

CALL_SECONDS = 30.0


@dataclass
class Ended:
    code: str = "OK"
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    pushback: str | None = None
    message: str = ""
    text: str = ""
    events: int = 0
    is_done: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.code} {self.reason} after {self.seconds:.2f} s and {self.events} events; {self.metadata} {self.message}"


def fail(ended: Ended, error: grpc.RpcError) -> None:
    ended.code, ended.message = error.code().name, error.details() or ""
    ended.pushback = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
    rich, info = rpc_status.from_call(error), ErrorInfo()
    if rich and any(packed.Unpack(info) for packed in rich.details):
        ended.reason, ended.metadata = info.reason, dict(info.metadata)


def invoke(stub: GraphServiceStub, message: str, timeout: float = CALL_SECONDS, **pace: Any) -> Ended:
    ended, begin = Ended(), time.monotonic()
    try:
        reply = stub.Invoke(InvokeRequest(message=message, scenario_context=pace), timeout=timeout)
        ended.text, ended.is_done = reply.response, True
    except grpc.RpcError as error:
        fail(ended, error)
    ended.seconds = time.monotonic() - begin
    return ended


def stream(
    stub: GraphServiceStub, message: str, timeout: float = CALL_SECONDS, inside: Callable[[], object] | None = None, **pace: Any
) -> Ended:
    """Reads a stream to its end. `inside` runs after its third event, and the time is counted from there."""
    ended, begin = Ended(), time.monotonic()
    try:
        for event in stub.Stream(StreamRequest(message=message, scenario_context=pace), timeout=timeout):
            ended.events += 1
            ended.text += event.token.text
            ended.is_done = event.HasField("done")
            if inside and ended.events == 3:
                inside()
                begin = time.monotonic()
    except grpc.RpcError as error:
        fail(ended, error)
    ended.seconds = time.monotonic() - begin
    return ended
