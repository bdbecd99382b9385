"""What a caller in Python, and one with grpcurl, sees of the bridge."""

import asyncio
import json

import grpc
import pytest
from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub
from failure import failure_of
from google.protobuf.json_format import MessageToDict
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "alim.v1.GraphService"
SERVICES = {SERVICE, "grpc.health.v1.Health"}
INVOKE, STREAM = f"/{SERVICE}/Invoke", f"/{SERVICE}/Stream"
NO_UUID = "../runs/stream?a="


def text(events):
    return "".join(event.token.text for event in events)


# Whole answers


def test_invoke_carries_every_field_both_ways(bridge_to_reference, reference):
    fields = {
        "message": "Nə vaxt suvarım?",
        "user_id": "fermer-7",
        "farm_id": "ferma-1",
        "language": "az",
        "system_prompt_override": "Qısa yaz.",
        "scenario_context": {"crop": "pambıq", "hectares": 2.5, "irrigated": False, "plots": [1, 2], "note": None},
    }
    thread_id = bridge_to_reference.stub.Invoke(InvokeRequest(message="Salam")).thread_id
    reply = bridge_to_reference.stub.Invoke(InvokeRequest(thread_id=thread_id, **fields))
    assert reference.calls()["last_body"] == fields | {"thread_id": thread_id}
    assert reply.response.startswith("Salam, fermer!\n")
    assert reply.thread_id == thread_id
    assert reply.model == "llama-3.3-70b-versatile"
    assert MessageToDict(reply.metadata) == {
        "nodes_visited": ["supervisor", "retrieve_weather", "agronomist"],
        "intent": "irrigation",
    }


def test_fields_that_are_unset_or_empty_are_left_out(bridge_to_reference, reference):
    bridge_to_reference.stub.Invoke(InvokeRequest(message="Salam", user_id="", thread_id=""))
    assert reference.calls()["last_body"] == {"message": "Salam"}


def test_invoke_continues_a_thread(bridge):
    first = bridge.stub.Invoke(bridge.invoke_request())
    second = bridge.stub.Invoke(bridge.invoke_request(thread_id=first.thread_id))
    assert first.thread_id
    assert second.thread_id == first.thread_id


def test_a_compressed_request_is_understood(bridge):
    assert bridge.stub.Invoke(bridge.invoke_request(), compression=grpc.Compression.Gzip).response


# Streams


def test_a_stream_tells_nodes_and_text_and_ends_with_one_done(bridge):
    events = list(bridge.stub.Stream(bridge.stream_request()))
    kinds = [event.WhichOneof("event") for event in events]
    done = events[-1].done
    assert kinds.count("done") == 1
    assert kinds[-1] == "done"
    assert "node" in kinds
    assert all(event.node.name for event in events if event.HasField("node"))
    assert done.token_count == kinds.count("token")
    assert done.character_count == len(text(events))
    assert 0 < done.time_to_first_token.ToNanoseconds() <= done.duration.ToNanoseconds()


def test_a_streams_text_is_the_text_that_invoke_answers(bridge):
    whole = bridge.stub.Invoke(bridge.invoke_request()).response
    assert text(bridge.stub.Stream(bridge.stream_request())) == whole


@pytest.mark.parametrize(
    "tokens",
    [
        ["\n"],
        ["\n\n"],
        ["a", "\n\n", "b"],
        ["abc\n"],
        ["\n- maddə"],
        ["a\nb"],
        ["a\n\nb\n"],
        ["  iki"],
        ["data", "\ndata\n", "data"],
        [""],
        [],
        ["ə🌱", "e\u0301", "\u2028"],
    ],
    ids=repr,
)
def test_the_models_text_arrives_exactly(bridge_to_reference, tokens):
    request = StreamRequest(message="Salam", scenario_context={"tokens": tokens})
    *events, last = bridge_to_reference.stub.Stream(request)
    assert text(events) == "".join(tokens)
    assert last.done.character_count == len("".join(tokens))


def test_an_event_that_the_bridge_does_not_know_is_passed_on(bridge):
    events = list(bridge.stub.Stream(bridge.stream_request("unknown_event")))
    [other] = [event.other for event in events if event.HasField("other")]
    assert other.type
    assert other.data
    assert events[-1].HasField("done")


def test_fifty_asyncio_streams_at_once_each_get_the_whole_text(bridge):
    async def read(stub):
        return text([event async for event in stub.Stream(bridge.stream_request())])

    async def read_all():
        async with grpc.aio.insecure_channel(bridge.address) as channel:
            return await asyncio.gather(*(read(GraphServiceStub(channel)) for _ in range(50)))

    assert set(asyncio.run(read_all())) == {bridge.stub.Invoke(bridge.invoke_request()).response}


# Deadlines and callers who leave


def test_invoke_ends_at_the_callers_deadline(bridge):
    failure = failure_of(bridge.stub.Invoke.future(bridge.invoke_request("silent"), timeout=0.3).result)
    assert failure.code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stream_ends_at_the_callers_deadline(bridge):
    failure = failure_of(bridge.stub.Stream, bridge.stream_request("silent"), timeout=0.3)
    assert failure.code == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("fault", ["silent", "slow"])
