"""The real rate limit service on a real Redis, an ALİM that says when each request arrived, and a slow network between."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from processes import first_line, free_port

READY_SECONDS = 30
SHIPPED = Path(__file__).parents[2] / "deploy/kubernetes/components/quota/limits/alim-bridge.yaml"


class Redis:
    """Listens on a socket in a folder, keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.command = ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(folder)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "eady to accept connections" in line:
                return
        raise RuntimeError("redis-server ended")

    def kill(self) -> None:
        kill(self.process)


class RateLimit:
    """Always on the same port."""

    def __init__(self, folder: Path, redis: Redis) -> None:
        self.config = folder / "config" / "alim-bridge.yaml"
        self.config.parent.mkdir()
        ports = {name: free_port() for name in ("PORT", "GRPC_PORT", "DEBUG_PORT")}
        self.address = f"127.0.0.1:{ports['GRPC_PORT']}"
        self.health = f"http://127.0.0.1:{ports['PORT']}/healthcheck"
        settings = {
            "HOST": "127.0.0.1",
            "GRPC_HOST": "127.0.0.1",
            "DEBUG_HOST": "127.0.0.1",
            "USE_STATSD": "false",
            "RUNTIME_ROOT": str(folder),
            "RUNTIME_SUBDIRECTORY": ".",
            "RUNTIME_WATCH_ROOT": "false",
            "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED": "true",
            "REDIS_SOCKET_TYPE": "unix",
            "REDIS_URL": str(redis.socket),
            "REDIS_TIMEOUT": "50ms",
            "RUNTIME_IGNOREDOTFILES": "true",
            "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true",
        }
        self.env = os.environ | settings | {name: str(port) for name, port in ports.items()}

    def start(self, limit: int, of_caller: int) -> None:
        """Both are for a second."""

        def entry(key: str, value: str, count: int) -> dict:
            rate = {"unit": "second", "requests_per_unit": count}
            return {"key": key, "value": value, "rate_limit": rate}

        service = entry("upstream_key", "service", limit)
        service["descriptors"] = [entry("caller", "orders", of_caller)]
        # JSON is YAML too.
        self.config.write_text(json.dumps({"domain": "alim-bridge", "descriptors": [service]}))
        self.run()

    def start_shipped(self) -> None:
        """With the limits of deploy/, mounted as Kubernetes mounts a ConfigMap."""
        self.config.unlink()
        folder = self.config.parent
        (folder / "..2026_11_28").mkdir()
        (folder / "..2026_11_28" / self.config.name).write_bytes(SHIPPED.read_bytes())
        (folder / "..data").symlink_to("..2026_11_28")
        self.config.symlink_to(f"..data/{self.config.name}")
        self.run()

    def run(self) -> None:
        log = self.config.parent.parent / "ratelimit.log"
        with log.open("a") as log:
            self.process = subprocess.Popen([os.environ["RATELIMIT_BIN"]], env=self.env, stdout=log, stderr=log)
        until = time.monotonic() + READY_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the rate limit service did not start")
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.health, timeout=1):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        kill(self.process)


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


class Alim:
    """Answers every question, and keeps when it came and what it said."""

    def __init__(self) -> None:
        self.arrived: list[tuple[float, str]] = []
        alim = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                at = time.time()
                message = json.loads(self.rfile.read(int(self.headers["content-length"])))["message"]
                alim.arrived.append((at, message))
                thread_id = "6f1c2d3e-4b5a-4978-8a6b-0c1d2e3f4a5b"
                body = json.dumps({"response": message, "thread_id": thread_id, "model": "m"}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self) -> list[tuple[float, str]]:
        """What arrived since the last time."""
        taken, self.arrived = self.arrived, []
        return taken


class Network:
    """The way to the service. Its delay applies to what goes there, on new and old connections."""

    def __init__(self, target: str) -> None:
        command = [sys.executable, str(Path(__file__).parent / "network.py"), target]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = f"http://{first_line(self.process)}"

    def set_delay(self, seconds: float) -> None:
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        self.process.stdout.readline()

    def kill(self) -> None:
        kill(self.process)
