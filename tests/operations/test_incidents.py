"""Incidents as they are played: a real bridge that meets each, and the alert that a real Prometheus with our rules raises.

Each bridge is in a namespace of its own, so an alert of one also shows that no other is merged into it."""

import json
import os
import ssl
import subprocess
import threading
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BIN, DEPLOY, KEY, Bridge, eventually, http, running, serving
from test_prometheus import Prometheus, listening


class Incidents:
    """Prometheus and the bridges that it scrapes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack, self.targets = folder, stack, folder / "targets.json"
        self.targets.write_text("[]")
        self.known: list[dict[str, Any]] = []
        config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"] = [{"job_name": "alim-bridge", "file_sd_configs": [{"files": [str(self.targets)], "refresh_interval": "1s"}]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "rules.yml").write_text((DEPLOY / "prometheus/rules.yml").read_text())
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        command += ["--web.listen-address=127.0.0.1:0", "--log.format=json"]
        self.prometheus = Prometheus(stack.enter_context(running(command, listening))[1], None)
        eventually(self.is_ready, "Prometheus is ready")

    def is_ready(self) -> bool:
        try:
            return bool(http(f"http://{self.prometheus.address}/-/ready"))
        except urllib.error.HTTPError:
            return False

    def scrape(self, namespace: str, admin: str) -> None:
        self.known.append({"targets": [admin], "labels": {"namespace": namespace}})
        (self.folder / "new.json").write_text(json.dumps(self.known))
        os.replace(self.folder / "new.json", self.targets)
        eventually(lambda: self.prometheus.query(f'alim_bridge_build_info{{namespace="{namespace}"}}'), f"{namespace} is scraped")

    def bridge(self, namespace: str, upstream: str, *flags: str) -> Bridge:
        env = {"PATH": os.environ["PATH"], "ALIM_BRIDGE_UPSTREAM_API_KEY": KEY, "OTEL_METRIC_EXPORT_INTERVAL": "200"}
        serve = [BIN, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]
        serve += ["--upstream-url", upstream, "--upstream-health-interval", "200ms", *flags]
        server, addresses = self.stack.enter_context(running(serve, serving, env=env))
        bridge = Bridge(*addresses.split(), server, upstream)
        self.scrape(namespace, bridge.admin)
        return bridge

    def raised(self, namespace: str, alert: str) -> dict[str, str]:
        """The labels of the alert, once it is pending or firing."""
        query = f'ALERTS{{alertname="{alert}",namespace="{namespace}"}}'
        (found,) = eventually(lambda: self.prometheus.query(query), f"{alert} of {namespace}")
        return found["metric"]

    def value(self, namespace: str, metric: str, labels: str = "") -> float:
        return self.prometheus.value(f'{metric}{{namespace="{namespace}"{labels}}}')


@pytest.fixture(scope="module")
def incidents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Incidents]:
    with ExitStack() as stack:
        yield Incidents(tmp_path_factory.mktemp("incidents"), stack)


@pytest.fixture(scope="module")
def alim(incidents: Incidents) -> str:
    emulate = [BIN, "emulate", "--listen", "127.0.0.1:0", "--token-delay", "1ms"]
    says = lambda line: line.split()[-1] if "listening on" in line else None
    return incidents.stack.enter_context(running(emulate, says))[1] + "/api/v1"


@contextmanager
def foreign(status: int, page: str, certificate: Path | None = None) -> Iterator[str]:
    """The address of an HTTP server that is no ALİM."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path, days: int) -> Path:
    folder.mkdir()
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days)]
    files = ["-keyout", f"{folder}/tls.key", "-out", f"{folder}/tls.crt"]
    subprocess.run([*made, "-subj", "/CN=127.0.0.1", *files], check=True, capture_output=True)
    return folder


