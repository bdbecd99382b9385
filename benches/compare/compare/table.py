"""The table as Markdown."""

from __future__ import annotations

from .results import Results
from .rows import Row

COLUMNS = ["bridge", "limit", "naive", "envoy", "aiohttp", "node", "direct"]
NONE = "–"


def table(rows: list[Row], results: Results) -> str:
    """Medians ± half of their range, ratios, goals."""
    head = ["", *COLUMNS, "÷ limit", "÷ envoy", "goal", ""]
    lines = [head, ["---"] + ["--:"] * (len(COLUMNS) + 2) + ["---", "---"]]
    for row in rows:
        cells = [cell(results, subject, row) for subject in COLUMNS]
        if all(value == NONE for value in cells):
            continue
        ratios = [ratio(results.ratio(row.figure, other)) for other in ("limit", "envoy")]
        goals = ", ".join(goal.text for goal in row.goals)
        lines.append([row.label, *cells, *ratios, goals, verdict(row, results)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def cell(results: Results, subject: str, row: Row) -> str:
    """A median and its spread."""
    value = results.median(subject, row.figure)
    if value is None:
        return NONE
    spread = results.spread(subject, row.figure)
    text = f"{value:,.{row.decimals}f}"
    return f"{text} ±{spread:.0%}" if spread >= 0.005 else text


CHOSEN = [
    Row("paced_cpu", "CPU-s per million tokens, paced", 1),
    Row("burst_cpu", "CPU-s per million tokens, burst", 2),
    Row("invoke_cpu_us", "CPU-µs per Invoke, saturated", 1),
    Row("token_p50_us", "token's way alone, p50 µs", 0),
    Row("first_p50_us", "first token alone, p50 µs", 0),
    Row("base_mib", "MiB without streams", 1),
]


def choices(variants: list[str], results: Results) -> str:
    """The bridge, and each variant with its multiple of the bridge's figure."""
    lines = [["", "bridge", *variants], ["---", "--:", *("--:" for _ in variants)]]
    for row in CHOSEN:
        ours = results.median("bridge", row.figure)
        cells = [cell(results, "bridge", row)]
        for variant in variants:
            theirs = results.median(variant, row.figure)
            times = f" ({theirs / ours:.2f} ×)" if ours and theirs is not None else ""
            cells.append(cell(results, variant, row) + times)
        lines.append([row.label, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def ratio(value: float | None) -> str:
    """A multiple."""
    return NONE if value is None else f"{value:.2f}"


def verdict(row: Row, results: Results) -> str:
    """Whether all goals of a row are met."""
    met = [goal.met(results) for goal in row.goals]
    if not met or None in met:
        return "" if not met else NONE
    return "ok" if all(met) else "**not**"


def missed(rows: list[Row], results: Results) -> list[str]:
    """The labels of rows whose goals are not met."""
    return [row.label for row in rows if verdict(row, results) == "**not**"]


def grown(rows: list[Row], results: Results) -> list[str]:
    """What the bridge may not come to on any machine, and does."""
    told = []
    for row in rows:
        value = results.median("bridge", row.figure)
        if row.most is not None and value is not None and value > row.most:
            told.append(f"{row.label}: {value:,.{row.decimals}f}, at most {row.most:,g}")
    if results.median("bridge", "survives") == 0:
        told.append("a paused tonic caller lost its connection")
    return told
