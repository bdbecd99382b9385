"""What a suite appends to its results file: one line a case."""

import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


class Suite:
    def __init__(self, name: str) -> None:
        self.name = name
        self.path = Path(sys.argv[1])
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped

    def report(self, case: str, result: str, detail: str = "") -> None:
        words = " ".join(detail.split())
        with self.path.open("a") as results:
            results.write(f"{self.name}\t{case}\t{result}\t{words}\n")

    def check(self, case: str, body: Callable[[], object]) -> None:
        """Passes if `body` returns, with what it returns as the detail; fails with what it raises."""
        start = time.monotonic()
        try:
            said = body()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.report(case, "failed", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
        else:
            self.report(case, "passed", str(said or f"{time.monotonic() - start:.1f} s"))