def twice(incidents: Incidents, namespace: str, call: Callable[[], None]) -> None:
    """A counter that begins at 1 has not risen: so the first call is scraped before the second."""
    for part in (1, 2):
        call()
        ended = f'sum(grpc_server_handled_total{{namespace="{namespace}",grpc_service="alim.v1.GraphService"}})'
        eventually(lambda: incidents.prometheus.value(ended) >= part, f"call {part} of {namespace} is scraped")


def test_a_url_without_that_location_is_a_missing_route_and_names_the_setting(incidents: Incidents) -> None:
    with foreign(404, "<html>404 Not Found</html>") as server:
        bridge = incidents.bridge("no-location", f"http://{server}/api/v1")
        for method, code in (("invoke", 12), ("stream", 12)):
            twice(incidents, "no-location", lambda: ends(bridge.call(method), code))
        assert incidents.raised("no-location", "AlimBridgeMisrouted")["severity"] == "page"
        assert incidents.raised("no-location", "AlimBridgeUpstreamDown")["severity"] == "page"
        assert incidents.value("no-location", "alim_bridge:failures:rate5m", ',fault="caller"') == 0


def test_http_to_a_tls_port_is_not_the_callers_fault(incidents: Incidents) -> None:
    with foreign(400, "<html>The plain HTTP request was sent to HTTPS port</html>") as server:
        bridge = incidents.bridge("plain-to-tls", f"http://{server}/api/v1")
        twice(incidents, "plain-to-tls", lambda: ends(bridge.call("invoke"), 13))
        assert [bridge.call("invoke") for _ in range(8)] == [13] * 8  # fewer in five minutes are noise
        assert incidents.raised("plain-to-tls", "AlimBridgeUpstreamFailing")["severity"] == "page"
        assert incidents.raised("plain-to-tls", "AlimBridgeUpstreamDown")["severity"] == "page"
        assert incidents.value("plain-to-tls", "alim_bridge:failures:rate5m", ',fault="caller"') == 0


def ends(code: int, expected: int) -> None:
    assert code == expected


def test_an_alim_that_hangs_pages_while_callers_give_up(incidents: Incidents, alim: str) -> None:
    bridge = incidents.bridge("hung", alim)
    context = json.dumps({"emulator_fault": "silent"})
    command = [BIN, "invoke", "--address", bridge.address, "--timeout", "300ms", "--scenario-context", context, "Salam"]
    for _ in range(4):
        twice(incidents, "hung", lambda: ends(subprocess.run(command, capture_output=True).returncode - 64, 4))
    assert incidents.raised("hung", "AlimBridgeNoSuccess")["severity"] == "page"
    # A caller whose connection took over 100 ms gives up too early to count as a deadline.
    counts = lambda: (incidents.value("hung", "alim_bridge_failures_total", ',reason="CALLER_DEADLINE"'), incidents.value("hung", "alim_bridge_caller_cancelled_total"))
    eventually(lambda: sum(counts()) == 8, "all calls are scraped")
    assert counts()[0] > counts()[1], counts()


def test_a_wrong_authority_for_alim_is_found_by_the_probe(incidents: Incidents) -> None:
    with foreign(200, "", certificate(incidents.folder / "alim-tls", 30)) as server:
        other = certificate(incidents.folder / "other-ca", 30) / "tls.crt"
        incidents.bridge("wrong-ca", f"https://{server}/api/v1", "--upstream-ca-file", str(other))
        assert incidents.raised("wrong-ca", "AlimBridgeUpstreamDown")["severity"] == "page"


def test_a_certificate_on_its_last_day_pages(incidents: Incidents, alim: str) -> None:
    files = certificate(incidents.folder / "last-day", 1)
    incidents.bridge("last-day", alim, "--tls-cert-file", f"{files}/tls.crt", "--tls-key-file", f"{files}/tls.key")
    assert incidents.raised("last-day", "AlimBridgeCertificateEnds")["severity"] == "page"


