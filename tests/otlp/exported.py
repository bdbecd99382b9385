"""What a collector gets is what /metrics has; and whatever the collector does, calls go on.

    run
"""

import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

import grpc
import names
from collector import METRICS, TRACES, Answering, Collector, Silent, Sink
from names import Samples
from processes import BIN, check, finish, first_line, free_port

from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub

FAILED = ("alim_bridge_metric_exports_failed_total", frozenset())
# These change by themselves between a scrape and an export.
RESTLESS = ("process_", "alim_bridge_runtime_", "alim_bridge_open_connections", "alim_bridge_buffered_bytes")
CODE_LABEL = "grpc_code"


class Alim:
    def __init__(self) -> None:
        command = [BIN, "emulate", "--listen", f"127.0.0.1:{free_port()}", "--token-delay", "5ms", "--log", "error"]
        env = os.environ | {"ALIM_EMULATOR_API_KEY": "any"}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
        self.url = first_line(self.process)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Bridge:
    """Its settings by their whole names, OpenTelemetry's included. Its log is kept."""

    def __init__(self, alim: Alim, **settings: str) -> None:
        self.address, self.admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
        ours = {
            "LISTEN": self.address,
            "ADMIN_LISTEN": self.admin,
            "UPSTREAM_URL": f"{alim.url}/api/v1",
            "UPSTREAM_API_KEY": "any",
            "LOG_FORMAT": "json",
            "ACCESS_LOG": "off",
            "DRAIN_DELAY": "0s",
        }
        env = {name: value for name, value in os.environ.items() if not name.startswith(("ALIM_BRIDGE_", "OTEL_"))}
        env |= {f"ALIM_BRIDGE_{name}": value for name, value in ours.items()} | settings
        self.log = tempfile.NamedTemporaryFile("r+", suffix=".log")
        self.process = subprocess.Popen([BIN, "serve"], env=env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        first_line(self.process)
        self.channel = grpc.insecure_channel(self.address)
        self.stub = GraphServiceStub(self.channel)

    def scrape(self) -> Samples:
        with urllib.request.urlopen(f"http://{self.admin}/metrics") as reply:
            return names.scraped(reply.read().decode())

    def failed(self) -> float:
        return self.scrape()[FAILED]

    def fails(self, count: int, seconds: float = 20) -> bool:
        """Whether so many exports fail in time."""
        until, before = time.monotonic() + seconds, self.failed()
        while self.failed() < before + count:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True

    def answers(self) -> bool:
        return self.stub.Invoke(InvokeRequest(message="Salam"), timeout=10, metadata=ORDERS).response != ""

    def warnings(self) -> list[str]:
        lines = [json.loads(line) for line in Path(self.log.name).read_text().splitlines()]
        return [it["message"] for it in lines if it["level"] == "WARN" and "metrics" in it["message"]]

    def resident(self) -> float:
        return self.scrape()["process_resident_memory_bytes", frozenset()]

    def stop(self) -> tuple[int, float]:
        """Its exit code, and how long the end took."""
        self.channel.close()
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40), time.monotonic() - begin

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


ORDERS = [("authorization", "Bearer orders")]


def mix(bridge: Bridge) -> Counter:
    """Calls of all kinds, and how each kind ended."""

    def outcome(call) -> str:
        try:
            call()
            return "OK"
        except grpc.RpcError as error:
            return error.code().name

    fault = lambda name: {"message": "Salam", "scenario_context": {"emulator_fault": name}}  # noqa: E731
    stub, ended = bridge.stub, Counter()
    invoke = lambda metadata=ORDERS, **fields: stub.Invoke(InvokeRequest(**fields), timeout=10, metadata=metadata)  # noqa: E731
    stream = lambda **fields: list(stub.Stream(StreamRequest(**fields), timeout=10, metadata=ORDERS))  # noqa: E731
    unknown = bridge.channel.unary_unary("/alim.v1.GraphService/Guess")
    health = bridge.channel.unary_unary("/grpc.health.v1.Health/Check")
    for times, name, call in (
        (7, "Invoke", lambda: invoke(message="Salam")),
        (5, "Stream", lambda: stream(message="Salam, how are you today?")),
        (2, "Invoke", lambda: invoke(**fault("crashed"))),
        (3, "Invoke", lambda: invoke(message="")),
        (2, "Invoke", lambda: invoke(message="Salam", metadata=[("authorization", "Bearer guess")])),
        (1, "Stream", lambda: stream(**fault("agent_failed"))),
        (1, "Stream", lambda: stream(**fault("truncated"))),
        (4, "unknown", lambda: unknown(b"", metadata=ORDERS)),
        (6, "Check", lambda: health(b"")),
    ):
        for _ in range(times):
            ended[name, outcome(call)] += 1
    return ended


