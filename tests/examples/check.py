"""Copies the examples out of the repository, runs each against a bridge with TLS and without, and compares what it prints.

Each example makes the same calls, and names each by the end of its request id. A witness stands between the bridge and the
embedded ALİM. It counts how often each call is sent, and answers the first attempt of "retry" with a 503 that allows another.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from difflib import unified_diff
from pathlib import Path
from urllib.parse import urlencode

import compose
import servers
from witness import Call, Request, Witness, running

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
OUT = Path(os.environ["EXAMPLES_OUT"])
UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
SECONDS = 600  # for one example, its build included
EXPECTED = (HERE / "expected.txt").read_text()

# How many requests each call costs, by the end of its request id.
POSTS = {
    "invoke": 1,
    "stream": 2,  # with start_thread, the thread is created first
    "invalid": 0,
    "failing": 1,
    "limited": 1,
    "deadline": 1,
    "cancel": 1,
    "retry": 2,
}
# The bridge must close the connections of these calls before ALİM has answered.
DROPPED = ("deadline", "cancel")
TOOLS = {
    "python": "python3",
    "python-asyncio": "python3",
    "grpcurl": "go",
    "node": "npm",
    "go": "go",
    "java": "mvn",
    "rust": "cargo",
    "cpp": "grpc_cpp_plugin",
    "compose": "openssl",
    "browser": os.environ.get("CHROMIUM", "/usr/bin/chromium"),
    "stubs": "grpc_cpp_plugin",
}
# python-asyncio stands alone, with copies of these files of python.
SHARED = ("alim_errors.py", "requirements.txt", "run")
# Folders of stubs to compare: as `examples/stubs` names them, and as the examples do.
STUBS = {"python": "python/gen", "ts": "node/src/gen"}


class RetryWitness(Witness):
    """Rejects the first attempt of "retry". At the second attempt it records which calls were dropped.

    The example still runs then. Its exit would drop all calls.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.dropped: dict[str, int] = {}

    def plan(self, request: Request) -> list[str]:
        name = request.headers.get("x-request-id", "")
        if not name.endswith("-retry"):
            return []
        if self.calls[name].posts == 1:
            self.dropped = {end: sum(call.closed for call in self.named(end)) for end in DROPPED}
        return ["unavailable_1"]

    def named(self, end: str) -> list[Call]:
        return [call for name, call in self.calls.items() if UUID.match(name) and name.endswith(f"-{end}")]

    def summary(self) -> str:
        """One line for each name. If several calls share a name, the highest count is used."""
        return summarize({end: max((call.posts for call in self.named(end)), default=0) for end in POSTS}, self.dropped)


def summarize(posts: dict[str, int], dropped: dict[str, int]) -> str:
    lines = [f"{name}: sent {number} times" for name, number in posts.items()]
    return "\n".join(lines + [f"{name}: dropped {number} times" for name, number in dropped.items()])


class Setup:
    """The embedded ALİM, and the secrets of the Compose example for the bridges in front of it."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.emulator = stack.enter_context(servers.emulator())
        self.folder = folder
        self.compose = copy("compose", folder)
        subprocess.run(["./make-secrets"], cwd=self.compose, check=True, timeout=60)
        self.secrets = self.compose / "secrets"

    @contextmanager
    def bridge(self, upstream: str, secure: bool, **settings: str) -> Iterator[dict[str, str]]:
        """Starts a bridge and yields the environment for its callers."""
        settings["ACCESS_LOG"] = "off"
        if secure:
            settings |= {"TLS_CERT_FILE": f"{self.secrets}/tls.crt", "TLS_KEY_FILE": f"{self.secrets}/tls.key"}
            settings |= {"CALLERS_FILE": f"{self.secrets}/callers.toml"}
        with servers.bridge(upstream, **settings) as address:
            inherited = {
                name: value for name, value in servers.OURS.items() if not name.startswith(("ALIM_", "PYTHON"))
            }
            inherited["PATH"] += f":{OUT}/tools/bin"  # for buf
            inherited["CARGO_TARGET_DIR"] = str(OUT.parent / "clients/rust")  # reuses the crates that are built there
            key = (self.secrets / "caller_key").read_text().strip()
            secrets = {"ALIM_CA_FILE": f"{self.secrets}/ca.crt", "ALIM_CALLER_KEY": key}
            yield inherited | {"ALIM_ADDRESS": address} | (secrets if secure else {})


def copy(name: str, to: Path) -> Path:
    """Copies the files of the folder that git does not ignore."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."]
    files = subprocess.run(listed, cwd=EXAMPLES / name, check=True, capture_output=True, text=True).stdout
    for file in files.splitlines():
        copied = to / name / file
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(EXAMPLES / name / file, copied)
    return to / name


