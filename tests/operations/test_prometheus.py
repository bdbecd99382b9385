"""The rules and the dashboard before a real Prometheus that scrapes a real bridge."""

import json
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import DEPLOY, MAX_CALLS, Bridge, dashboard, eventually, http, reasons, rules, running
from promql import alternatives, grouped_by, selectors

FAULTS = ["rate_limited", "unavailable", "agent_failed", "truncated", "empty"]
# What the dashboard's variables stand for here; every window holds several scrapes.
VARIABLES = {"$__rate_interval": "1m", "$namespace": ".*", "$job": "alim-bridge", "$instance": ".*"}


class Prometheus:
    def __init__(self, address: str, bridge: Bridge) -> None:
        self.address = address
        self.bridge = bridge

    def get(self, path: str, **query: str) -> Any:
        return json.loads(http(f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"))["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        return self.get("query", query=expression)["result"]

    def value(self, expression: str) -> float:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else 0

    def series(self, selector: str) -> list[dict[str, str]]:
        return self.get("series", **{"match[]": selector})


@pytest.fixture(scope="module")
def prometheus(bridge: Bridge, guarded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus with the repository's own files, pointed at both bridges and asking them every second."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [bridge.admin, guarded]
    config["scrape_configs"][0]["static_configs"][0]["labels"] = {"namespace": "alim-bridge"}  # as in Kubernetes
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "rules.yml").write_text((DEPLOY / "prometheus/rules.yml").read_text())
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += ["--web.listen-address=127.0.0.1:0", "--log.format=json"]
    with running(command, listening) as (_, address):
        prometheus = Prometheus(address, bridge)
        make_calls(prometheus)
        yield prometheus


def listening(line: str) -> str | None:
    """The address in the record that names the port that the system chose."""
    record = json.loads(line) if line.startswith("{") else {}
    address = record.get("address", "")
    is_chosen = record.get("msg") == "Listening on" and not address.endswith(":0")
    return address if is_chosen else None


def make_calls(prometheus: Prometheus) -> None:
    """Calls and faults of every kind, twice: a counter that begins at 1 has not risen, so the first round must be scraped."""
    for part in range(1, 3):
        for method in ("invoke", "stream"):
            assert prometheus.bridge.call(method) == 0
            assert prometheus.bridge.call(method, message="") == 3
        codes = [prometheus.bridge.call("stream", fault) for fault in FAULTS]
        assert codes == [8, 14, 13, 14, 14]
        ended = 'sum(grpc_server_handled_total{grpc_service="alim.v1.GraphService"})'
        eventually(lambda: prometheus.value(ended) == part * 9, f"round {part} of the calls is scraped")
    eventually(lambda: prometheus.value('alim_bridge:failures:rate5m{fault="alim"}') > 0, "a recorded rate")


def of_reason(reason: str) -> str:
    return f'alim_bridge:failures_by_reason:rate5m{{reason="{reason}"}}'


def test_promtool_has_no_complaint_about_the_metrics(prometheus: Prometheus, guarded: str) -> None:
    for metrics in (prometheus.bridge.metrics(), http(f"http://{guarded}/metrics")):
        checked = subprocess.run(["promtool", "check", "metrics"], input=metrics, capture_output=True, text=True)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_bridges_are_scraped_and_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    targets = prometheus.get("targets")["activeTargets"]
    assert [(target["labels"]["job"], target["health"]) for target in targets] == [("alim-bridge", "up")] * 2
    groups = prometheus.get("rules")["groups"]
    health = {rule["name"]: (rule["health"], rule.get("lastError")) for group in groups for rule in group["rules"]}
    assert {name: found for name, found in health.items() if found != ("ok", None)} == {}
    assert len([rule for group in groups for rule in group["rules"]]) == len(rules())


def test_what_the_records_say_is_what_was_called(prometheus: Prometheus) -> None:
    found = {series["metric"]["fault"] for series in prometheus.query("alim_bridge:failures:rate5m > 0")}
    assert found == {"alim", "operator", "caller"}
    assert prometheus.value('alim_bridge:failures:rate5m{fault="bridge"}') == 0
    refused = [prometheus.value(of_reason(reason)) for reason in ("BRIDGE_SATURATED", "BRIDGE_DRAINING")]
    assert refused == [0, 0]


def test_a_first_failure_is_a_rise(prometheus: Prometheus) -> None:
    """Each reason is there from the start, so what fails once is in a rate."""
    assert {series["reason"] for series in prometheus.series("alim_bridge_failures_total")} == reasons()
    assert prometheus.bridge.call("stream", "bad_value") == 3
    rejected = of_reason("UPSTREAM_REJECTED_REQUEST")
    eventually(lambda: prometheus.value(rejected) > 0, "one failure is in the recorded rate")


def test_a_certificate_that_ends_soon_is_told(prometheus: Prometheus, guarded: str) -> None:
    soon = 'ALERTS{alertname="AlimBridgeCertificateExpiring"}'
    (alert,) = eventually(lambda: prometheus.query(soon), "AlimBridgeCertificateExpiring is pending")
    assert alert["metric"]["instance"] == guarded


def test_what_the_bridge_refused_is_told_apart_from_what_alim_refused(prometheus: Prometheus) -> None:
    bridge = prometheus.bridge
    held = [bridge.begun("stream", "silent") for _ in range(MAX_CALLS)]
    try:
        eventually(lambda: f"\nalim_bridge_open_calls {MAX_CALLS}\n" in bridge.metrics(), "the bridge is full")
        assert bridge.call("invoke") == bridge.call("stream") == 14
    finally:
        for call in held:
            call.terminate()
            call.wait()
    eventually(lambda: prometheus.value(of_reason("BRIDGE_SATURATED")) > 0, "the refusals are recorded")
    eventually(lambda: "\nalim_bridge_open_calls 0\n" in bridge.metrics(), "the places are free again")


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", resolve(target["expr"])
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            inner = variable["query"]["query"].removeprefix("label_values(").rsplit(",", 1)[0]
            yield f"variable {variable['name']}", resolve(inner)


def resolve(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*row, id=f"{row[0]}-{i}") for i, row in enumerate(expressions())])
def test_every_metric_and_label_that_is_asked_for_exists(where: str, expression: str, prometheus: Prometheus) -> None:
    """Values of `reason` are the code's, those of `grpc_code` need not have come; all else must be in the live metrics."""
    labels: set[str] = set()
    found = list(selectors(expression))
    assert found or expression.startswith("vector("), f"{where} selects nothing: {expression}"
    for selector in found:
        for label, how, value in selector.matchers:
            if label == "reason":
                assert set(alternatives(value)) <= reasons(), f"{where} asks for a reason that there is not: {value}"
        asked = [matcher for matcher in selector.matchers if matcher[0] not in ("reason", "grpc_code")]
        named = {label for label, _, _ in selector.matchers}
        selector.matchers = asked
        series = prometheus.series(selector.text())
        assert series, f"{where} asks for what is not there: {selector.text()}"
        have = set().union(*series)
        assert named <= have, f"{where}: {selector.metric} has no label {named - have}"
        labels |= have
    assert not found or grouped_by(expression) <= labels, f"{where} groups by {grouped_by(expression) - labels}"


