"""The cases of a caller in Python with asyncio."""

import asyncio

import grpc
from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub
from alim.v1.thread_service_pb2 import CreateThreadRequest, DeleteThreadRequest, GetThreadRequest
from alim.v1.thread_service_pb2_grpc import ThreadServiceStub
from ask import Failure
from ask_asyncio import connect
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from report import ADDRESS, DRAINING, FULL, MESSAGE, PAID_ONCE, SERVICE, UNREACHING, Call, run, several


class Caller:
    """One case's own channel: it belongs to the loop that it was made in."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.alim = GraphServiceStub(channel)

    def ask(self, call: Call, **options):
        return self.alim.Invoke(InvokeRequest(**call.fields), metadata=call.metadata, **options)

    def stream(self, call: Call, **options):
        return self.alim.Stream(StreamRequest(**call.fields), metadata=call.metadata, **options)

    async def read(self, call: Call, **options):
        return [event async for event in self.stream(call, **options)]


async def failure_of(call) -> Failure:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return Failure.of(error)
    raise AssertionError("it did not fail")


async def invoke(caller: Caller):
    reply = await caller.ask(Call())
    assert reply.response
    assert reply.thread_id


async def stream(caller: Caller):
    *events, last = await caller.read(Call())
    tokens = [event.token.text for event in events if event.HasField("token")]
    assert "".join(tokens) == (await caller.ask(Call())).response
    assert last.done.token_count == len(tokens)


async def deadline(caller: Caller):
    for kind in (caller.ask, caller.read):
        call = Call(("silent",))
        assert (await failure_of(kind(call, timeout=1))).code == StatusCode.DEADLINE_EXCEEDED
        assert call.was_closed()


async def cancel(caller: Caller):
    call = Call(("held",))
    events = caller.stream(call)
    assert (await events.read()).HasField("node")
    events.cancel()
    try:
        await events.read()
    except asyncio.CancelledError:
        assert call.was_closed()
    else:
        raise AssertionError("it was not cancelled")


async def details(caller: Caller):
    failure = await failure_of(caller.alim.Invoke(InvokeRequest(message="", thread_id="../x")))
    assert (failure.code, failure.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert failure.fields == ["message", "thread_id"]


async def retry_info(caller: Caller):
    failure = await failure_of(caller.read(Call(("rate_limited",))))
    assert (failure.code, failure.reason) == (StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED")
    assert failure.retry_after == 1


async def health(caller: Caller):
    for service in ("", SERVICE):
        told = await HealthStub(caller.channel).Check(HealthCheckRequest(service=service), timeout=5)
        assert told.status == HealthCheckResponse.SERVING


async def retry(caller: Caller):
    for kind in (caller.ask, caller.read):
        call = Call(("unavailable_1", "unavailable_1"))
        assert await kind(call)
        assert call.posts() == 3


async def no_retry(caller: Caller):
    for meets, reason in (("failed", "UPSTREAM_FAILED"), ("reset", "UPSTREAM_INTERRUPTED")):
        for kind in (caller.ask, caller.read):
            call = Call((meets,))
            assert (await failure_of(kind(call))).reason == reason
            assert call.posts() == 1


async def paid_runs(caller: Caller):
    for kind in (caller.ask, caller.read):
        for meets in PAID_ONCE:
            call = Call((meets,))
            assert (await failure_of(kind(call, timeout=10))).reason == "UPSTREAM_UNAVAILABLE"
            assert call.posts() == 1, meets
        call = Call(("unavailable_1",))
        assert await kind(call, timeout=10)
        assert call.posts() == 2


async def no_retry_after_event(caller: Caller):
    call = Call(("cut",))
    events = caller.stream(call)
    assert (await events.read()).HasField("node")
    assert (await failure_of(events.read())).code == StatusCode.UNAVAILABLE
    assert call.posts() == 1


async def only_at_the_good_one(caller: Caller):
    for call in [Call() for _ in range(20)]:
        await caller.ask(call)
        assert call.posts() == 1


async def thread(caller: Caller):
    threads = ThreadServiceStub(caller.channel)
    made = await threads.CreateThread(CreateThreadRequest())
    answer = caller.alim.Stream(StreamRequest(message=MESSAGE, thread_id=made.thread_id))
    assert [event async for event in answer][-1].HasField("done")
    assert (await threads.GetThread(GetThreadRequest(thread_id=made.thread_id))).thread_id == made.thread_id
    await threads.DeleteThread(DeleteThreadRequest(thread_id=made.thread_id))
    failure = await failure_of(threads.GetThread(GetThreadRequest(thread_id=made.thread_id)))
    assert (failure.code, failure.reason) == (StatusCode.NOT_FOUND, "UPSTREAM_NOT_FOUND")
    answer = caller.alim.Stream(StreamRequest(message=MESSAGE, start_thread=True))
    last = [event async for event in answer][-1].done
    assert (await threads.GetThread(GetThreadRequest(thread_id=last.thread_id))).thread_id == last.thread_id


async def on(target, case):
    async with connect(*target) as channel:
        await case(Caller(channel))


for case in (invoke, stream, deadline, cancel, details, retry_info, health, retry, no_retry, no_retry_after_event):
    run(case.__name__.replace("_", "-"), lambda case=case: asyncio.run(on([ADDRESS], case)))
run("paid-runs", lambda: asyncio.run(on([ADDRESS], paid_runs)))
run("full-bridge", lambda: asyncio.run(on(several(FULL, ADDRESS), only_at_the_good_one)))
run("thread", lambda: asyncio.run(on([ADDRESS], thread)))
run("balance", lambda: asyncio.run(on(several(UNREACHING, ADDRESS), only_at_the_good_one)))
run("drain", lambda: asyncio.run(on(several(DRAINING, ADDRESS), only_at_the_good_one)))
