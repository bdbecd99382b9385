"""Asks ALİM and prints the answer while it is made: python ask.py 127.0.0.1:50051 "Nə vaxt suvarım?" """

import sys
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from alim.v1 import graph_service_pb2, graph_service_pb2_grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

# Published beside the .proto: balancing, timeouts, and retries of what can't have run.
SERVICE_CONFIG = Path(graph_service_pb2.__file__).with_name("service_config.json").read_text()


def connect(target: str, *options: tuple[str, str]) -> grpc.Channel:
    return grpc.insecure_channel(target, [("grpc.service_config", SERVICE_CONFIG), *options])


@dataclass
class Failure:
    """What a status says, in its details too."""

    code: grpc.StatusCode
    message: str
    reason: str = ""  # stable: docs/errors.md lists them
    fields: list[str] = field(default_factory=list)  # of the request, that break a rule
    retry_after: float | None = None  # seconds

    @classmethod
    def of(cls, error: grpc.RpcError) -> "Failure":
        failure = cls(error.code(), error.details())
        status = rpc_status.from_call(error)
        for detail in status.details if status else []:
            if detail.Unpack(info := ErrorInfo()):
                failure.reason = info.reason
            elif detail.Unpack(bad := BadRequest()):
                failure.fields = [violation.field for violation in bad.field_violations]
            elif detail.Unpack(retry := RetryInfo()):
                failure.retry_after = retry.retry_delay.ToMilliseconds() / 1000
        return failure


def main(target: str, message: str) -> None:
    with connect(target) as channel:
        alim = graph_service_pb2_grpc.GraphServiceStub(channel)
        try:
            for event in alim.Stream(graph_service_pb2.StreamRequest(message=message), timeout=60):
                if event.HasField("token"):
                    print(event.token.text, end="", flush=True)
            print()
        except grpc.RpcError as error:
            sys.exit(f"{Failure.of(error)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
