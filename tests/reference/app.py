"""Starts the reference upstream with what it needs, wherever it is started from.

    python3 -m app --port 0        # in this folder; prints the address once it answers

The backend runs on the FastAPI and uvicorn that ALİM was measured with, and LangGraph's server pins a Starlette and a
gRPC that agree with neither those nor the tests. So each has a virtual environment of its own under the cargo target's
`ci`, made at the first start (a minute, from PyPI) and whenever the pins change. This process then becomes the
backend: the same id, the same signals.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PINS = {"backend": HERE / "requirements.txt", "engine": HERE / "engine.txt"}
INSTALL_SECONDS = 900


def folder() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parents[1] / "target").resolve()
    pins = b"".join(path.read_bytes() for path in PINS.values())
    return target / "ci" / f"reference-{hashlib.sha256(pins).hexdigest()[:12]}"


def install(into: Path) -> None:
    """Makes both environments, once: who comes second waits for the first."""
    into.mkdir(parents=True, exist_ok=True)
    with open(into / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (into / "complete").exists():
            return
        print(f"installing the reference upstream into {into}", file=sys.stderr)
        for name, pins in PINS.items():
            quietly = {"check": True, "stdout": sys.stderr, "timeout": INSTALL_SECONDS}
            subprocess.run([sys.executable, "-m", "venv", "--clear", into / name], **quietly)
            pip = [into / name / "bin/pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--requirement", pins], **quietly)
        (into / "complete").touch()


if __name__ == "__main__":
    made = folder()
    install(made)
    if sys.argv[1:] != ["--install-only"]:
        os.chdir(HERE)
        python = made / "backend/bin/python"
        os.execv(python, [python, "-m", "alim", *sys.argv[1:]])
