"""The processes under test: an upstream that counts, and bridges that stop by SIGTERM and come back on their port."""

import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BIN = os.environ["ALIM_BRIDGE_BIN"]
HERE = Path(__file__).parent
STOP_SECONDS = 40
results = {"passed": 0, "failed": 0}


def check(holds: bool, what: str) -> None:
    """One line of the result; the run goes on, so that all of it is told."""
    results["passed" if holds else "failed"] += 1
    print(f"{'ok    ' if holds else 'FAILED'} {what}", flush=True)


def finish() -> None:
    print("{passed} passed, {failed} failed".format(**results))
    sys.exit(1 if results["failed"] else 0)


def first_line(server: subprocess.Popen) -> str:
    line = server.stdout.readline()
    if "listening on " not in line:
        raise RuntimeError(f"{server.args} printed {line!r}")
    return line.split()[-1]


class Upstream:
    def __init__(self, cert: str = "", key: str = "", ca: str = "") -> None:
        """With a certificate it speaks TLS; `ca` is the file of the authority that vouches for it."""
        command = [sys.executable, "-m", "upstream", *filter(None, (cert, key))]
        self.trust = ssl.create_default_context(cafile=ca) if ca else None
        self.process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
        self.url = first_line(self.process)

    def seen(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.url, context=self.trust) as reply:
            return json.load(reply)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    """A port that no outgoing connection is given, so that it is still free when a bridge comes back to it."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise RuntimeError("no free port between 20000 and 32000")


class Bridge:
    def __init__(self, upstream: Upstream, launcher: Sequence[str] = (), **settings: str) -> None:
        self.launcher = launcher
        self.address = f"127.0.0.1:{free_port()}"
        ours = {
            "LISTEN": self.address,
            "ADMIN_LISTEN": "off",
            "UPSTREAM_URL": f"{upstream.url}/api/v1",
            "UPSTREAM_API_KEY": "any",
            "LOG": "error",
        }
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")}
        self.env |= {f"ALIM_BRIDGE_{name}": value for name, value in (ours | settings).items()}
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([*self.launcher, BIN, "serve"], env=self.env, stdout=subprocess.PIPE, text=True)
        first_line(self.process)

    def signal_stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> tuple[int, float]:
        """Its exit code, and how long it took to end from now."""
        begin = time.monotonic()
        code = self.process.wait(timeout=STOP_SECONDS)
        return code, time.monotonic() - begin

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def servers(bridges: int = 1, launcher: Sequence[str] = (), **settings: str):
    """An upstream, and bridges; what `launcher` runs before a bridge's command becomes that command, by exec."""
    upstream = Upstream()
    started: list[Bridge] = []
    try:
        for _ in range(bridges):
            started.append(Bridge(upstream, launcher, **settings))
        yield upstream, started
    finally:
        for bridge in started:
            bridge.kill()
        upstream.stop()
