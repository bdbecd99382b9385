"""docs/runbook.md against the code: nothing that can happen is missing, and nothing that it names is made up."""

import re
import subprocess

from conftest import BIN, ROOT, Bridge, http, reasons, rules
from promql import alternatives, selectors

RUNBOOK = (ROOT / "docs/runbook.md").read_text()
SPANS = set(re.findall(r"`([^`\n]+)`", RUNBOOK))


def section(title: str) -> str:
    return RUNBOOK.split(f"\n## {title}\n")[1].split("\n## ")[0]


def anchors() -> set[str]:
    """Every heading as GitHub makes a link of it."""
    headings = re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def alerts() -> dict[str, str]:
    return {rule["alert"]: rule["annotations"]["runbook_url"] for rule in rules() if "alert" in rule}


def test_every_reason_has_a_row_and_no_other_has_one() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", section("Reasons"), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == reasons()


def test_the_records_blame_whom_the_tables_blame() -> None:
    blamed = {}
    for rule in rules():
        if rule.get("record") == "alim_bridge:failures:rate5m":
            ((_, _, pattern),) = next(selectors(rule["expr"])).matchers
            blamed[rule["labels"]["fault"]] = set(alternatives(pattern))
    tables = {}
    titles = {"ALİM's fault": "alim", "The fault of whoever runs the bridge": "operator"}
    titles |= {"The callers' fault": "caller", "The callers' or ALİM's fault": "either", "The bridge's fault": "bridge"}
    for table in section("Reasons").split("\n### ")[1:]:
        title, rows = table.split("\n", 1)
        tables[titles[title]] = set(re.findall(r"^\| `([A-Z_]+)` \|", rows, re.MULTILINE))
    assert blamed == tables


def test_every_alert_has_an_entry_and_links_to_it() -> None:
    entries = re.findall(r"^### (\w+)$", section("Alerts"), re.MULTILINE)
    assert entries == list(alerts()), "in the order of rules.yml"
    for alert, url in alerts().items():
        assert url == f"https://runbooks.example/alim-bridge.md#{alert.lower()}"


def test_its_jq_line_passes_over_lines_that_are_no_record() -> None:
    program = re.search(r"\| jq -Rr '([^']+)'", RUNBOOK).group(1)
    record = '{"message": "call ended", "grpc.code": "Internal", "reason": "UPSTREAM_FAILED", "upstream.status": 500}'
    lines = f'thread main panicked\n123\n{record}\n{{"message": "serving"}}\n{record[:20]}\n'
    shown = subprocess.run(["jq", "-Rr", program], input=lines, capture_output=True, text=True)
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "Internal UPSTREAM_FAILED 500\n", "")


def test_every_link_inside_leads_somewhere() -> None:
    links = set(re.findall(r"\]\(#([^)]+)\)", RUNBOOK))
    assert links and links <= anchors(), links - anchors()


def test_every_metric_that_it_names_is_a_live_one(bridge: Bridge, guarded: str) -> None:
    assert (bridge.call("stream"), bridge.call("stream", "truncated"), bridge.call("stream", "rate_limited")) == (0, 14, 8)
    live = set(re.findall(r"^# TYPE (\w+) ", bridge.metrics() + http(f"http://{guarded}/metrics"), re.MULTILINE))
    named = {span for span in SPANS if re.fullmatch(r"(alim_bridge|grpc_server|process)_[a-z_]+", span)}
    assert len(named) >= 8 and named <= live, named - live


def test_every_setting_that_it_names_is_one() -> None:
    shown = subprocess.run([BIN, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    settings = set(re.findall(r"\[env:\s+ALIM_BRIDGE_(\w+)\]", shown))
    upper = {span.split("=")[0] for span in SPANS if re.fullmatch(r"[A-Z]+(_[A-Z]+)*(=.*)?", span)}
    of_others = {"NOT_SERVING", "UNAVAILABLE", "INTERNAL", "TOKIO_WORKER_THREADS", "OTEL_BSP_MAX_QUEUE_SIZE"}
    of_others |= {f"OTEL_{name}" for name in ("METRICS_EXPORTER", "METRIC_EXPORT_INTERVAL")}
    of_others |= {f"OTEL_EXPORTER_OTLP_METRICS_{name}" for name in ("HEADERS", "TIMEOUT")}
    assert upper - reasons() - of_others <= settings, upper - reasons() - settings


def test_every_field_and_message_of_the_log_that_it_names_is_written() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    fields = {"rpc.method", "grpc.code", "reason", "upstream.status", "duration_ms", "deadline_ms", "ttft_ms", "tokens"}
    fields |= {"bytes_in", "bytes_out", "request_id", "trace_id", "caller"}
    assert fields <= SPANS
    record = (ROOT / "src/telemetry/access.rs").read_text()
    assert all(f'"{field}",' in record for field in fields)
    for message in ("draining", "stopped", "serving", "call ended", "the upstream is not healthy", "changed files taken over", "a connection over the limit was closed", "MAX_CALLS calls are open", "connections can't be accepted"):
        assert message in RUNBOOK and f'"{message}"' in sources, message