def run(folder: Path, environment: dict[str, str]) -> tuple[str, int]:
    """Runs the example. Returns its output and the number of reads that it took."""
    command = ["timeout", "--kill-after=10", str(SECONDS), "./run"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as example:
        pieces = list(iter(lambda: os.read(example.stdout.fileno(), 1 << 16), b""))
    if example.returncode:
        raise AssertionError(f"ended with {example.returncode} and printed:\n{b''.join(pieces).decode()}")
    return b"".join(pieces).decode(), len(pieces)


def compare(what: str, expected: str, found: str) -> None:
    difference = list(unified_diff(expected.splitlines(), found.splitlines(), "expected", what, lineterm=""))
    if difference:
        raise AssertionError("\n".join(difference[:100]))


def check_output(name: str, witness: RetryWitness, printed: str, pieces: int) -> None:
    compare(name, EXPECTED, UUID.sub("UUID", printed))
    compare(name, summarize(POSTS, dict.fromkeys(DROPPED, 1)), witness.summary())
    if pieces < 20:
        raise AssertionError(f"the text came in {pieces} pieces: it was not typed")


def try_once(name: str, folder: Path, setup: Setup, secure: bool) -> None:
    witness = RetryWitness(setup.emulator)
    with running(witness) as counted, setup.bridge(counted, secure) as environment:
        printed, pieces = run(folder, environment)
        check_output(name, witness, printed, pieces)


def try_language(name: str, setup: Setup) -> str:
    start = time.monotonic()
    for file in SHARED if name == "python-asyncio" else ():
        compare(f"{name}/{file}", (EXAMPLES / "python" / file).read_text(), (EXAMPLES / name / file).read_text())
    copied = copy(name, setup.folder)
    shutil.copytree(OUT / "proto", copied / "proto")
    try_once(name, copied, setup, secure=True)
    built = time.monotonic()
    try_once(name, copied, setup, secure=False)
    return f"{built - start:.0f} s with its build, {time.monotonic() - built:.0f} s again without TLS"


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """Serves the browser example as its README says, and yields its origin. esbuild stops when its standard input ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"cwd": folder, "stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    environment = os.environ | {"PORT": str(port)}
    with subprocess.Popen(["./run"], env=environment, start_new_session=True, **options) as server:
        try:
            deadline = time.monotonic() + 120
            while server.poll() is None and time.monotonic() < deadline:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            else:
                raise AssertionError(f"no page is served; run ended with {server.returncode}")
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def try_browser(setup: Setup) -> str:
    start = time.monotonic()
    folder = copy("browser", setup.folder)
    shutil.copytree(OUT / "proto", folder / "proto")
    with pages(folder) as origin:
        built = time.monotonic()
        for secure in (True, False):
            witness = RetryWitness(setup.emulator)
            with running(witness) as counted, setup.bridge(counted, secure, GRPC_WEB=origin) as environment:
                query = {"bridge": f"{'https' if secure else 'http'}://{environment['ALIM_ADDRESS']}"}
                query |= {"key": environment["ALIM_CALLER_KEY"]} if secure else {}
                words = [f"{origin}/?{urlencode(query)}", f"{OUT}/tools/web/node_modules/playwright-core"]
                command = ["node", HERE / "browser.mjs", *words]
                seen = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout)
                check_output("browser", witness, seen["text"], seen["steps"])
    return f"{built - start:.0f} s for its build, {time.monotonic() - built:.0f} s in Chromium, with TLS and without"


def try_compose(setup: Setup) -> str:
    answer = compose.ask(setup.compose, f"{OUT}/tools/bin/docker-compose").strip()
    if not answer or answer not in EXPECTED:
        raise AssertionError(f"ask printed {answer!r}")
    return "as processes, without containers"


def try_stubs(setup: Setup) -> str:
    """Makes the stubs of all languages, and compares them with those of the examples that have run."""
    subprocess.run([EXAMPLES / "stubs", OUT / "stubs"], check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
    gen, compared = OUT / "stubs/gen", 0
    for made, own in STUBS.items():
        for file in sorted((setup.folder / own).rglob("*")):
            other = gen / made / file.relative_to(setup.folder / own)
            if file.suffix in (".pyi", ".ts"):  # the others embed descriptors, where buf adds json_name
                compare(f"{own}/{file.name}", other.read_text(), file.read_text())
                compared += 1
    for made in ("python", "go", "java", "ts", "es", "cpp"):
        if not any(re.match("graph_?service", file.name, re.IGNORECASE) for file in (gen / made).rglob("*")):
            raise AssertionError(f"no stubs in {made}")
    return f"all languages by one buf.gen.yaml, {compared} files are the examples' own"


def check(name: str, setup: Setup) -> bool:
    try:
        how = OTHERS[name](setup) if name in OTHERS else try_language(name, setup)
    except (AssertionError, OSError, subprocess.SubprocessError) as wrong:
        print(f"✗ {name}: {wrong}", flush=True)
        return False
    print(f"✓ {name}  {how}", flush=True)
    return True


OTHERS = {"browser": try_browser, "compose": try_compose, "stubs": try_stubs}


def present(name: str) -> bool:
    if shutil.which(TOOLS[name]):
        return True
    print(f"examples/check: LEAVING OUT {name}, since there is no {TOOLS[name]} here", flush=True)
    return False


def main(names: list[str]) -> int:
    unknown = set(names) - set(TOOLS)
    if unknown:
        sys.exit(f"examples/check: no example is called {', '.join(unknown)}")
    names = names or list(TOOLS)
    found = [name for name in names if present(name)]
    with tempfile.TemporaryDirectory(prefix="alim-examples-") as place, ExitStack() as stack:
        setup = Setup(stack, Path(place))
        passed = sum([check(name, setup) for name in found])
    left_out = len(names) - len(found)
    print(f"{passed} passed, {len(found) - passed} failed, {left_out} skipped")
    return int(passed < len(found) or (left_out > 0 and os.environ.get("CI") == "true"))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped
    sys.exit(main(sys.argv[1:]))
