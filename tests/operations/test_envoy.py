"""A real Envoy with the repository's own configuration, in front of a real bridge."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BIN, DEPLOY, Bridge, eventually, http, running

HANDLED = re.compile(r'^grpc_server_handled_total\{grpc_code="(\w+)",grpc_method="Stream".*\} (\d+)$', re.MULTILINE)


def config() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "envoy/envoy.yaml").read_text())


def route(envoy: dict[str, Any]) -> dict[str, Any]:
    chain = envoy["static_resources"]["listeners"][0]["filter_chains"][0]
    return chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]["route"]


class Front:
    """The bridge as callers of Envoy see it."""

    def __init__(self, admin: str, bridge: Bridge) -> None:
        self.admin = admin
        listeners = json.loads(http(f"http://{admin}/listeners?format=json"))["listener_statuses"]
        at = listeners[0]["local_address"]["socket_address"]
        self.calls = Bridge(f"{at['address']}:{at['port_value']}", bridge.admin, bridge.emulator)
        self.bridge = bridge

    def is_healthy(self) -> bool:
        clusters = json.loads(http(f"http://{self.admin}/clusters?format=json"))["cluster_statuses"]
        (host,) = [host for cluster in clusters for host in cluster["host_statuses"]]
        return "failed_active_health_check" not in host["health_status"]

    def health_checks(self) -> int:
        return int(re.search(r"health_check.success: (\d+)", http(f"http://{self.admin}/stats"))[1])


@pytest.fixture(scope="module")
def front(bridge: Bridge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("envoy")
    envoy = config()
    listener, cluster = envoy["static_resources"]["listeners"][0], envoy["static_resources"]["clusters"][0]
    envoy["admin"]["address"]["socket_address"]["port_value"] = 0
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    host, port = bridge.address.rsplit(":", 1)
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"] = {"address": host, "port_value": int(port)}
    cluster["health_checks"][0] |= {"interval": "0.2s", "no_traffic_interval": "0.2s"}
    (folder / "envoy.yaml").write_text(yaml.safe_dump(envoy))
    command = ["envoy", "--config-path", f"{folder}/envoy.yaml", "--concurrency", "1", "--disable-hot-restart"]
    command += ["--admin-address-path", f"{folder}/admin"]
    with running(command, lambda line: line if "starting main dispatch loop" in line else None):
        front = Front((folder / "admin").read_text(), bridge)
        eventually(lambda: front.health_checks() > 0, "Envoy has asked for the bridge's health")
        yield front


def handled(bridge: Bridge) -> dict[str, int]:
    return {code: int(count) for code, count in HANDLED.findall(bridge.metrics())}


def test_calls_pass(front: Front) -> None:
    assert [front.calls.call(method) for method in ("invoke", "stream")] == [0, 0]


def test_a_call_that_may_have_run_is_not_sent_again(front: Front) -> None:
    for fault, code in (("unavailable", 14), ("truncated", 14), ("agent_failed", 13)):
        before = sum(handled(front.bridge).values())
        assert front.calls.call("stream", fault) == code
        assert sum(handled(front.bridge).values()) == before + 1


def test_envoy_waits_longer_than_the_bridge_so_that_the_bridges_status_comes_first() -> None:
    shown = subprocess.run([BIN, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    seconds = {}
    for name in ("invoke-timeout", "stream-initial-timeout", "stream-idle-timeout", "stream-lifetime"):
        amount, unit = re.search(rf"--{name} .*?\[default:\s+(\d+)(s|m)\]", shown, re.DOTALL).groups()
        seconds[name] = int(amount) * {"s": 1, "m": 60}[unit]
    lifetime = seconds.pop("stream-lifetime")
    limits = route(config())
    assert limits["timeout"] == "0s"
    assert int(limits["idle_timeout"].removesuffix("s")) > max(seconds.values())
    assert int(limits["max_stream_duration"]["max_stream_duration"].removesuffix("s")) > lifetime


def test_a_bridge_stays_in_when_alim_is_down(front: Front) -> None:
    """The last test of this file: it ends the embedded ALİM."""
    assert front.is_healthy()
    front.bridge.emulator.terminate()
    eventually(lambda: "\nalim_bridge_upstream_up 0" in front.bridge.metrics(), "the bridge knows that ALİM is down")
    asked = front.health_checks()
    eventually(lambda: front.health_checks() > asked + 2, "Envoy has asked again")
    assert front.is_healthy()
    assert front.calls.call("stream") == 14
