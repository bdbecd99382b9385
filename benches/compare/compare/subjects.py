"""What is measured, and how each is started."""

from __future__ import annotations

import json
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator

from .programs import BRIDGE, BUILT, HERE, OTHER_CORE, PYTHON, REPOSITORY, START_TIMEOUT, SUBJECT_CORE, WORK, Program

NAMES = ["bridge", "limit", "naive", "envoy", "aiohttp", "node"]
"""In the table's order. The limit is two halves, measured one after the other and added: a server that makes the
tokens itself, and a reader of the upstream that tells nobody."""


class Subject:
    """A running subject: where its calls go, and whose CPU time and memory count."""

    def __init__(self, name: str, stub: Program, to: str, pid: int | None, *, invokes: str | None = None,
                 over: str = "grpc", core: int = OTHER_CORE, beside: list[int] | None = None) -> None:
        self.name = name
        self.stub = stub
        self.streams = to
        self.invokes = invokes or to
        self.pid = pid
        """None when the load itself is the subject."""
        self.over = over
        self.load_core = core
        self.beside = [stub.pid, *(beside or [])]
        """Who shares the load's core."""


@contextmanager
def upstream() -> Iterator[tuple[Program, str]]:
    """The stub."""
    with started([BUILT / "stub"], OTHER_CORE) as (stub, address):
        yield stub, address


@contextmanager
def started(command: list, core: int = SUBJECT_CORE, env: dict | None = None) -> Iterator[tuple[Program, str]]:
    """A program that listens."""
    program = Program(command, core, env)
    try:
        yield program, program.address()
    finally:
        program.stop()


@contextmanager
def running(name: str, under: list | None = None) -> Iterator[Subject]:
    """Starts the upstream and the subject, `under` another program where that is given."""
    with upstream() as (stub, address):
        base = f"http://{address}/api/v1"
        match name:
            case "direct" | "limit.read":
                yield Subject(name, stub, address, None, over="http", core=SUBJECT_CORE)
                return
            case "envoy":
                with envoy(stub, address) as subject:
                    yield subject
                return
        if name in VARIANTS:
            binary, settings = VARIANTS[name]
            command, env = bridge(base)
            command, env = [binary, *command[1:]], {**env, **settings}
        else:
            command, env = COMMANDS[name](base)
        with started([*(under or []), *command], env=env) as (program, to):
            yield Subject(name, stub, to, program.pid)


def bridge(base: str) -> tuple[list, dict]:
    """Metrics on, a record of each call to a file, no traces; limits out of the load's way."""
    env = {
        "ALIM_BRIDGE_LISTEN": "127.0.0.1:0",
        "ALIM_BRIDGE_ADMIN_LISTEN": "127.0.0.1:0",
        "ALIM_BRIDGE_UPSTREAM_URL": base,
        "ALIM_BRIDGE_UPSTREAM_API_KEY": "key",
        "ALIM_BRIDGE_MAX_CALLS": "20000",
        "ALIM_BRIDGE_LOG_FORMAT": "json",
        "ALIM_BRIDGE_LOG": "info",
        "ALIM_BRIDGE_DRAIN_TIMEOUT": "0s",
    }
    return [BRIDGE, "serve"], env


VARIANTS: dict[str, tuple[Path, dict[str, str]]] = {
    "without records": (BRIDGE, {"ALIM_BRIDGE_ACCESS_LOG": "off"}),
    "strict framing": (BRIDGE, {"ALIM_BRIDGE_SSE_FRAMING": "strict"}),
}
"""The bridge with one choice undone, by a setting; `--variant` adds other builds."""

COMMANDS = {
    "bridge": bridge,
    "limit": lambda base: ([BUILT / "limit"], {}),
    "naive": lambda base: ([BUILT / "naive", base], {}),
    "aiohttp": lambda base: ([PYTHON, HERE / "peers/aiohttp/bridge.py", base], {"PYTHONPATH": str(WORK / "stubs")}),
    "node": lambda base: (
        ["node", HERE / "peers/node/bridge.js", base, REPOSITORY / "proto"],
        {"NODE_PATH": str(WORK / "node/node_modules")},
    ),
}


@contextmanager
def envoy(stub: Program, stub_address: str) -> Iterator[Subject]:
    """Envoy with one worker, in front of the limit's server for streams and of the stub for Invoke."""
    with ExitStack() as stack:
        limit, limit_address = stack.enter_context(started([BUILT / "limit"], OTHER_CORE))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        config = (HERE / "peers/envoy/envoy.yaml").read_text()
        for name, value in {
            "DESCRIPTORS": WORK / "descriptors.pb",
            "LIMIT_PORT": limit_address.split(":")[1],
            "STUB_PORT": stub_address.split(":")[1],
        }.items():
            config = config.replace(f"@{name}@", str(value))
        (folder / "envoy.yaml").write_text(config)
        admin = folder / "admin"
        command = [WORK / "venv/bin/envoy", "-c", folder / "envoy.yaml", "--admin-address-path", admin,
                   "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
        program = Program(command, SUBJECT_CORE)
        stack.callback(program.stop)
        listeners = envoy_listeners(program, admin)
        yield Subject("envoy", stub, listeners["streams"], program.pid, invokes=listeners["invokes"],
                      beside=[limit.pid])


def envoy_listeners(program: Program, admin: Path) -> dict[str, str]:
    """Asks Envoy's admin port where it listens."""
    end = time.monotonic() + START_TIMEOUT
    while time.monotonic() < end:
        if program.process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://{admin.read_text()}/listeners?format=json", timeout=5) as answer:
                told = json.load(answer).get("listener_statuses", [])
        except OSError:
            told = []
        found = {
            listener["name"]: "127.0.0.1:{port_value}".format(**listener["local_address"]["socket_address"])
            for listener in told
        }
        if len(found) == 2:
            return found
        time.sleep(0.05)
    raise RuntimeError(f"Envoy does not listen: {program.errors()}")