def settled(bridge: Bridge, sink: Sink) -> tuple[Samples, dict]:
    """A scrape and an export between which nothing happened: the scrapes before and after the export are the same."""
    for _ in range(40):
        before = bridge.scrape()
        export = sink.after(len(sink.exports) + 1)  # the second from now began after the scrape
        if steady(before) == steady(bridge.scrape()):
            return before, export
    raise RuntimeError("the metrics do not settle")


def steady(samples: Samples) -> Samples:
    return {key: value for key, value in samples.items() if not key[0].startswith(RESTLESS)}


def differing(ours: Samples, theirs: Samples) -> list:
    """What is not the same. A sum of seconds may differ in the last digits, because it is added up in another order."""
    missing = [("missing", key) for key in theirs.keys() - ours.keys()]
    close = lambda a, b: abs(a - b) <= 1e-9 * max(abs(a), abs(b))  # noqa: E731
    return missing + [(key, ours[key], theirs[key]) for key in ours.keys() & theirs.keys() if not close(ours[key], theirs[key])]


def compare_own(scraped: Samples, export: dict) -> None:
    found = {name: metric for name, metric in names.metrics(export).items() if name.startswith("alim_bridge.")}
    exported = {key: value for metric in found.values() for key, value in names.own(metric).items()}
    wanted = {key: value for key, value in steady(scraped).items() if key[0].startswith("alim_bridge_")}
    renamed = ("alim_bridge_build_info", "alim_bridge_time_to_first_token", "alim_bridge_inter_token")
    wanted = {key: value for key, value in wanted.items() if not key[0].startswith(renamed)}
    wrong = differing(exported, wanted)
    check(len(wanted) > 70 and not wrong, f"{len(wanted)} series of the bridge have the same names and values {wrong[:3] or ''}")


def compare_calls(scraped: Samples, export: dict, ended: Counter) -> None:
    scraped, found = names.without_type(scraped), names.metrics(export)
    for metric, status in (("rpc.server.call.duration", "rpc.status_code"), ("grpc.server.call.duration", "grpc.status")):
        handled: Samples = {}
        summed: Samples = defaultdict(float)
        for point in names.points(found[metric]):
            attributes = names.attributes(point["attributes"])
            call, code = names.labels_of_call(attributes), names.go_code(attributes[status])
            handled["grpc_server_handled_total", call | {(CODE_LABEL, code)}] = float(point["count"])
            for key, value in names.buckets("grpc_server_handling_seconds", call, point).items():
                summed[key] += value
        wanted = {key: value for key, value in scraped.items() if key[0] == "grpc_server_handled_total" and value > 0}
        wrong = differing(handled, wanted) + differing(wanted, handled)
        check(not wrong and len(wanted) >= 8, f"{metric} counts the calls by method and code ({len(wanted)} pairs) {wrong or ''}")
        used = {labels for (name, labels), value in scraped.items() if name == "grpc_server_handling_seconds_count" and value > 0}
        of = lambda labels: frozenset(it for it in labels if it[0] != "le")  # noqa: E731
        wanted = {key: value for key, value in scraped.items() if key[0].startswith("grpc_server_handling") and of(key[1]) in used}
        wrong = differing(summed, wanted)
        check(not wrong and len(wanted) > 50, f"its buckets and sums are those of grpc_server_handling_seconds {wrong[:3] or ''}")
    counted = Counter()
    for (name, labels), value in scraped.items():
        if name == "grpc_server_handled_total" and value:
            labels = dict(labels)
            counted[labels["grpc_method"], labels[CODE_LABEL]] += int(value)
    expected = Counter({(method, names.go_code(code)): count for (method, code), count in ended.items()})
    check(counted == expected, f"both have the {ended.total()} calls as they ended")
    for metric, name in (
        ("grpc.server.call.started", "grpc_server_started_total"),
        ("alim_bridge.messages.received", "grpc_server_msg_received_total"),
        ("alim_bridge.messages.sent", "grpc_server_msg_sent_total"),
    ):
        labelled = [(names.attributes(it["attributes"]), names.number(it)) for it in names.points(found[metric])]
        exported = {(name, names.labels_of_call(attributes)): value for attributes, value in labelled}
        wanted = {key: value for key, value in scraped.items() if key[0] == name}
        check(bool(wanted) and not differing(exported, wanted) and any(wanted.values()), f"{metric} is {name}")