def test_callers_that_do_not_trust_the_certificate_are_seen(incidents: Incidents, alim: str) -> None:
    files = certificate(incidents.folder / "untrusted", 30)
    bridge = incidents.bridge("untrusted", alim, "--tls-cert-file", f"{files}/tls.crt", "--tls-key-file", f"{files}/tls.key")
    other = certificate(incidents.folder / "callers-ca", 30) / "tls.crt"
    command = [BIN, "invoke", "--address", f"https://{bridge.address}", "--ca-file", str(other), "--timeout", "2s", "Salam"]

    def failing() -> list[Any]:
        assert subprocess.run(command, capture_output=True).returncode != 0
        return incidents.prometheus.query('ALERTS{alertname="AlimBridgeTlsFailing",namespace="untrusted"}')

    eventually(failing, "AlimBridgeTlsFailing")


def test_a_hog_is_named(incidents: Incidents, alim: str) -> None:
    callers = incidents.folder / "callers.toml"
    added = subprocess.run([BIN, "callers", "add", str(callers), "hog"], check=True, capture_output=True, text=True)
    key = incidents.folder / "hog.key"
    key.write_text(added.stdout.strip())
    bridge = incidents.bridge("hog", alim, "--max-calls", "3", "--callers-file", str(callers))
    context = json.dumps({"emulator_fault": "silent"})
    command = [BIN, "stream", "--address", bridge.address, "--caller-key-file", str(key), "--scenario-context", context, "Salam"]
    held = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(3)]
    try:
        assert incidents.raised("hog", "AlimBridgeBusyCaller")["caller"] == "hog"
    finally:
        for call in held:
            call.terminate()
            call.wait()


def test_a_burst_above_30_calls_in_a_minute_is_suspected(incidents: Incidents) -> None:
    emulate = [BIN, "emulate", "--listen", "127.0.0.1:0", "--token-delay", "1ms", "--rate-limit", "30/min"]
    says = lambda line: line.split()[-1] if "listening on" in line else None
    _, url = incidents.stack.enter_context(running(emulate, says))
    bridge = incidents.bridge("burst", f"{url}/api/v1")
    codes = [bridge.call("invoke") for _ in range(40)]
    assert set(codes) == {0, 13}
    assert incidents.raised("burst", "AlimBridgeRateLimitSuspected")["severity"] == "ticket"


def test_a_collector_that_is_gone_costs_spans_and_exports_that_are_counted(incidents: Incidents, alim: str) -> None:
    bridge = incidents.bridge("no-collector", alim, "--otlp-endpoint", "http://127.0.0.1:1")
    assert bridge.call("invoke") == 0
    for alert in ("AlimBridgeSpansDropped", "AlimBridgeMetricsNotExported"):
        assert incidents.raised("no-collector", alert)["severity"] == "ticket"


def test_lines_that_a_full_disk_does_not_take_are_counted(incidents: Incidents, alim: str) -> None:
    env = {"PATH": os.environ["PATH"], "ALIM_BRIDGE_UPSTREAM_API_KEY": KEY}
    serve = [BIN, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--upstream-url", alim]
    with open("/dev/full", "w") as disk, subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=disk, text=True, env=env) as server:
        try:
            address = server.stdout.readline().split()[-1]
            (admin,) = {port for port in ports(server.pid) if not address.endswith(f":{port}")}
            incidents.scrape("full-disk", f"127.0.0.1:{admin}")
            bridge = Bridge(address, f"127.0.0.1:{admin}", server)
            calls = 20
            assert [bridge.call("invoke") for _ in range(calls)] == [0] * calls
            lost = "alim_bridge_log_lines_dropped_total"
            eventually(lambda: incidents.value("full-disk", lost) >= calls, "each call's line is counted")
            assert incidents.raised("full-disk", "AlimBridgeLogLinesDropped")["severity"] == "ticket"
        finally:
            server.terminate()


def ports(pid: int) -> set[int]:
    """The TCP ports that a process listens on (proc(5))."""
    sockets = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [row.split() for row in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}
