"""The collector under test's other side: a real one whose output is kept, and stand-ins that are silent or reject."""

import json
import os
import socket
import subprocess
import threading
import time
from collections import Counter
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from processes import free_port

HERE = Path(__file__).parent
METRICS = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


class Sink:
    """Keeps what a collector passes on as JSON."""

    def __init__(self) -> None:
        self.exports: list[dict[str, Any]] = []
        self.traces: list[dict[str, Any]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                (sink.exports if self.path == "/v1/metrics" else sink.traces).append(body)
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def after(self, count: int, seconds: float = 20) -> dict[str, Any]:
        """The newest export, once there are more than `count`."""
        until = time.monotonic() + seconds
        while len(self.exports) <= count:
            if time.monotonic() > until:
                raise RuntimeError(f"no more than {count} exports in {seconds} s")
            time.sleep(0.02)
        return self.exports[-1]


class Collector:
    """A real OpenTelemetry collector, which comes back on its port."""

    def __init__(self, sink: Sink) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.env = os.environ | {"COLLECTOR_LISTEN": self.address, "COLLECTOR_SINK": sink.url}
        self.start()

    def start(self) -> None:
        command = [os.environ["COLLECTOR_BIN"], "--config", f"file:{HERE / 'collector.yaml'}"]
        self.process = subprocess.Popen(command, env=self.env, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if "Everything is ready" in line:
                break
        else:
            raise RuntimeError("the collector did not start")
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Silent:
    """Accepts connections and never answers."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]

    def stop(self) -> None:
        self.listener.close()


class Answering(grpc.GenericRpcHandler):
    """Answers each export with a code, or with bytes."""

    def __init__(self, metrics: grpc.StatusCode | bytes = b"") -> None:
        self.metrics = metrics
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        self.address = "127.0.0.1:%d" % self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.asked[call.method] += 1
        answer = self.metrics if call.method == METRICS else b""
        if call.method == METRICS:
            self.headers = dict(call.invocation_metadata)

        def export(_request: bytes, context: grpc.ServicerContext) -> bytes:
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, "as the test asks")
            return answer

        return grpc.unary_unary_rpc_method_handler(export)

    def stop(self) -> None:
        self.server.stop(0)
