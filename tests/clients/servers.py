"""The servers under test: real processes on ports that the system chose, each stopped by its own id."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = os.environ["ALIM_BRIDGE_BIN"]
REFERENCE = Path(__file__).parents[1] / "reference"
KEY = "dev-api-key-change-in-production"
OURS = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")}


@contextmanager
def started(command: list[str], exit_code: int = 0, **options: Any) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Runs a server that prints its address at the end of one line; SIGTERM must stop it, and with this code."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as server:
        try:
            line = server.stdout.readline()
            assert "listening on " in line, f"{command} printed {line!r}"
            yield line.split()[-1], server
        finally:
            server.terminate()
            try:
                code = server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
        assert code == exit_code, f"{command} ended with {code}"


@contextmanager
def reference() -> Iterator[str]:
    # uvicorn ends well and then raises the signal again, to tell its parent.
    command = [sys.executable, "-m", "app", "--port", "0"]
    with started(command, -signal.SIGTERM, cwd=REFERENCE) as (url, _):
        yield url


@contextmanager
def emulator() -> Iterator[str]:
    with started([BIN, "emulate", "--listen", "127.0.0.1:0", "--token-delay", "1ms", "--log", "warn"], env=OURS) as (url, _):
        yield url


@contextmanager
def bridge(upstream: str, **settings: str) -> Iterator[str]:
    """Runs a bridge in front of that upstream; gives its address."""
    with started([BIN, "serve"], env=environment(upstream, settings)) as (address, _):
        yield address


@contextmanager
def doomed_bridge(upstream: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A bridge for a test that kills it; gives its process too."""
    with started([BIN, "serve"], -signal.SIGKILL, env=environment(upstream, {})) as server:
        yield server


@contextmanager
def draining_bridge(upstream: str) -> Iterator[str]:
    """A bridge that says NOT_SERVING and still takes calls, as it does for DRAIN_DELAY."""
    with started([BIN, "serve"], env=environment(upstream, {"DRAIN_DELAY": "10m"})) as (address, process):
        process.terminate()
        health = [BIN, "health", "--address", f"http://{address}"]
        while subprocess.run(health, env=OURS, capture_output=True, timeout=30).returncode == 0:
            pass
        yield address


@contextmanager
def nowhere() -> Iterator[str]:
    """The URL of an upstream that can't be reached: its port is taken, and nobody listens."""
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{port.getsockname()[1]}"


def environment(upstream: str, settings: dict[str, str]) -> dict[str, str]:
    settings = {
        "LISTEN": "127.0.0.1:0",
        "ADMIN_LISTEN": "off",
        "LOG": "error",
        "UPSTREAM_URL": f"{upstream}/api/v1",
        "UPSTREAM_API_KEY": KEY,
    } | settings
    return OURS | {f"ALIM_BRIDGE_{name}": value for name, value in settings.items()}
