"""A cgroup with a limit of memory, version 2 or 1, for one server: the kernel kills what exceeds it (cgroups(7)).

Version 2 counts what waits in sockets with the group's memory, version 1 apart from it: `usage` gives the sum for both.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
UNBOUNDED = 1 << 62


class Unavailable(Exception):
    """No cgroup for memory can be made here; its text says what failed."""


class Cgroup:
    def __init__(self, path: Path, is_unified: bool) -> None:
        self.path, self.is_unified = path, is_unified

    def launcher(self) -> list[str]:
        """In front of a command, it runs that command inside."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.path)]

    def usage(self) -> tuple[int, int]:
        """Bytes that it holds now, and how many of them wait in sockets."""
        if self.is_unified:
            lines = self.read("memory.stat").splitlines()
            return int(self.read("memory.current")), next(int(line.split()[1]) for line in lines if line.startswith("sock "))
        sockets = int(self.read("memory.kmem.tcp.usage_in_bytes"))
        return int(self.read("memory.usage_in_bytes")) + sockets, sockets

    def oom_kills(self) -> int:
        lines = self.read("memory.events" if self.is_unified else "memory.oom_control").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))

    def read(self, file: str) -> str:
        return (self.path / file).read_text()

    def limit(self, limit: int) -> None:
        files = {"memory.max": limit} if self.is_unified else {"memory.limit_in_bytes": limit, "memory.kmem.tcp.limit_in_bytes": UNBOUNDED}
        for file, value in files.items():
            (self.path / file).write_text(str(value))


@contextmanager
def cgroup(limit: int) -> Iterator[Cgroup]:
    """A group that is gone when its processes are.

    # Raises

    - Unavailable where none can be made: without rights, or without a controller for memory.
    """
    is_unified = (ROOT / "cgroup.controllers").exists()
    made = Cgroup((ROOT if is_unified else ROOT / "memory") / f"alim-bridge-{os.getpid()}", is_unified)
    try:
        if is_unified and "memory" not in (ROOT / "cgroup.subtree_control").read_text().split():
            (ROOT / "cgroup.subtree_control").write_text("+memory")
        made.path.mkdir()
    except OSError as error:
        raise Unavailable(str(error)) from error
    try:
        try:
            made.limit(limit)
        except OSError as error:
            raise Unavailable(str(error)) from error
        yield made
    finally:
        remove(made.path)


def remove(path: Path) -> None:
    """A group stays busy for a moment after its last process."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
