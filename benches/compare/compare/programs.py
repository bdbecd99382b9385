"""Starting and stopping programs, each on its core, and what the kernel says of them."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
REPOSITORY = HERE.parents[1]
WORK = Path(os.environ.get("ALIM_COMPARE_WORK", REPOSITORY / "target/compare"))
BRIDGE = Path(os.environ.get("ALIM_BRIDGE", REPOSITORY / "target/release/alim-bridge"))
BUILT = WORK / "release"
PYTHON = Path(sys.executable)

CORES = sorted(os.sched_getaffinity(0))
SUBJECT_CORE = CORES[-1]
"""What is measured runs here, alone."""
OTHER_CORE = CORES[0]
"""The upstream, the callers and this program run here."""

OURS = {name: value for name, value in os.environ.items() if not name.startswith("ALIM_BRIDGE_")}
"""The environment, without the settings of a bridge that is not the one measured."""

START_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0


class Program:
    """A process that says on standard output where it listens; its errors go to a file."""

    def __init__(self, command: list, core: int, env: dict[str, str] | None = None) -> None:
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
            env={**OURS, **(env or {})},
        )
        self.pid = self.process.pid  # taskset becomes the command
        self.read = b""

    def line(self, timeout: float) -> str:
        """The next line of its output."""
        end = time.monotonic() + timeout
        while b"\n" not in self.read:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not more:
                what = "ended" if ready else f"said nothing in {timeout:.0f} s"
                raise RuntimeError(f"{self.process.args[3:5]} {what}: {self.errors()}")
            self.read += more
        line, _, self.read = self.read.partition(b"\n")
        return line.decode()

    def address(self) -> str:
        """Where it listens, from its first line."""
        line = self.line(START_TIMEOUT)
        found = re.search(r"127\.0\.0\.1:\d+", line)
        if not found:
            raise RuntimeError(f"no address in {line!r}")
        return found[0]

    def go_on(self) -> None:
        """Sends an empty line."""
        self.process.stdin.write(b"\n")

    def errors(self) -> str:
        """The end of what it wrote to standard error."""
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(0, self.log.tell() - 2000))
        return self.log.read().decode(errors="replace")

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


def proportional_kib(pid: int) -> float:
    """Memory of a process, pages that it shares counted in part: Pss of smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise RuntimeError(f"no Pss of {pid}")


def level_kib(pid: int, patience: float) -> float:
    """The same, once it has not moved by 1 % for 1.5 s, or at the end of `patience` seconds."""
    end = time.monotonic() + patience
    seen = [proportional_kib(pid)]
    while time.monotonic() < end:
        time.sleep(0.5)
        seen.append(proportional_kib(pid))
        last = seen[-4:]
        if len(last) == 4 and max(last) - min(last) <= 0.01 * max(last):
            break
    return seen[-1]


def free_gib() -> float:
    """Memory that could be used now."""
    found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) / (1 << 20)
