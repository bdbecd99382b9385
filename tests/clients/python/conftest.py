"""The bridges that the tests call, in front of each upstream."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import servers
from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub


@dataclass
class Upstream:
    url: str
    fault: str  # where `scenario_context` asks this upstream for a failure

    def calls(self) -> dict[str, Any]:
        """What the upstream has seen. Only the reference one tells."""
        with urllib.request.urlopen(f"{self.url}/calls") as reply:
            return json.load(reply)

    def posts(self) -> int:
        return sum(n for route, n in self.calls()["requests"].items() if route.startswith("POST /api/v1/graph/"))


@dataclass
class Bridge:
    address: str
    upstream: Upstream
    channel: grpc.Channel = field(init=False)
    stub: GraphServiceStub = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.insecure_channel(self.address)
        self.stub = GraphServiceStub(self.channel)

    def invoke_request(self, fault: str | None = None, **fields: Any) -> InvokeRequest:
        return InvokeRequest(**self._fields(fault, fields))

    def stream_request(self, fault: str | None = None, **fields: Any) -> StreamRequest:
        return StreamRequest(**self._fields(fault, fields))

    def _fields(self, fault: str | None, fields: dict[str, Any]) -> dict[str, Any]:
        if fault:
            fields["scenario_context"] = {self.upstream.fault: fault}
        return {"message": "Fermada susuzluq var, nə edim?", "user_id": "fermer-7"} | fields


@contextmanager
def bridge_to(upstream: Upstream) -> Iterator[Bridge]:
    with servers.bridge(upstream.url) as address:
        bridge = Bridge(address, upstream)
        with bridge.channel:
            yield bridge


@pytest.fixture(scope="session")
def reference() -> Iterator[Upstream]:
    """The reference upstream, to ask what it has seen."""
    with servers.reference() as url:
        yield Upstream(url, fault="fault")


@pytest.fixture(scope="session")
def bridge_to_reference(reference: Upstream) -> Iterator[Bridge]:
    with bridge_to(reference) as bridge:
        yield bridge


@pytest.fixture(scope="session")
def bridge_to_emulator() -> Iterator[Bridge]:
    with servers.emulator() as url, bridge_to(Upstream(url, fault="emulator_fault")) as bridge:
        yield bridge


@pytest.fixture(params=["reference", "emulator"])
def bridge(request: pytest.FixtureRequest) -> Bridge:
    """A bridge in front of each upstream in turn."""
    return request.getfixturevalue(f"bridge_to_{request.param}")


@pytest.fixture
def grpcurl(bridge: Bridge) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs grpcurl against the bridge, without a .proto: all it knows comes by reflection."""
    binary = shutil.which("grpcurl")
    if not binary:
        pytest.skip("no grpcurl here")

    def run(*words: str, data: str | None = None) -> subprocess.CompletedProcess[str]:
        options = ["-plaintext"] if data is None else ["-plaintext", "-d", data]
        return subprocess.run([binary, *options, bridge.address, *words], capture_output=True, text=True, timeout=30)

    return run


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until something becomes true."""

    def wait(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not holds():
            assert time.monotonic() < deadline, "it did not happen within 10 s"
            time.sleep(0.01)

    return wait