def test_a_deadline_closes_the_upstream_call(bridge_to_reference, reference, eventually, fault):
    closed = reference.calls()["closed_by_peer"]
    failure_of(bridge_to_reference.stub.Stream, bridge_to_reference.stream_request(fault), timeout=0.3)
    eventually(lambda: reference.calls()["closed_by_peer"] == closed + 1)


def test_cancelling_invoke_closes_the_upstream_call(bridge_to_reference, reference, eventually):
    closed = reference.calls()["closed_by_peer"]
    call = bridge_to_reference.stub.Invoke.future(bridge_to_reference.invoke_request("silent"))
    eventually(lambda: reference.calls()["open"] == 1)
    call.cancel()
    eventually(lambda: reference.calls()["closed_by_peer"] == closed + 1)


def test_cancelling_a_stream_closes_the_upstream_call(bridge_to_reference, reference, eventually):
    closed = reference.calls()["closed_by_peer"]
    call = bridge_to_reference.stub.Stream(bridge_to_reference.stream_request("slow"))
    assert next(call).HasField("node")
    call.cancel()
    eventually(lambda: reference.calls()["closed_by_peer"] == closed + 1)
    assert reference.calls()["open"] == 0


# Requests that are refused


@pytest.mark.parametrize("method", ["Invoke", "Stream"])
@pytest.mark.parametrize(
    ("fields", "violations"),
    [
        ({"message": ""}, ["message"]),
        ({"thread_id": NO_UUID}, ["thread_id"]),
        ({"message": "", "thread_id": NO_UUID}, ["message", "thread_id"]),
    ],
    ids=["empty message", "thread_id no UUID", "both"],
)
def test_a_bad_field_is_named_and_stays_with_the_bridge(bridge_to_reference, reference, method, fields, violations):
    bridge, posts = bridge_to_reference, reference.posts()
    request = bridge.invoke_request(**fields) if method == "Invoke" else bridge.stream_request(**fields)
    failure = failure_of(getattr(bridge.stub, method), request)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert sorted(failure.fields) == violations
    assert failure.trailers_only
    assert reference.posts() == posts


