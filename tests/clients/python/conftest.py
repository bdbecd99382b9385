"""The servers under test: real processes on ports that the system chose, each stopped by its own id."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub

BIN = os.environ["ALIM_BRIDGE_BIN"]
REFERENCE = Path(__file__).parents[2] / "reference"
KEY = "dev-api-key-change-in-production"


@contextmanager
def running(command: list[str], exit_code: int = 0, **options: Any) -> Iterator[str]:
    """Runs a server that prints its address at the end of one line; SIGTERM must stop it, and with this code."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as server:
        try:
            line = server.stdout.readline()
            assert "listening on " in line, f"{command} printed {line!r}"
            yield line.split()[-1]
        finally:
            server.terminate()
            try:
                code = server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
        assert code == exit_code, f"{command} ended with {code}"


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
    settings = {
        "ALIM_BRIDGE_LISTEN": "127.0.0.1:0",
        "ALIM_BRIDGE_ADMIN_LISTEN": "off",
        "ALIM_BRIDGE_UPSTREAM_URL": f"{upstream.url}/api/v1",
        "ALIM_BRIDGE_UPSTREAM_API_KEY": KEY,
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")} | settings
    with running([BIN, "serve"], env=env) as address:
        bridge = Bridge(address, upstream)
        with bridge.channel:
            yield bridge


@pytest.fixture(scope="session")
def reference() -> Iterator[Upstream]:
    """The reference upstream, to ask what it has seen."""
    # uvicorn ends well and then raises the signal again, to tell its parent.
    with running([sys.executable, "-m", "app", "--port", "0"], -signal.SIGTERM, cwd=REFERENCE) as url:
        yield Upstream(url, fault="fault")


@pytest.fixture(scope="session")
def bridge_to_reference(reference: Upstream) -> Iterator[Bridge]:
    with bridge_to(reference) as bridge:
        yield bridge


@pytest.fixture(scope="session")
def bridge_to_emulator() -> Iterator[Bridge]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")}
    with running([BIN, "emulate", "--listen", "127.0.0.1:0", "--token-delay", "1ms"], env=env) as url:
        with bridge_to(Upstream(url, fault="emulator_fault")) as bridge:
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
