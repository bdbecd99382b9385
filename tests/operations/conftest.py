"""What the tests of deploy/ and docs/runbook.md read, and the bridge that they look at: real processes on ports that the
system chose, each stopped by its own id."""

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = os.environ["ALIM_BRIDGE"]
KEY = "dev-api-key-change-in-production"
MAX_CALLS = 2
NOBODY = "http://127.0.0.1:9"


def rules() -> list[dict[str, Any]]:
    """Every recording and alerting rule."""
    groups = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def reasons() -> set[str]:
    """Every reason that a status can bear."""
    words = (ROOT / "src/call/reason.rs").read_text().split('"')[1::2]
    return {word for word in words if "_" in word and word != "UPSTREAM_" and word.replace("_", "").isalpha() and word.isupper()}


def dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana/dashboard.json").read_text())


def eventually(what: Callable[[], Any], told: str, seconds: float = 30) -> Any:
    """What `what` gives as soon as it is true; it asks again until then, and fails when the time is up."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {told}"
        time.sleep(0.05)
    return found


def http(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as reply:
        return reply.read().decode()


@contextmanager
def running(command: list[str], says: Callable[[str], str | None], **options: Any) -> Iterator[tuple[subprocess.Popen, str]]:
    """Runs a server until `says` finds its address in a line that it prints; SIGTERM stops it."""
    found: list[str] = []
    lines: list[str] = []
    known = threading.Event()

    def read() -> None:
        for line in server.stdout:
            lines.append(line)
            if not found and (address := says(line)):
                found.append(address)
                known.set()
        known.set()

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as server:
        reader = threading.Thread(target=read)
        reader.start()
        try:
            known.wait(timeout=30)
            assert found, f"{command[0]} does not serve:\n{''.join(lines)}"
            yield server, found[0]
        finally:
            server.terminate()
            try:
                server.wait(timeout=40)
            except subprocess.TimeoutExpired:
                server.kill()
                raise
            finally:
                reader.join()


@dataclass
class Bridge:
    address: str
    admin: str
    emulator: subprocess.Popen
    upstream: str = ""

    def metrics(self) -> str:
        return http(f"http://{self.admin}/metrics")

    def call(self, method: str, fault: str | None = None, message: str = "Nə vaxt suvarım?") -> int:
        """The gRPC code of one call by the bridge's own client."""
        with self.begun(method, fault, message) as call:
            code = call.wait(timeout=30)
        assert code == 0 or code > 64, f"{call.args} ended with {code}"
        return max(code - 64, 0)

    def begun(self, method: str, fault: str | None = None, message: str = "Nə vaxt suvarım?") -> subprocess.Popen:
        """A call that is going on."""
        context = ["--scenario-context", json.dumps({"emulator_fault": fault})] if fault else []
        command = [BIN, method, "--address", self.address, "--timeout", "20s", *context, message]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    """A bridge in front of the embedded ALİM, with settings that let no environment in."""
    env = {"PATH": os.environ["PATH"], "ALIM_BRIDGE_UPSTREAM_API_KEY": KEY}
    emulate = [BIN, "emulate", "--listen", "127.0.0.1:0", "--token-delay", "1ms"]
    with running(emulate, lambda line: line.split()[-1] if "listening on" in line else None) as (emulator, url):
        serve = [BIN, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]
        serve += ["--upstream-url", f"{url}/api/v1", "--upstream-health-interval", "200ms", "--max-calls", str(MAX_CALLS)]
        with running(serve, serving, env=env) as (_, addresses):
            yield Bridge(*addresses.split(), emulator, f"{url}/api/v1")


@pytest.fixture(scope="module")
def guarded(bridge: Bridge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The admin port of a second bridge, with a quota and a rate limit service that is gone, one caller, and a certificate of its own that holds for two days."""
    folder = tmp_path_factory.mktemp("tls")
    files = ["-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run([*made, "-subj", "/CN=127.0.0.1", *files], check=True, capture_output=True)
    env = {"PATH": os.environ["PATH"], "ALIM_BRIDGE_UPSTREAM_API_KEY": KEY}
    serve = [BIN, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]
    serve += ["--upstream-url", bridge.upstream, "--upstream-health-interval", "200ms", "--upstream-quota", "30/min", "--quota-service", NOBODY]
    serve += ["--tls-cert-file", f"{folder}/tls.crt", "--tls-key-file", f"{folder}/tls.key"]
    subprocess.run([BIN, "callers", "add", f"{folder}/callers.toml", "orders"], check=True, capture_output=True)
    serve += ["--callers-file", f"{folder}/callers.toml"]
    with running(serve, serving, env=env) as (_, addresses):
        yield addresses.split()[1]


def serving(line: str) -> str | None:
    """Both addresses of the record that a bridge writes when it serves."""
    if '"message":"serving"' not in line:
        return None
    record = json.loads(line)
    return f"{record['address']} {record['admin']}"