@pytest.mark.parametrize("panel", [panel for panel in dashboard()["panels"] if "targets" in panel], ids=lambda panel: panel["title"])
def test_every_panel_shows_something(panel: dict[str, Any], prometheus: Prometheus) -> None:
    for target in panel["targets"]:
        shown = prometheus.query(resolve(target["expr"]))
        assert shown, f"nothing for {target['expr']}"
        labels = set(shown[0]["metric"])
        wanted = {part.split("}}")[0].strip() for part in target["legendFormat"].split("{{")[1:]}
        assert wanted <= labels, f"the legend names {wanted - labels}"


def test_an_alert_begins_when_alim_goes(prometheus: Prometheus) -> None:
    """The last test of this file: it ends the embedded ALİM."""
    prometheus.bridge.emulator.terminate()
    began = 'ALERTS{alertname="AlimBridgeUpstreamDown"}'
    eventually(lambda: prometheus.query(began), "AlimBridgeUpstreamDown is pending")


def test_one_source_feeds_the_operator_too() -> None:
    """`deploy/check --write` makes the second from the first."""
    source = yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())
    made = yaml.safe_load((DEPLOY / "kubernetes/components/monitoring/prometheusrule.yaml").read_text())
    assert made["spec"] == source


def test_promtool_accepts_the_files_and_every_alert_is_tested_both_ways() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        checked = subprocess.run(["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    cases = yaml.safe_load(Path(DEPLOY / "prometheus/rules_test.yml").read_text())["tests"]
    tested = [test for case in cases for test in case["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {test["alertname"] for test in tested if test.get("exp_alerts")} == alerts
    assert {test["alertname"] for test in tested if not test.get("exp_alerts")} == alerts
