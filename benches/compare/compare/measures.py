"""The measures: each drives one running subject and gives figures by name."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator

from .programs import BUILT, OTHER_CORE, Program, free_gib, level_kib, proportional_kib
from .subjects import Subject

TOKENS_A_SECOND = 20_000
GROUP = 20
"""Streams whose tokens are written together: 20 each millisecond at 20,000 a second."""
ANSWER_TIMEOUT = 90.0
NEEDED_GIB = 6.0
"""Free memory below which no more stalled streams are opened."""


@dataclass(frozen=True)
class Size:
    """How much is done: the full run, and the short one, which only shows that all of it runs."""

    rounds: int
    few_rounds: int
    """Of what is slow and hardly varies: memory, growth, system calls, the pause."""
    window: float
    alone: float
    warm: float
    streams: int
    burst_tokens: int
    growth: tuple[int, ...]
    connections: int
    steps: tuple[int, ...]
    patience: float
    pause_tokens: int
    pause: float
    counted: tuple[int, int]
    """Tokens of each of 40 streams, of two runs whose instructions are subtracted."""


FULL = Size(5, 1, 3.0, 1.5, 1.0, 1000, 2000, (10, 10_000), 64, (1000, 5000, 10_000), 10.0, 20_000, 3.0, (20, 120))
SHORT = Size(1, 1, 0.5, 0.3, 0.2, 100, 1000, (10, 200), 4, (200, 1000), 2.0, 20_000, 1.0, (5, 55))

BURST_CALLERS = 16
INVOKE_CALLERS = 64
HOLD_CONNECTIONS = 16
COUNTED_STREAMS = 40


@contextmanager
def loading(subject: Subject, mode: str, **flags: object) -> Iterator[Program]:
    """A running load."""
    to = subject.invokes if mode == "invoke" else subject.streams
    watch = [pid for pid in (subject.pid, *subject.beside) if pid]
    flags = {"to": to, "over": subject.over, "watch": ",".join(map(str, watch)), **flags}
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    load = Program([BUILT / "load", mode, *words], subject.load_core)
    try:
        yield load
    finally:
        load.stop()


def load(subject: Subject, mode: str, **flags: object) -> dict:
    """Runs a load to its end and gives its report, with the subject's CPU time as `cpu`."""
    with loading(subject, mode, **flags) as program:
        report = {}
        while "tokens" not in report:
            report = json.loads(program.line(ANSWER_TIMEOUT))
    if report.get("failed"):
        raise RuntimeError(f"{report['failed']} calls of {subject.name} failed in {mode}")
    if "seconds" in report:
        spent = report["cpu_s"]
        if subject.pid:
            report["cpu"], *beside = spent
            beside.append(report["own_cpu_s"])
        else:
            report["cpu"], beside = report["own_cpu_s"], spent
        report["busy"] = sum(beside) / report["seconds"]
    return report


def warm(subject: Subject, size: Size) -> None:
    """Connections, caches and compilers of the subject."""
    load(subject, "burst", streams=4, tokens=200, seconds=size.warm / 2)
    load(subject, "invoke", streams=4, seconds=size.warm / 2)


def alone(subject: Subject, size: Size) -> dict:
    """Delays while nothing else is asked."""
    first = load(subject, "first", tokens=1, seconds=size.alone, warm=0.1)["first_us"]
    invoke = load(subject, "invoke", seconds=size.alone, warm=0.1)["whole_us"]
    token = load(subject, "paced", streams=10, period_us=20_000, group=1, seconds=size.alone, warm=0.2)["delay_us"]
    return {
        "first_p50_us": first["p50"], "first_p99_us": first["p99"],
        "invoke_p50_us": invoke["p50"], "invoke_p99_us": invoke["p99"],
        "token_p50_us": token["p50"], "token_p99_us": token["p99"],
    }


def paced(subject: Subject, size: Size, streams: int | None = None, connections: int = 1) -> dict:
    """CPU time of a token among 20,000 a second."""
    streams = streams or size.streams
    report = load(subject, "paced", streams=streams, period_us=streams * 1_000_000 // TOKENS_A_SECOND, group=GROUP,
                  connections=connections, warm=size.warm, seconds=size.window)
    return {
        "paced_cpu": a_million(report, "tokens"),
        "paced_rate": report["tokens"] / report["seconds"],
        "paced_p50_us": report["delay_us"]["p50"], "paced_p99_us": report["delay_us"]["p99"],
        "paced_other_core": report["busy"],
    }


