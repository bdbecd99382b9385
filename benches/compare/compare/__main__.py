"""Compares the bridge with its limit and its peers; or, with --choices, with itself less one choice; or, with --capacity, measures what
it takes as its streams become more; or, with --gain, with its build with a profile; or, with --clients, what reqwest adds to an Invoke; or, with
--allocations, what the bridge allocates."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Callable

from . import measures
from .allocations import allocations
from .capacity import capacity
from .docs import fill, write_docs
from .instructions import SUBJECTS as COUNTED
from .instructions import clients, gain, instructions
from .measures import FULL, SHORT, Size
from .plot import plot
from .programs import CORES, HERE
from .results import Results
from .rows import rows
from .subjects import NAMES, VARIANTS, Subject, running
from .table import choices, grown, missed, table
from .versions import versions

OUT = HERE / "out"
GROWN = {"bridge", "limit", "limit.read", "naive", "envoy"}
"""aiohttp and Node are saturated by the paced load as it is."""
MAX_FAILURES = 3


def main() -> int:
    """0, or 1 when something could not be measured, or when the short form finds the bridge grown."""
    flags = parse()
    start = time.monotonic()
    if len(CORES) < 2:
        sys.exit("compare: needs two cores, one for the subject alone")
    if flags.clients:
        print(clients())
        return 0
    if flags.allocations:
        print(allocations())
        return 0
    if flags.gain:
        VARIANTS["PGO"] = (Path(flags.gain), {})
        shown, is_enough = gain("PGO")
        print(shown)
        return 0 if is_enough else 1
    size = SHORT if flags.short else FULL
    results = Results()
    if flags.capacity:
        shown = capacity(size)
        print(shown)
        if flags.write_docs:
            fill("capacity", "capacity", shown)
        return 0
    if flags.choices:
        VARIANTS.update({name: (Path(binary), {}) for name, binary in (word.split("=", 1) for word in flags.variant)})
        frequent(size, ["bridge", *VARIANTS], results, start)
    else:
        compare(flags, size, results, start)
    finish(flags, size, results, time.monotonic() - start)
    worse = grown(rows(size), results) if flags.short else []
    for line in worse:
        print(f"GROWN    {line}")
    return 1 if results.failures or worse else 0


def compare(flags: argparse.Namespace, size: Size, results: Results, start: float) -> None:
    """All subjects, all measures."""
    names = [name for name in order() if not flags.only or name in flags.only.split(",")]
    frequent(size, names, results, start)
    rare(size, [name for name in names if name != "direct"], results, start)
    for name in COUNTED:
        if name in names:
            tell(f"instructions: {name}", start)
            attempt(results, name, "instructions", lambda: instructions(name, size))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benches/compare/run", description=__doc__)
    parser.add_argument("--short", action="store_true", 
                        help="only show that all of it runs, and hold the bridge to what does not hang on the machine")
    parser.add_argument("--only", help="subjects, with commas between: " + ",".join(order()))
    parser.add_argument("--choices", action="store_true", help="the bridge alone, and with single choices undone")
    parser.add_argument("--capacity", action="store_true", help="the bridge alone, from 1 stream to 10,000")
    parser.add_argument("--gain", metavar="BINARY", help="the bridge and this build with a profile, by instruction counts alone")
    parser.add_argument("--allocations", action="store_true", help="what the bridge allocates for an Invoke and a token, by dhat")
    parser.add_argument("--clients", action="store_true", help="what reqwest adds to the HTTP client below it, by instruction counts alone")
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=BINARY",
                        help="with --choices: a further build of the bridge, named by what it lacks")
    parser.add_argument("--write-docs", action="store_true", help="put the figures into docs/performance.*, or docs/capacity.md")
    flags = parser.parse_args()
    if flags.write_docs and (flags.short or flags.only):
        parser.error("only a full run's figures go into the docs")
    return flags


def order() -> list[str]:
    """A B C A B C: the limit's halves stand side by side, so that their sum is of one time."""
    names = ["direct"]
    for name in NAMES:
        names += [name, "limit.read"] if name == "limit" else [name]
    return names


def frequent(size: Size, names: list[str], results: Results, start: float) -> None:
    """What is measured often, every subject in turn."""
    for number in range(size.rounds):
        for name in names:
            tell(f"round {number + 1} of {size.rounds}: {name}", start)
            attempt(results, name, "start", lambda: often(name, size, results))


def rare(size: Size, names: list[str], results: Results, start: float) -> None:
    """What is measured seldom, every subject in turn."""
    for number in range(size.few_rounds):
        for name in names:
            tell(f"memory and growth {number + 1} of {size.few_rounds}: {name}", start)
            seldom(name, size, results)


def often(name: str, size: Size, results: Results) -> dict:
    """One round of a subject, in one process."""
    with running(name) as subject:
        measures.warm(subject, size)
        chosen = {"alone": measures.alone} if name == "direct" else measures.MEASURES
        base = measures.base_memory(subject)
        for what, measure in chosen.items():
            attempt(results, name, what, lambda: measure(subject, size))
    return base


def seldom(name: str, size: Size, results: Results) -> None:
    """Memory in fresh processes, then the rest in one."""
    for ask in ("idle", "stall"):
        in_fresh(name, size, results, ask, lambda subject: measures.held_memory(subject, size, ask))
    in_fresh(name, size, results, "pause", lambda subject: measures.pause(subject, size))
    in_fresh(name, size, results, "system calls", lambda subject: measures.system_calls(subject, size))
    if name in GROWN:
        in_fresh(name, size, results, "growth", lambda subject: measures.growth(subject, size))


def in_fresh(name: str, size: Size, results: Results, what: str, measure: Callable[[Subject], dict]) -> None:
    """One measure in a process of its own."""
    def measured() -> dict:
        with running(name) as subject:
            measures.warm(subject, size)
            return measure(subject)
    attempt(results, name, what, measured)


def attempt(results: Results, name: str, what: str, measure: Callable[[], dict]) -> None:
    """A peer that fails a measure loses that figure; the run goes on and says so at its end.

    One that has failed often is left out: each failure may have cost its whole patience.
    """
    if sum(failure.startswith(f"{name},") for failure in results.failures) >= MAX_FAILURES:
        return
    try:
        results.add(name, measure())
    except Exception as error:
        results.failures.append(f"{name}, {what}: {' '.join(str(error).split())}")
        traceback.print_exc(limit=3)


def finish(flags: argparse.Namespace, size: Size, results: Results, seconds: float) -> None:
    """Prints, and writes to `out/` and, when told, to `docs/`."""
    part = "choices" if flags.choices else "figures"
    listed = [] if flags.choices else rows(size)
    shown = choices(list(VARIANTS), results) if flags.choices else table(listed, results)
    told = {
        "form": "short" if flags.short else "full", "seconds": round(seconds), "versions": versions(),
        "missed": missed(listed, results), "failures": results.failures, "figures": results.as_json(),
    }
    OUT.mkdir(exist_ok=True)
    (OUT / f"{part}.md").write_text(shown)
    (OUT / f"{part}.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    if not flags.choices:
        (OUT / f"{part}.svg").write_text(plot(results))
    print(f"\n{shown}")
    for label in told["missed"]:
        print(f"not met: {label}")
    for failure in results.failures:
        print(f"FAILED   {failure}")
    print(f"{seconds:.0f} s; more in {OUT}")
    if flags.write_docs:
        write_docs(part, shown, told, OUT)


def tell(text: str, start: float) -> None:
    """Progress, on standard error."""
    print(f"[{time.monotonic() - start:5.0f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
