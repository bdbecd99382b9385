"""Allocations of an Invoke and of a token, by valgrind's dhat: two runs are subtracted, so that starting and connecting fall out."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path

from .measures import load
from .subjects import running

INVOKES = (50, 450)
TOKENS = (20, 120)
STREAMS = 10
WRITTEN_TIMEOUT = 60.0
"""Until dhat has written its profile, from the signal to stop on."""


def allocations() -> str:
    """What the bridge allocates, as a table."""
    lines = ["| | allocations | bytes |", "|---|--:|--:|"]
    for what, counts, units, ask in (
        ("an Invoke", INVOKES, 1, lambda subject, calls: load(subject, "calls", calls=calls)),
        ("a token", TOKENS, STREAMS, lambda subject, tokens: load(
            subject, "whole", streams=STREAMS, group=STREAMS, period_us=60_000, tokens=tokens)),
    ):
        (blocks, size), (more_blocks, more_size) = (of_run(lambda it: ask(it, count)) for count in counts)
        number = (counts[1] - counts[0]) * units
        lines.append(f"| {what} | {(more_blocks - blocks) / number:.1f} | {(more_size - size) / number:,.0f} |")
    return "\n".join(lines)


def of_run(ask) -> tuple[int, int]:
    """The allocations of one process and their bytes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "dhat"
        with running("bridge", under=["valgrind", "--quiet", "--tool=dhat", f"--dhat-out-file={out}"]) as subject:
            ask(subject)
            os.kill(subject.pid, signal.SIGTERM)
            profile = written(out)
    points = profile["pps"]
    return sum(point["tbk"] for point in points), sum(point["tb"] for point in points)


def written(out: Path) -> dict:
    """The profile, once dhat has written all of it."""
    end = time.monotonic() + WRITTEN_TIMEOUT
    while time.monotonic() < end:
        try:
            return json.loads(out.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            time.sleep(0.1)
    raise RuntimeError("dhat wrote no profile")