def burst(subject: Subject, size: Size) -> dict:
    """CPU time of a token when whole answers are there at once."""
    report = load(subject, "burst", streams=BURST_CALLERS, tokens=size.burst_tokens, warm=size.warm / 2,
                  seconds=size.window)
    return {
        "burst_cpu": a_million(report, "tokens"),
        "burst_rate": report["tokens"] / report["seconds"],
        "burst_packing": report["tokens"] / max(1, report["pieces"]),
        "burst_first_p50_us": (report["first_us"] or {}).get("p50"),
        "burst_first_p99_us": (report["first_us"] or {}).get("p99"),
        "burst_other_core": report["busy"],
    }


def invoke(subject: Subject, size: Size, connections: int = 1) -> dict:
    """CPU time of an Invoke among as many as go through."""
    report = load(subject, "invoke", streams=INVOKE_CALLERS, connections=connections, warm=size.warm / 2,
                  seconds=size.window)
    return {
        "invoke_cpu_us": a_million(report, "calls"),
        "invoke_rate": report["calls"] / report["seconds"],
        "invoke_other_core": report["busy"],
    }


def a_million(report: dict, what: str) -> float | None:
    """CPU-seconds per million; for calls the same number is microseconds each."""
    return report["cpu"] * 1e6 / report[what] if report[what] else None


def base_memory(subject: Subject) -> dict:
    """After the first calls, with none open."""
    return {"base_mib": proportional_kib(subject.pid) / 1024} if subject.pid else {}


def held_memory(subject: Subject, size: Size, ask: str) -> dict:
    """KiB for each stream that is open, idle or stalled."""
    figures = {}
    with loading(subject, "hold", ask=ask, connections=HOLD_CONNECTIONS, steps=",".join(map(str, size.steps))) as held:
        pid = subject.pid or held.pid
        before = proportional_kib(pid)
        for step in size.steps:
            held.line(ANSWER_TIMEOUT)
            figures[f"{ask}_kib_{step}"] = (level_kib(pid, size.patience) - before) / step
            if free_gib() < NEEDED_GIB:
                break
            held.go_on()
    return figures


def growth(subject: Subject, size: Size) -> dict:
    """The paced load on few and on many streams, and on many connections."""
    figures = {f"paced_cpu_{n}": paced(subject, size, streams=n)["paced_cpu"] for n in size.growth}
    figures["paced_cpu_64c"] = paced(subject, size, connections=size.connections)["paced_cpu"]
    figures["invoke_cpu_us_64c"] = invoke(subject, size, connections=size.connections)["invoke_cpu_us"]
    return figures


def pause(subject: Subject, size: Size) -> dict:
    """Whether a default tonic caller who pauses in a burst gets all of it."""
    if subject.over == "http":
        return {}
    with loading(subject, "pause", tokens=size.pause_tokens, seconds=size.pause) as program:
        return {"survives": float(json.loads(program.line(ANSWER_TIMEOUT))["survived"])}


def system_calls(subject: Subject, size: Size) -> dict:
    """System calls of a token in the paced load, by the kernel's tracepoint: strace would slow what it counts."""
    if not shutil.which("perf"):
        return {}
    flags = {"streams": size.streams, "period_us": size.streams * 1_000_000 // TOKENS_A_SECOND, "group": GROUP,
             "warm": size.warm, "seconds": size.window + 1}
    with loading(subject, "paced", **flags) as program:
        program.line(ANSWER_TIMEOUT)
        pid = subject.pid or program.pid
        counted = subprocess.run(
            ["taskset", "-c", str(OTHER_CORE), "perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(pid),
             "--", "sleep", str(size.window / 2)],
            capture_output=True, text=True, timeout=ANSWER_TIMEOUT,
        )
        report = json.loads(program.line(ANSWER_TIMEOUT))
    count = counted.stderr.strip().split("\n")[-1].split(",")[0]
    if not count.isdigit():
        return {}
    rate = report["tokens"] / report["seconds"]
    return {"system_calls": int(count) / (size.window / 2) / rate}


MEASURES = {"alone": alone, "paced": paced, "invoke": invoke, "burst": burst}
