"""What an export says, under the names of Prometheus: an independent reading of docs/deploy.md and of Prometheus' own rules for OTLP."""

import re
from typing import Any

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

UNITS = {"s": "_seconds", "By": "_bytes"}
SCRAPED = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
GO_CODES = {"CANCELLED": "Canceled"}


def scraped(text: str) -> Samples:
    """The samples of Prometheus' text format."""
    found = (SCRAPED.match(line) for line in text.splitlines() if line and not line.startswith("#"))
    return {(it[1], frozenset(LABEL.findall(it[2] or ""))): float(it[3]) for it in found if it}


def resource(export: dict[str, Any]) -> dict[str, str]:
    (group,) = next(iter(export.values()))
    return attributes(group["resource"]["attributes"])


def attributes(pairs: list[dict[str, Any]]) -> dict[str, str]:
    return {it["key"]: str(next(iter(it["value"].values()))) for it in pairs}


def metrics(export: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (group,) = export["resourceMetrics"]
    (scope,) = group["scopeMetrics"]
    return {it["name"]: it for it in scope["metrics"]}


def points(metric: dict[str, Any]) -> list[dict[str, Any]]:
    return next(metric[it] for it in ("sum", "gauge", "histogram") if it in metric)["dataPoints"]


def number(point: dict[str, Any]) -> float:
    return float(point.get("asInt", point.get("asDouble", 0)))


def labels_of_call(found: dict[str, str]) -> frozenset[tuple[str, str]]:
    method = found.get("rpc.method", found.get("grpc.method"))
    service, _, name = ("unknown", "", "unknown") if method in ("_OTHER", "other") else method.rpartition("/")
    return frozenset({("grpc_service", service), ("grpc_method", name)})


def buckets(name: str, labels: frozenset[tuple[str, str]], point: dict[str, Any]) -> Samples:
    """The series that Prometheus makes of a histogram."""
    bounds = [f"{it:g}" for it in point["explicitBounds"]] + ["+Inf"]
    total, series = 0, {}
    for bound, count in zip(bounds, point["bucketCounts"], strict=True):
        total += int(count)
        series[f"{name}_bucket", labels | {("le", bound)}] = float(total)
    return series | {(f"{name}_count", labels): float(point["count"]), (f"{name}_sum", labels): point["sum"]}


def own(metric: dict[str, Any]) -> Samples:
    """A metric of the bridge as Prometheus stores it."""
    name = metric["name"].replace(".", "_") + UNITS.get(metric.get("unit", ""), "")
    if "histogram" in metric:
        found = (buckets(name, frozenset(attributes(it.get("attributes", [])).items()), it) for it in points(metric))
        return {key: value for series in found for key, value in series.items()}
    name += "_total" if metric.get("sum", {}).get("isMonotonic") else ""
    found = ((frozenset(attributes(it.get("attributes", [])).items()), number(it)) for it in points(metric))
    return {(name, labels): value for labels, value in found}


def without_type(samples: Samples) -> Samples:
    """`grpc_type` says nothing that the method does not."""
    return {(name, frozenset(it for it in labels if it[0] != "grpc_type")): value for (name, labels), value in samples.items()}


def go_code(status: str) -> str:
    return GO_CODES.get(status, "OK" if status == "OK" else "".join(word.capitalize() for word in status.split("_")))
