"""The cases of a caller in Python."""

from contextlib import contextmanager

import grpc
from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub
from alim.v1.thread_service_pb2 import CreateThreadRequest, DeleteThreadRequest, GetThreadRequest, Thread
from alim.v1.thread_service_pb2_grpc import ThreadServiceStub
from ask import Failure, connect
from google.protobuf.json_format import MessageToDict
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from report import ADDRESS, DRAINING, FULL, MESSAGE, PAID_ONCE, SERVICE, UNREACHING, Call, run, several

channel = connect(ADDRESS)
alim = GraphServiceStub(channel)


def ask(call: Call, on: GraphServiceStub = alim, **options):
    return on.Invoke(InvokeRequest(**call.fields), metadata=call.metadata, **options)


def ask_stream(call: Call, **options):
    return alim.Stream(StreamRequest(**call.fields), metadata=call.metadata, **options)


@contextmanager
def fails(code: StatusCode, reason: str | None = None):
    try:
        yield
    except grpc.RpcError as error:
        failure = Failure.of(error)
        assert failure.code == code, failure
        assert reason in (failure.reason, None), failure
    else:
        raise AssertionError(f"no {code}")


def invoke():
    reply = ask(Call())
    assert reply.response
    assert reply.thread_id


def stream():
    *events, last = ask_stream(Call())
    tokens = [event.token.text for event in events if event.HasField("token")]
    assert "".join(tokens) == ask(Call()).response
    assert any(event.node.name for event in events)
    assert last.done.token_count == len(tokens)


def deadline():
    for kind in (ask, lambda call, **options: list(ask_stream(call, **options))):
        call = Call(("silent",))
        with fails(StatusCode.DEADLINE_EXCEEDED):
            kind(call, timeout=1)
        assert call.was_closed()


def cancel():
    call = Call(("held",))
    events = ask_stream(call)
    assert next(events).HasField("node")
    events.cancel()
    with fails(StatusCode.CANCELLED):
        next(events)
    assert call.was_closed()


def details():
    for method, request in (
        (alim.Invoke, InvokeRequest(message="", thread_id="../x")),
        (lambda request: list(alim.Stream(request)), StreamRequest(message="", thread_id="../x")),
    ):
        try:
            method(request)
        except grpc.RpcError as error:
            failure = Failure.of(error)
        assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert failure.fields == ["message", "thread_id"]


def retry_info():
    call = Call(("rate_limited",))
    try:
        ask(call)
    except grpc.RpcError as error:
        failure = Failure.of(error)
    assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED")
    assert failure.retry_after == 1
    assert call.posts() == 1


def health():
    for service in ("", SERVICE):
        told = HealthStub(channel).Check(HealthCheckRequest(service=service), timeout=5)
        assert told.status == HealthCheckResponse.SERVING


def retry():
    call = Call(("unavailable_1", "unavailable_1"))
    assert ask(call).response
    assert call.posts() == 3
    call = Call(("unavailable_1", "unavailable_1"))
    assert list(ask_stream(call))[-1].HasField("done")
    assert call.posts() == 3


def no_retry():
    for meets, code, reason in (
        ("failed", StatusCode.INTERNAL, "UPSTREAM_FAILED"),
        ("reset", StatusCode.UNAVAILABLE, "UPSTREAM_INTERRUPTED"),
    ):
        for kind in (ask, lambda call: list(ask_stream(call))):
            call = Call((meets,))
            with fails(code, reason):
                kind(call)
            assert call.posts() == 1


def no_retry_after_event():
    call = Call(("cut",))
    events = ask_stream(call)
    assert next(events).HasField("node")
    with fails(StatusCode.UNAVAILABLE):
        next(events)
    assert call.posts() == 1


def paid_runs():
    """ALİM is paid a second time only where Retry-After asked for it."""
    for kind in (ask, lambda call, **options: list(ask_stream(call, **options))):
        for meets in PAID_ONCE:
            call = Call((meets,))
            with fails(StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE"):
                kind(call, timeout=10)
            assert call.posts() == 1, meets
        call = Call(("unavailable_1",))
        assert kind(call, timeout=10)
        assert call.posts() == 2


def full_bridge():
    """A full bridge sends its calls to the free one, every one."""
    with connect(*several(FULL, ADDRESS)) as both:
        for call in [Call() for _ in range(20)]:
            ask(call, GraphServiceStub(both))
            assert call.posts() == 1


def balance():
    """What one bridge can't do, the policy's next attempt finds at the other."""
    with connect(*several(UNREACHING, ADDRESS)) as both:
        for call in [Call() for _ in range(4)]:
            ask(call, GraphServiceStub(both))
            assert call.posts() == 1


def drain():
    """A bridge that is NOT_SERVING gets no calls."""
    with connect(*several(DRAINING, ADDRESS)) as both:
        for call in [Call() for _ in range(6)]:
            ask(call, GraphServiceStub(both))
            assert call.posts() == 1


def thread():
    threads, call = ThreadServiceStub(channel), Call(("unavailable_1",))
    made = threads.CreateThread(CreateThreadRequest(thread=Thread(metadata=call.context)), metadata=call.metadata)
    assert call.posts() == 2
    *_, last = alim.Stream(StreamRequest(message=MESSAGE, thread_id=made.thread_id))
    assert last.HasField("done")
    assert alim.Invoke(InvokeRequest(message=MESSAGE, thread_id=made.thread_id)).thread_id == made.thread_id
    found = threads.GetThread(GetThreadRequest(thread_id=made.thread_id))
    assert MessageToDict(found.metadata)["witness"] == ["unavailable_1"]  # ALİM may add words of its own
    threads.DeleteThread(DeleteThreadRequest(thread_id=made.thread_id))
    with fails(StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND"):
        threads.GetThread(GetThreadRequest(thread_id=made.thread_id))
    answer = alim.Stream(StreamRequest(message=MESSAGE, start_thread=True))
    named = dict(answer.initial_metadata())["x-thread-id"]
    *_, last = answer
    assert last.done.thread_id == named == threads.GetThread(GetThreadRequest(thread_id=named)).thread_id


for case in (invoke, stream, deadline, cancel, details, retry_info, health, retry, no_retry, no_retry_after_event):
    run(case.__name__.replace("_", "-"), case)
for case in (paid_runs, full_bridge, balance, drain, thread):
    run(case.__name__.replace("_", "-"), case)
channel.close()
