"""A status as a caller in Python reads it: code, reason, details, trailers."""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status

Detail = TypeVar("Detail", bound=Message)


class Failure:
    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        self.trailers: dict[str, Any] = dict(error.trailing_metadata())
        self.trailers_only: bool = not error.initial_metadata()
        # from_call refuses a status whose rich form tells another code or message than its plain one. There is
        # no rich form where the caller's own clock was first to end the call.
        rich = rpc_status.from_call(error)
        self._details = rich.details if rich else []

    def detail(self, kind: type[Detail]) -> Detail | None:
        found = kind()
        return found if any(packed.Unpack(found) for packed in self._details) else None

    @property
    def reason(self) -> str:
        info = self.detail(ErrorInfo)
        assert info and info.domain == "alim-bridge"
        return info.reason

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.detail(BadRequest).field_violations]

    @property
    def pushback_ms(self) -> int | None:
        value = self.trailers.get("grpc-retry-pushback-ms")
        return None if value is None else int(value)

    @property
    def retry_delay_ms(self) -> int | None:
        retry = self.detail(RetryInfo)
        return None if retry is None else retry.retry_delay.ToMilliseconds()


def failure_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> Failure:
    """Makes a call of either kind, which must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        answer = call(*arguments, **options)
        list(answer) if isinstance(answer, grpc.RpcContext) else answer
    return Failure(raised.value)
