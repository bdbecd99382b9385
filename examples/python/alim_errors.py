"""The failure of a call to ALİM, as an exception with all that the bridge says about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from grpc_status import rpc_status


@dataclass
class AlimError(Exception):
    """A call that did not end with OK. Its `__cause__` is the library's own error."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    """Stable, such as UPSTREAM_RATE_LIMITED. Empty if the library ended the call by itself."""
    fields: dict[str, str] = field(default_factory=dict)
    """The fields of the request that are not valid, each with what is wrong."""
    retry_after: float | None = None
    """In seconds. If it is set, ask again after this time."""
    sent: bool | None = None
    """Whether ALİM may have seen the question. None if unknown: treat it as true."""
    events_delivered: int | None = None
    """How many events a stream had delivered."""
    request_id: str = ""
    """Look for it in the bridge's log."""

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.message}"

    @classmethod
    def of(cls, error: grpc.RpcError) -> "AlimError":
        failure = cls(error.code(), error.details() or "")
        # A stream that had begun says its id at the start, any other call at its end.
        metadata = {**dict(error.initial_metadata() or ()), **dict(error.trailing_metadata() or ())}
        failure.request_id = metadata.get("x-request-id", "")
        status = rpc_status.from_call(error)
        for detail in status.details if status else ():
            if detail.Unpack(info := ErrorInfo()) and info.domain == "alim-bridge":
                failure.reason = info.reason
                if "sent" in info.metadata:
                    failure.sent = info.metadata["sent"] == "true"
                if "eventsDelivered" in info.metadata:
                    failure.events_delivered = int(info.metadata["eventsDelivered"])
            elif detail.Unpack(bad := BadRequest()):
                failure.fields = {it.field: it.description for it in bad.field_violations}
            elif detail.Unpack(retry := RetryInfo()):
                failure.retry_after = retry.retry_delay.ToMilliseconds() / 1000
        return failure


@contextmanager
def alim_errors() -> Iterator[None]:
    """Raises an AlimError in place of the library's error, for calls of either kind and for reading a stream."""
    try:
        yield
    except grpc.RpcError as error:
        raise AlimError.of(error) from error
