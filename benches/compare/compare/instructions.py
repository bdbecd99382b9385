"""User instructions of a token and of an Invoke, by callgrind. Unlike time they come out the same on a busy machine.

Two runs of the same subject, a short and a long one, are subtracted: what starting costs falls out. The streams tick in
groups of 20, as in the paced load, but at a pace that valgrind can follow. The Invokes come one after the other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

from .measures import COUNTED_STREAMS, GROUP, SHORT, Size, load
from .programs import BUILT
from .subjects import Subject, running, upstream

SUBJECTS = ["bridge", "limit", "naive"]
"""The others bring compilers or take too long to start under valgrind."""
PERIOD_US = 40_000
NO_REP_MOVSB = "glibc.cpu.x86_rep_movsb_threshold=0x7fffffffffffffff"
"""Valgrind counts each byte that `rep movsb` copies as an instruction."""
INVOKES = (100, 600)
MAX_PGO_RATIO = 0.9
"""What the build with a profile may take of the build without. It takes 0.74 of it for a token, and 0.81 for an Invoke."""


def instructions(name: str, size: Size) -> dict:
    """Instructions of a token in the paced load."""
    if not shutil.which("valgrind"):
        return {}
    (few, many), counts = size.counted, []
    with counting(name) as (subject, count):
        for tokens in (few, few, many):  # the first warms up
            told = load(subject, "whole", streams=COUNTED_STREAMS, group=GROUP, period_us=PERIOD_US, tokens=tokens)
            if told["tokens"] != COUNTED_STREAMS * tokens:
                raise RuntimeError(f"{name} gave {told['tokens']} tokens under callgrind")
            counts.append(count())
    _, less, more = counts
    return {"instructions": (more - less) / (COUNTED_STREAMS * (many - few))}


def invoke_instructions(name: str) -> float:
    """Instructions of an Invoke."""
    (few, many), counts = INVOKES, []
    with counting(name) as (subject, count):
        for calls in (few, few, many):  # the first warms up
            told = load(subject, "calls", streams=1, calls=calls)
            if told["calls"] != calls:
                raise RuntimeError(f"{name} answered {told['calls']} calls under callgrind")
            counts.append(count())
    _, less, more = counts
    return (more - less) / (many - few)


def client_instructions(client: str) -> float:
    """Instructions of the bridge's request for an Invoke, by this client."""
    with upstream() as (_, address), tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        counts = []
        for calls in INVOKES:
            command = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}",
                       BUILT / "client", client, address, str(calls)]
            subprocess.run(command, check=True, env={"GLIBC_TUNABLES": NO_REP_MOVSB, **os.environ})
            counts.append(total(out))
    return (counts[1] - counts[0]) / (INVOKES[1] - INVOKES[0])


def clients() -> str:
    """What reqwest adds to the client below it, as a table."""
    reqwest, hyper = client_instructions("reqwest"), client_instructions("hyper")
    return "\n".join(["| instructions a request | reqwest | hyper-util | reqwest's own |", "|---|--:|--:|--:|",
                      f"| POST, whole reply read | {reqwest:,.0f} | {hyper:,.0f} | {reqwest - hyper:,.0f} |"])


def gain(variant: str) -> tuple[str, bool]:
    """What a build with a profile saves, as a table, and whether that is enough."""
    lines, is_enough = ["| instructions | bridge | with PGO | |", "|---|--:|--:|--:|"], True
    for what, measure in (("a token", lambda name: instructions(name, SHORT)["instructions"]), ("an Invoke", invoke_instructions)):
        before, after = measure("bridge"), measure(variant)
        lines.append(f"| {what} | {before:,.0f} | {after:,.0f} | {after / before:.2f} |")
        is_enough &= after / before <= MAX_PGO_RATIO
    return "\n".join(lines), is_enough


@contextmanager
def counting(name: str) -> Iterator[tuple[Subject, Callable[[], int]]]:
    """A subject under callgrind, and a function that returns its instructions since the last time."""
    with tempfile.TemporaryDirectory() as folder:
        out, dumps = Path(folder) / "out", 0
        valgrind = ["env", f"GLIBC_TUNABLES={NO_REP_MOVSB}", "valgrind", "--quiet", "--tool=callgrind",
                    "--dump-line=no", f"--callgrind-out-file={out}"]
        with running(name, under=valgrind) as subject:

            def count() -> int:
                nonlocal dumps
                dumps += 1
                dump = ["callgrind_control", f"--dump={dumps}", str(subject.pid)]
                subprocess.run(dump, check=True, capture_output=True, timeout=60)
                return total(Path(f"{out}.{dumps}"))

            yield subject, count


def total(dump: Path) -> int:
    """The instructions of one dump."""
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if not found:
        raise RuntimeError(f"no total in {dump}")
    return int(found[1])