@pytest.mark.parametrize("method", [INVOKE, STREAM])
def test_a_message_with_invalid_utf8_is_refused(bridge_to_reference, reference, method):
    posts = reference.posts()
    send = bridge_to_reference.channel.unary_stream(method, lambda raw: raw, lambda raw: raw)
    failure = failure_of(send, b"\x0a\x01\xff")
    assert (failure.code, failure.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert reference.posts() == posts


def test_a_request_over_the_limit_is_refused(bridge_to_reference, reference):
    posts = reference.posts()
    failure = failure_of(bridge_to_reference.stub.Invoke, InvokeRequest(message="x" * (5 << 20)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
    assert reference.posts() == posts


@pytest.mark.parametrize("method", [f"/{SERVICE}/Guess", "/alim.v1.Nothing/Invoke"])
def test_an_unknown_method_is_refused(bridge, method):
    send = bridge.channel.unary_unary(method, lambda raw: raw, lambda raw: raw)
    failure = failure_of(send, b"")
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNKNOWN")


# Failures of the upstream


def test_a_rate_limit_tells_when_to_come_back(bridge):
    for failure in (
        failure_of(bridge.stub.Invoke, bridge.invoke_request("rate_limited")),
        failure_of(bridge.stub.Stream, bridge.stream_request("rate_limited")),
    ):
        assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED")
        assert failure.pushback_ms == failure.retry_delay_ms > 0
        assert failure.trailers["retry-after"]
        assert failure.trailers_only


def test_a_proxys_503_is_unavailable_and_its_page_stays_out(bridge):
    for failure in (
        failure_of(bridge.stub.Invoke, bridge.invoke_request("unavailable")),
        failure_of(bridge.stub.Stream, bridge.stream_request("unavailable")),
    ):
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_UNAVAILABLE")
        assert "<" not in failure.message
        assert failure.trailers_only


def test_an_agent_that_failed_is_internal_and_not_to_be_repeated(bridge):
    failure = failure_of(bridge.stub.Invoke, bridge.invoke_request("agent_failed"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "UPSTREAM_FAILED")
    assert "Graph execution failed" in failure.message
    assert failure.pushback_ms == -1


def test_an_error_event_ends_a_stream_with_internal(bridge):
    failure = failure_of(bridge.stub.Stream, bridge.stream_request("agent_failed"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "UPSTREAM_STREAM_FAILED")
    assert failure.pushback_ms == -1


def test_a_stream_without_done_is_truncated_and_what_came_is_delivered(bridge):
    call = bridge.stub.Stream(bridge.stream_request("truncated"))
    assert next(call).WhichOneof("event")
    failure = failure_of(list, call)
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_STREAM_TRUNCATED")
    assert failure.pushback_ms == -1
    assert not failure.trailers_only


def test_a_stream_without_any_event_is_truncated(bridge):
    failure = failure_of(bridge.stub.Stream, bridge.stream_request("empty"))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_STREAM_TRUNCATED")
    assert failure.pushback_ms == -1
    assert not failure.trailers_only


def test_an_unknown_thread_is_an_error_event(bridge_to_reference):
    request = StreamRequest(message="Salam", thread_id="00000000-0000-4000-8000-000000000000")
    failure = failure_of(bridge_to_reference.stub.Stream, request)
    assert (failure.code, failure.reason) == (grpc.StatusCode.INTERNAL, "UPSTREAM_STREAM_FAILED")
    assert failure.pushback_ms == -1
    assert not failure.trailers_only


@pytest.mark.parametrize(
    ("method", "fault", "posts"),
    [
        ("Invoke", "rate_limited", 2),
        ("Stream", "rate_limited", 2),
        ("Invoke", "agent_failed", 1),
        ("Stream", "empty", 1),
        ("Stream", "truncated", 1),
    ],
)
def test_a_callers_retry_policy_repeats_only_what_did_not_run(bridge_to_reference, reference, method, fault, posts):
    policy = {
        "maxAttempts": 2,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "INTERNAL"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    before, bridge = reference.posts(), bridge_to_reference
    request = bridge.invoke_request(fault) if method == "Invoke" else bridge.stream_request(fault)
    with grpc.insecure_channel(bridge.address, [("grpc.service_config", config)]) as channel:
        failure_of(getattr(GraphServiceStub(channel), method), request)
    assert reference.posts() == before + posts


# Metadata


def test_a_request_id_goes_through_and_comes_back(bridge_to_reference, reference):
    bridge, metadata = bridge_to_reference, [("x-request-id", "sorgu-1")]
    _, call = bridge.stub.Invoke.with_call(bridge.invoke_request(), metadata=metadata)
    assert reference.calls()["last_headers"]["x-request-id"] == "sorgu-1"
    assert dict(call.initial_metadata())["x-request-id"] == "sorgu-1"


def test_a_request_id_is_made_when_the_caller_sends_none(bridge):
    call = bridge.stub.Stream(bridge.stream_request())
    assert dict(call.initial_metadata())["x-request-id"]
    call.cancel()


def test_a_failure_bears_the_request_id_too(bridge):
    metadata = [("x-request-id", "sorgu-2")]
    failure = failure_of(bridge.stub.Invoke, bridge.invoke_request("agent_failed"), metadata=metadata)
    assert failure.trailers["x-request-id"] == "sorgu-2"


def test_only_the_named_headers_cross(bridge_to_reference, reference):
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    metadata = [("traceparent", traceparent), ("accept-language", "az"), ("x-secret", "1"), ("x-api-key", "mine")]
    bridge_to_reference.stub.Invoke(bridge_to_reference.invoke_request(), metadata=metadata)
    headers = reference.calls()["last_headers"]
    assert headers["traceparent"].split("-")[1] == traceparent.split("-")[1]
    assert headers["accept-language"] == "az"
    assert "x-secret" not in headers
    assert headers["x-api-key"] != "mine"


def test_the_upstreams_rate_limit_headers_come_back(bridge_to_reference):
    failure = failure_of(bridge_to_reference.stub.Invoke, bridge_to_reference.invoke_request("rate_limited"))
    assert failure.trailers["x-ratelimit-remaining"] == "0"


# Health and reflection


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_says_serving(bridge, service):
    health, request = HealthStub(bridge.channel), HealthCheckRequest(service=service)
    watch = health.Watch(request, timeout=10)
    assert any(update.status == HealthCheckResponse.SERVING for update in watch)
    watch.cancel()
    assert health.Check(request).status == HealthCheckResponse.SERVING


def test_reflection_v1alpha_lists_the_services(bridge):
    assert SERVICES <= set(ProtoReflectionDescriptorDatabase(bridge.channel).get_services())


def test_reflection_v1_lists_the_services(grpcurl):
    said = grpcurl("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", data='{"listServices": ""}')
    services = json.loads(said.stdout)["listServicesResponse"]["service"]
    assert SERVICES <= {service["name"] for service in services}


# grpcurl


def test_grpcurl_describes_the_service_with_its_comments(grpcurl):
    assert "// Sends a message and waits for the whole answer." in grpcurl("describe", SERVICE).stdout
    assert "// The farmer's message." in grpcurl("describe", "alim.v1.InvokeRequest").stdout


def test_grpcurl_streams_an_answer(grpcurl):
    said = grpcurl(STREAM[1:], data='{"message": "Salam"}')
    assert said.returncode == 0, said.stderr
    assert '"done"' in said.stdout


def test_grpcurl_shows_the_reason_of_a_failure(grpcurl):
    said = grpcurl(INVOKE[1:], data='{"message": ""}')
    assert "Code: InvalidArgument" in said.stderr
    assert '"reason":"INVALID_REQUEST"' in said.stderr.replace(" ", "")
    assert '"field":"message"' in said.stderr.replace(" ", "")
