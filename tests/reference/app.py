"""Starts the reference upstream with what it needs, wherever it is started from.

    python3 -m app --port 0        # in this folder; prints the address once it answers

LangGraph's server pins a gRPC that is older than the tests' own, so it lives in a virtual environment of its own
under the cargo target's `ci`, made at the first start (a minute, from PyPI) and whenever requirements.txt changes.
This process then becomes the reference itself: the same id, the same signals.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PINS = HERE / "requirements.txt"
INSTALL_SECONDS = 900


def environment() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parents[1] / "target").resolve()
    return target / "ci" / f"reference-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]}"


def install(venv: Path) -> None:
    """Makes the environment, once: who comes second waits for the first."""
    venv.parent.mkdir(parents=True, exist_ok=True)
    with open(venv.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (venv / "complete").exists():
            return
        print(f"installing the reference upstream into {venv}", file=sys.stderr)
        quietly = {"check": True, "stdout": sys.stderr, "timeout": INSTALL_SECONDS}
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], **quietly)
        pip = [venv / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--requirement", PINS], **quietly)
        (venv / "complete").touch()


if __name__ == "__main__":
    venv = environment()
    install(venv)
    if sys.argv[1:] != ["--install-only"]:
        os.chdir(HERE)
        python = venv / "bin/python"
        os.execv(python, [python, "-m", "alim", *sys.argv[1:]])
