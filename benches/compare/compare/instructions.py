"""User instructions of a token, by callgrind: unlike time they come out the same on a busy machine.

Two runs of the same subject, with few and with many tokens a stream, are subtracted: what starting and calls cost
falls out. The streams tick in groups of 20, as in the paced load, but at a pace that valgrind can follow.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .measures import COUNTED_STREAMS, GROUP, Size, load
from .subjects import running

SUBJECTS = ["bridge", "limit", "naive"]
"""The others bring compilers or take too long to start under valgrind."""
PERIOD_US = 40_000
NO_REP_MOVSB = "glibc.cpu.x86_rep_movsb_threshold=0x7fffffffffffffff"
"""Valgrind counts each byte that `rep movsb` copies as an instruction."""


def instructions(name: str, size: Size) -> dict:
    """Instructions of a token in the paced load."""
    if not shutil.which("valgrind"):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        valgrind = ["env", f"GLIBC_TUNABLES={NO_REP_MOVSB}", "valgrind", "--quiet", "--tool=callgrind",
                    "--dump-line=no", f"--callgrind-out-file={out}"]
        with running(name, under=valgrind) as subject:
            few, many = size.counted
            for tokens in (few, few, many):  # the first warms up
                told = load(subject, "whole", streams=COUNTED_STREAMS, group=GROUP, period_us=PERIOD_US, tokens=tokens)
                if told["tokens"] != COUNTED_STREAMS * tokens:
                    raise RuntimeError(f"{name} gave {told['tokens']} tokens under callgrind")
                dump = ["callgrind_control", f"--dump={tokens}", str(subject.pid)]
                subprocess.run(dump, check=True, capture_output=True, timeout=60)
        _, less, more = (total(Path(f"{out}.{number}")) for number in (1, 2, 3))
    return {"instructions": (more - less) / (COUNTED_STREAMS * (many - few))}


def total(dump: Path) -> int:
    """The instructions of one dump."""
    found = re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)
    if not found:
        raise RuntimeError(f"no total in {dump}")
    return int(found[1])
