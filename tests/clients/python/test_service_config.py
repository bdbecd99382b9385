"""The published service config fits the contract and the bridge's settings."""

import json
import re
from pathlib import Path

from alim.v1 import graph_service_pb2, thread_service_pb2

ROOT = Path(__file__).parents[3]
CONFIG = json.loads((ROOT / "proto/alim/v1/service_config.json").read_text())
UNITS = {"s": 1, "m": 60}


def setting(name: str) -> int:
    """A duration's default in docs/settings.md, in seconds."""
    value, unit = re.search(rf"\| `{name}` \| `(\d+)([sm])` \|", (ROOT / "docs/settings.md").read_text()).groups()
    return int(value) * UNITS[unit]


def entry(service: str, method: str) -> dict:
    [found] = [
        entry
        for entry in CONFIG["methodConfig"]
        for name in entry["name"]
        if name["service"] == service and name.get("method", method) == method
    ]
    return found


def methods():
    for file in (graph_service_pb2, thread_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield service.full_name, method


def test_every_method_is_repeated_on_unavailable_alone():
    for service, method in methods():
        assert entry(service, method.name)["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]


def test_the_bridges_clocks_come_first_and_say_why():
    for service, method in methods():
        clock = setting("STREAM_LIFETIME" if method.server_streaming else "INVOKE_TIMEOUT")
        assert entry(service, method.name)["timeout"] == f"{clock + 5}s"
