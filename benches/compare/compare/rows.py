"""The table's rows, and the goals that they are held against."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable

from .measures import Size
from .results import Results


@dataclass(frozen=True)
class Goal:
    """What the bridge must reach; `met` is None where a figure is missing."""

    text: str
    met: Callable[[Results], bool | None]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    figure: str
    label: str
    decimals: int = 1
    goals: tuple[Goal, ...] = field(default=())
    most: float | None = None
    """What the bridge may come to in the short form, where a figure is the same on any machine: a little above what is
    measured, so that a step back is seen."""


def at_most(figure: str, most: float) -> Goal:
    """An absolute goal."""
    return Goal(f"≤ {most:,g}", lambda results: judged(results.median("bridge", figure), most))


def times(figure: str, most: float, other: str) -> Goal:
    """A goal relative to another subject."""
    return Goal(f"≤ {most:g} × {other}", lambda results: judged(results.ratio(figure, other), most))


def at_least(figure: str, least: float) -> Goal:
    """An absolute goal from below."""
    def met(results: Results) -> bool | None:
        value = results.median("bridge", figure)
        return None if value is None else value >= least
    return Goal(f"≥ {least:,g}", met)


def over_direct(figure: str, most: float) -> Goal:
    """A goal for what is added to the direct way."""
    def met(results: Results) -> bool | None:
        ours, direct = results.median("bridge", figure), results.median("direct", figure)
        return None if ours is None or direct is None else ours - direct <= most
    return Goal(f"≤ direct + {most:g}", met)


def judged(value: float | None, most: float) -> bool | None:
    """Whether a value that may be missing is small enough."""
    return None if value is None else value <= most


def many(streams: int, most: float) -> float | None:
    """A bound where there are enough streams that their connections do not count."""
    return most if streams >= 1000 else None


def rows(size: Size) -> list[Row]:
    """All rows for a run of this size."""
    paced = "paced_cpu"
    return [
        Row(paced, "CPU-s per million tokens, paced", 1, (times(paced, 1.15, "limit"), times(paced, 1.15, "envoy"))),
        Row("paced_rate", "tokens/s reached, of 20,000", 0),
        Row("instructions", "user instructions per token, paced", 0, (at_most("instructions", 10_000),), 16_500),
        Row("system_calls", "system calls per token, paced", 2, (at_most("system_calls", 1.9),), 1.6),
        Row("burst_cpu", "CPU-s per million tokens, burst", 2, (times("burst_cpu", 0.2, "naive"),)),
        Row("burst_packing", "messages a DATA frame, burst", 1, (at_least("burst_packing", 50),)),
        Row("burst_first_p50_us", "first token under saturation, p50 µs", 0, (at_most("burst_first_p50_us", 10_000),)),
        Row("burst_first_p99_us", "first token under saturation, p99 µs", 0),
        Row("burst_rate", "tokens/s, burst", 0),
        Row("invoke_cpu_us", "CPU-µs per Invoke, saturated", 1, (times("invoke_cpu_us", 0.35, "envoy"),)),
        Row("invoke_rate", "Invokes/s, saturated", 0),
        Row("invoke_p50_us", "Invoke alone, p50 µs", 0, (times("invoke_p50_us", 0.6, "envoy"),)),
        Row("invoke_p99_us", "Invoke alone, p99 µs", 0),
        Row("token_p50_us", "token's way alone, p50 µs", 0, (over_direct("token_p50_us", 60),)),
        Row("token_p99_us", "token's way alone, p99 µs", 0),
        Row("paced_p50_us", "token's way, paced, p50 µs", 0),
        Row("paced_p99_us", "token's way, paced, p99 µs", 0),
        Row("first_p50_us", "time to first token alone, p50 µs", 0, (times("first_p50_us", 0.3, "aiohttp"),)),
        Row("first_p99_us", "time to first token alone, p99 µs", 0),
        Row("base_mib", "MiB without streams", 1, (at_most("base_mib", 15),), 15),
        *(Row(f"idle_kib_{step}", f"KiB per idle stream, {step:,}", 1, (at_most(f"idle_kib_{step}", 20),), many(step, 24))
          for step in size.steps),
        *(Row(f"stall_kib_{step}", f"KiB per stalled stream, {step:,}", 1, (at_most(f"stall_kib_{step}", 200),), many(step, 200))
          for step in size.steps),
        *(Row(f"paced_cpu_{n}", f"CPU-s per million tokens, {n:,} streams") for n in size.growth),
        Row("paced_cpu_64c", f"CPU-s per million tokens, {size.connections} connections"),
        Row("invoke_cpu_us_64c", f"CPU-µs per Invoke, {size.connections} connections"),
        Row("survives", "a paused tonic caller gets all (1) or not (0)", 0, (at_least("survives", 1),)),
    ]
