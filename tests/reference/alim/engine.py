"""LangGraph's in-memory server, as `langgraph dev` runs it, on a port that the system chose; and the way to call it.

It runs in a process of its own, as ALİM's engine does, and offline: no traces, no version check, nothing on disk.
It holds one end of a pipe, and ends when the other one closes, however its parent came to an end.

    python -m alim.engine FD       # serves on that socket; FD 0 is the pipe
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GRAPH = "alim"
START_SECONDS = 60
ENVIRONMENT = Path(sys.prefix).with_name("engine")  # beside the backend's: see app.py
# Runs at once: a slow one goes on when its caller has left, and must not keep the next one waiting.
JOBS = 256
# The runtime reads these when it is imported, which is before run_server could set them.
OFFLINE = {
    "LANGGRAPH_DISABLE_FILE_PERSISTENCE": "true",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
    "LOG_LEVEL": "ERROR",
}
OTHERS_SETTINGS = ("LANGSMITH_", "LANGCHAIN_", "LANGGRAPH_")


@contextmanager
def running() -> Iterator[str]:
    """Starts the server and gives its address once it answers."""
    log = tempfile.TemporaryFile("w+")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        fd = listener.fileno()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(OTHERS_SETTINGS)}
        server = subprocess.Popen(
            [ENVIRONMENT / "bin/python", "-m", "alim.engine", str(fd)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[fd],
            env=kept | OFFLINE,
        )
    try:
        if not answers(url, server):
            log.seek(0)
            sys.exit(f"LangGraph's server did not start; code {server.poll()}, log:\n{log.read()}")
        yield url
    finally:
        server.stdin.close()
        try:
            server.wait(timeout=5)
        except subprocess.TimeoutExpired:
            server.kill()


def answers(url: str, server: subprocess.Popen) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/ok", timeout=START_SECONDS):
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False


def end_with_the_parent(folder: str) -> None:
    sys.stdin.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # what it holds is in memory; its own shutdown would wait for the runs


def look_for_runs_often() -> None:
    """The in-memory queue looks every 0.5 s, which would be most of what a call takes."""
    from langgraph_runtime_inmem.ops import Runs

    look = Runs.next

    async def look_soon(wait: bool, limit: int = 1):
        await asyncio.sleep(0.01 if wait else 0)
        async for found in look(wait=False, limit=limit):
            yield found

    Runs.next = staticmethod(look_soon)


def serve(fd: int) -> None:
    folder = tempfile.mkdtemp()
    os.chdir(folder)  # the runtime makes a folder for its files where it is imported, even when it keeps none
    from langgraph_api.cli import run_server

    look_for_runs_often()
    threading.Thread(target=end_with_the_parent, args=[folder], daemon=True).start()
    run_server(
        port=0,
        fd=fd,
        graphs={GRAPH: f"{Path(__file__).with_name('graph.py')}:graph"},
        n_jobs_per_worker=JOBS,
        disable_persistence=True,
        allow_blocking=True,
    )


if __name__ == "__main__":
    serve(int(sys.argv[1]))
