"""What a caller's retry policy does when its bridge dies."""

import json
import urllib.request

import grpc
import pytest
import servers
from alim.v1.graph_service_pb2 import StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub
from ask import SERVICE_CONFIG
from witness import witness


# Without balancing, the first address gets the first call. The second is there for a retry.
RETRIES_ALONE = json.dumps({"methodConfig": json.loads(SERVICE_CONFIG)["methodConfig"]})


def posts(url: str, call: str) -> int:
    with urllib.request.urlopen(f"{url}/seen/{call}") as reply:
        return json.load(reply)["posts"]


def test_a_stream_that_alim_has_accepted_is_not_sent_again_by_another_bridge():
    with (
        servers.emulator() as emulator,
        witness(emulator) as upstream,
        servers.bridge(upstream) as other,
        servers.doomed_bridge(upstream) as (address, process),
    ):
        options = [("grpc.service_config", RETRIES_ALONE), ("grpc.default_authority", "alim-bridge")]
        with grpc.insecure_channel(f"ipv4:{address},{other}", options) as channel:
            question = StreamRequest(message="Salam", scenario_context={"witness": ["accepted"]})
            answer = GraphServiceStub(channel).Stream(question, metadata=[("x-request-id", "accepted-1")], timeout=30)
            assert dict(answer.initial_metadata())["x-request-id"] == "accepted-1"
            process.kill()
            with pytest.raises(grpc.RpcError) as failed:
                next(answer)
            assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        assert posts(upstream, "accepted-1") == 1