def compare_tokens(scraped: Samples, export: dict) -> None:
    found = names.metrics(export)
    for metric, name in (
        ("gen_ai.server.time_to_first_token", "alim_bridge_time_to_first_token_seconds"),
        ("gen_ai.server.time_per_output_token", "alim_bridge_inter_token_seconds"),
    ):
        (point,) = names.points(found[metric])
        wanted = {key: value for key, value in scraped.items() if key[0].startswith(name)}
        wrong = differing(names.buckets(name, frozenset(), point), wanted)
        attributes = names.attributes(point["attributes"])
        who = {"gen_ai.operation.name": "invoke_agent", "gen_ai.provider.name": "alim"}
        check(not wrong and attributes == who and int(point["count"]) > 0, f"{metric} is {name} {wrong[:3] or ''}")


def judge_shape(export: dict, traces: list[dict]) -> None:
    resource = names.resource(export)
    keys = ("service.name", "service.version", "service.instance.id")
    check(all(resource.get(it) for it in keys), f"the resource has {', '.join(keys)}")
    check(bool(traces) and names.resource(traces[-1]) == resource, "it is that of the traces")
    kinds = [it for metric in names.metrics(export).values() for it in (metric.get("sum"), metric.get("histogram")) if it]
    check(all(it["aggregationTemporality"] == 2 for it in kinds), f"{len(kinds)} sums and histograms are cumulative")
    starts = {point["startTimeUnixNano"] for it in kinds for point in it["dataPoints"]}
    age = time.time() - int(min(starts)) / 1e9
    check(len(starts) == 1 and 0 < age < 120, "they have one start, which is the bridge's")
    process = {"process.cpu.time": "s", "process.memory.usage": "By", "process.uptime": "s", "process.thread.count": "{thread}"}
    found = names.metrics(export)
    values = {it: names.number(names.points(found[it])[0]) for it in process}
    units = {it: found[it].get("unit") for it in process}
    check(all(values.values()) and units == process, f"the process has {', '.join(process)}")
    check(abs(values["process.uptime"] - age) < 10, "its uptime is that of its start")


def is_compared(alim: Alim, sink: Sink, collector: Collector, callers: Path) -> None:
    settings = {"ALIM_BRIDGE_OTLP_ENDPOINT": f"http://{collector.address}", "ALIM_BRIDGE_CALLERS_FILE": str(callers)}
    bridge = Bridge(alim, **settings, OTEL_METRIC_EXPORT_INTERVAL="250", OTEL_BSP_SCHEDULE_DELAY="250")
    try:
        ended = mix(bridge)
        scraped, export = settled(bridge, sink)
        compare_own(scraped, export)
        compare_calls(scraped, export, ended)
        compare_tokens(scraped, export)
        judge_shape(export, sink.traces)
        check(bridge.failed() == 0, "no export failed")

        collector.kill()
        check(bridge.fails(3), "without a collector, exports fail and are counted")
        check(all(bridge.answers() for _ in range(20)), "calls go on")
        check(len(bridge.warnings()) == 1, "one warning is logged")
        seen = len(sink.exports)
        collector.start()
        back = sink.after(seen + 1)
        now = {it: sum(names.number(point) for point in names.points(names.metrics(back)[it])) for it in ("grpc.server.call.started",)}
        before = sum(names.number(it) for it in names.points(names.metrics(export)["grpc.server.call.started"]))
        check(now["grpc.server.call.started"] == before + 20, "when it is back, it gets all that happened in between")
    finally:
        bridge.kill()


def is_flushed(alim: Alim, sink: Sink, collector: Collector) -> None:
    bridge = Bridge(alim, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=collector.address)
    try:
        bridge.answers()
        seen, traces = len(sink.exports), len(sink.traces)
        code, took = bridge.stop()
        sent = sink.exports[seen:]
        started = [names.number(it) for export in sent for it in names.points(names.metrics(export)["grpc.server.call.started"])]
        check((code, sum(started)) == (0, 1), f"the last metrics are sent at the stop ({took:.1f} s)")
        check(len(sink.traces) == traces, "a collector of metrics alone gets no traces")
    finally:
        bridge.kill()


def is_bounded(alim: Alim) -> None:
    silent = Silent()
    settings = {"ALIM_BRIDGE_OTLP_ENDPOINT": f"http://{silent.address}", "ALIM_BRIDGE_DRAIN_TIMEOUT": "0s"}
    variables = {"OTEL_METRIC_EXPORT_INTERVAL": "100", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT": "50", "OTEL_TRACES_SAMPLER": "always_off"}
    bridge = Bridge(alim, **settings, **variables)
    try:
        check(bridge.fails(20), "exports to a silent collector end by their timeout")
        before = bridge.resident()
        check(bridge.fails(100, 40), "and the next ones too")
        grown = (bridge.resident() - before) / 1e6
        check(grown < 4, f"120 of them are not kept: {grown:.1f} MB more after the last 100")
        check(bridge.answers(), "calls go on")
        check(len(bridge.warnings()) == 1, "one warning is logged")
        code, took = bridge.stop()
        check(code == 0 and took < 3, f"the stop does not wait for it ({took:.1f} s)")
    finally:
        bridge.kill()
        silent.stop()


def is_rejected(alim: Alim) -> None:
    partial = b"\x0a\x07\x08\x05\x12\x03bad"  # partial_success: five data points, "bad"
    for answer, name in ((grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"), (partial, "a partial success")):
        server = Answering(answer)
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{server.address}", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b"}
        bridge = Bridge(alim, **variables, OTEL_METRIC_EXPORT_INTERVAL="100", OTEL_EXPORTER_OTLP_COMPRESSION="gzip")
        try:
            check(bridge.fails(3) and bridge.answers(), f"{name} is counted, and calls go on")
            check(len(bridge.warnings()) == 1, "one warning is logged")
            check(server.headers.get("api-key") == "a b", "the headers of the variable are sent")
        finally:
            bridge.kill()
            server.stop()


def is_chosen(alim: Alim) -> None:
    """Which variables send what."""
    for variables, wanted, what in (
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "ADDRESS"}, {TRACES}, "a collector of traces alone gets no metrics"),
        ({"ALIM_BRIDGE_OTLP_ENDPOINT": "ADDRESS", "OTEL_METRICS_EXPORTER": "none"}, {TRACES}, "OTEL_METRICS_EXPORTER=none sends none"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ADDRESS", "OTEL_TRACES_EXPORTER": "none"}, {METRICS}, "OTEL_TRACES_EXPORTER=none leaves metrics"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "ADDRESS", "OTEL_SDK_DISABLED": "true"}, set(), "OTEL_SDK_DISABLED=true sends nothing"),
        ({"ALIM_BRIDGE_OTLP_ENDPOINT": "ADDRESS"}, {METRICS, TRACES}, "OTLP_ENDPOINT gets both"),
    ):
        server = Answering()
        settings = {name: value.replace("ADDRESS", f"http://{server.address}") for name, value in variables.items()}
        bridge = Bridge(alim, **settings)
        try:
            bridge.answers()
            bridge.stop()
            check(set(server.asked) == wanted, what)
        finally:
            bridge.kill()
            server.stop()
    server = Answering(grpc.StatusCode.UNIMPLEMENTED)
    bridge = Bridge(alim, ALIM_BRIDGE_OTLP_ENDPOINT=f"http://{server.address}", OTEL_METRIC_EXPORT_INTERVAL="100")
    try:
        time.sleep(1)
        check(server.asked[METRICS] == 1 and bridge.failed() == 0, "a collector that takes no metrics is left alone")
        check(len(bridge.warnings()) == 1, "one warning says how to send none")
    finally:
        bridge.kill()
        server.stop()


def main() -> None:
    alim, sink = Alim(), Sink()
    collector = Collector(sink)
    with tempfile.TemporaryDirectory() as folder:
        callers = Path(folder) / "callers.toml"
        key = hashlib.sha256(b"orders").hexdigest()
        callers.write_text(f'[[caller]]\nname = "orders"\nkey_sha256 = ["{key}"]\n')
        try:
            is_compared(alim, sink, collector, callers)
            is_flushed(alim, sink, collector)
            is_bounded(alim)
            is_rejected(alim)
            is_chosen(alim)
        finally:
            collector.kill()
            alim.stop()
    finish()


main()
