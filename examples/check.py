"""Copies the examples out of the repository, runs each against a bridge with TLS and callers' keys, and compares.

Between bridge and ALİM stands the witness of `tests/clients`, which counts what each call cost: an example names its calls
by the end of their request ids. That of the retried call meets a 503 with Retry-After first.
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

import compose_check
import servers
from witness import Call, Request, Witness, running

HERE = Path(__file__).parent
OUT = Path(os.environ["EXAMPLES_OUT"])
UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
SECONDS = 600  # for one example, its build included
EXPECTED = (HERE / "expected.txt").read_text()

# How often each call is sent to ALİM, by the end of its request id.
POSTS = {
    "invoke": 1,
    "stream": 2,  # the one that creates its thread first
    "invalid": 0,
    "failing": 1,
    "limited": 1,
    "deadline": 1,
    "cancel": 1,
    "retry": 2,
}
# What the bridge must hang up on.
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
# Where `stubs` puts what an example makes by itself.
STUBS = {"python": "python/gen", "ts": "node/src/gen"}


class Attendant(Witness):
    """A witness that lets the call to be retried fail once, and looks at its second attempt whether others were dropped.

    At that time the example still runs. Its end would drop them too.
    """

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.dropped: dict[str, int] = {}

    def plan(self, request: Request) -> list[str]:
        name = request.headers.get("x-request-id", "")
        if not name.endswith("-retry"):
            return []
        if self.calls[name].posts == 1:
            self.dropped = {end: sum(call.closed for call in self.of(end)) for end in DROPPED}
        return ["unavailable_1"]

    def of(self, end: str) -> list[Call]:
        return [call for name, call in self.calls.items() if UUID.match(name) and name.endswith(f"-{end}")]

    def costs(self) -> str:
        """What the calls cost; the dearest where there were several of a name."""
        return show({end: max((call.posts for call in self.of(end)), default=0) for end in POSTS}, self.dropped)


def show(posts: dict[str, int], dropped: dict[str, int]) -> str:
    lines = [f"{name}: sent {number} times" for name, number in posts.items()]
    return "\n".join(lines + [f"{name}: dropped {number} times" for name, number in dropped.items()])


class Stage:
    """The embedded ALİM, and how a bridge in front of it is started, with secrets as the Compose example makes them."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.emulator = stack.enter_context(servers.emulator())
        self.folder = folder
        self.compose = copy("compose", folder)
        subprocess.run(["./make-secrets"], cwd=self.compose, check=True, timeout=60)
        self.secrets = self.compose / "secrets"

    @contextmanager
    def bridge(self, upstream: str, secure: bool, **settings: str) -> Iterator[dict[str, str]]:
        """A bridge in front of that upstream; gives the environment of those who call it."""
        settings["ACCESS_LOG"] = "off"
        if secure:
            settings |= {"TLS_CERT_FILE": f"{self.secrets}/tls.crt", "TLS_KEY_FILE": f"{self.secrets}/tls.key"}
            settings |= {"CALLER_KEYS_FILE": f"{self.secrets}/callers"}
        with servers.bridge(upstream, **settings) as address:
            inherited = {name: value for name, value in servers.OURS.items() if not name.startswith(("ALIM_", "PYTHON"))}
            inherited["PATH"] += f":{OUT}/tools/bin"  # for buf
            inherited["CARGO_TARGET_DIR"] = str(OUT.parent / "clients/rust")  # with the crates that are built there
            key = (self.secrets / "caller_key").read_text().strip()
            secrets = {"ALIM_CA_FILE": f"{self.secrets}/ca.crt", "ALIM_CALLER_KEY": key}
            yield inherited | {"ALIM_ADDRESS": address} | (secrets if secure else {})


def copy(name: str, to: Path) -> Path:
    """What a team copies: the files of the folder, without what git ignores."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."]
    files = subprocess.run(listed, cwd=HERE / name, check=True, capture_output=True, text=True).stdout
    for file in files.splitlines():
        copied = to / name / file
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / name / file, copied)
    return to / name


def run(folder: Path, environment: dict[str, str]) -> tuple[str, int]:
    """Runs the example; gives what it printed, and in how many pieces that came."""
    with subprocess.Popen(["./run"], cwd=folder, env=environment, stdout=subprocess.PIPE) as example:
        pieces = list(iter(lambda: os.read(example.stdout.fileno(), 1 << 16), b""))
    if example.returncode:
        raise AssertionError(f"ended with {example.returncode} and printed:\n{b''.join(pieces).decode()}")
    return b"".join(pieces).decode(), len(pieces)


def compare(what: str, expected: str, found: str) -> None:
    difference = list(unified_diff(expected.splitlines(), found.splitlines(), "expected", what, lineterm=""))
    if difference:
        raise AssertionError("\n".join(difference[:100]))


def judge(name: str, attendant: Attendant, printed: str, pieces: int) -> None:
    compare(name, EXPECTED, UUID.sub("UUID", printed))
    compare(name, show(POSTS, dict.fromkeys(DROPPED, 1)), attendant.costs())
    if pieces < 20:
        raise AssertionError(f"the text came in {pieces} pieces: it was not typed")


def try_once(name: str, folder: Path, stage: Stage, secure: bool) -> None:
    attendant = Attendant(stage.emulator)
    with running(attendant) as counted, stage.bridge(counted, secure) as environment:
        printed, pieces = run(folder, environment)
        judge(name, attendant, printed, pieces)


def try_language(name: str, stage: Stage) -> str:
    start = time.monotonic()
    copied = copy(name, stage.folder)
    shutil.copytree(OUT / "proto", copied / "proto")
    try_once(name, copied, stage, secure=True)
    built = time.monotonic()
    try_once(name, copied, stage, secure=False)
    return f"{built - start:.0f} s with its build, {time.monotonic() - built:.0f} s again without TLS"


@contextmanager
def pages(folder: Path) -> Iterator[str]:
    """Serves the browser example as its README says, until its standard input ends; gives the origin."""
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
            if server.poll() is not None:
                raise AssertionError(f"run ended with {server.returncode}")
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def try_browser(stage: Stage) -> str:
    start = time.monotonic()
    folder = copy("browser", stage.folder)
    shutil.copytree(OUT / "proto", folder / "proto")
    with pages(folder) as origin:
        built = time.monotonic()
        for secure in (True, False):
            attendant = Attendant(stage.emulator)
            with running(attendant) as counted, stage.bridge(counted, secure, GRPC_WEB=origin) as environment:
                query = {"bridge": f"{'https' if secure else 'http'}://{environment['ALIM_ADDRESS']}"}
                query |= {"key": environment["ALIM_CALLER_KEY"]} if secure else {}
                words = [f"{origin}/?{urlencode(query)}", f"{OUT}/tools/web/node_modules/playwright-core"]
                command = ["node", HERE / "browser_check.mjs", *words]
                seen = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout)
                judge("browser", attendant, seen["text"], seen["steps"])
    return f"{built - start:.0f} s for its build, {time.monotonic() - built:.0f} s in Chromium, with TLS and without"


def try_compose(stage: Stage) -> str:
    said = compose_check.ask(stage.compose, f"{OUT}/tools/bin/docker-compose").strip()
    if not said or said not in EXPECTED:
        raise AssertionError(f"ask printed {said!r}")
    return "as processes, without containers"


def try_stubs(stage: Stage) -> str:
    """The one buf.gen.yaml must make stubs of all languages, and what the examples that ran before have made by themselves."""
    subprocess.run([HERE / "stubs", OUT / "stubs"], check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
    gen, compared = OUT / "stubs/gen", 0
    for made, own in STUBS.items():
        for file in sorted((stage.folder / own).rglob("*")):
            other = gen / made / file.relative_to(stage.folder / own)
            if file.suffix in (".pyi", ".ts"):  # other files hold descriptors, in which buf writes more than protoc
                compare(f"{own}/{file.name}", other.read_text(), file.read_text())
                compared += 1
    for made in ("python", "go", "java", "ts", "es", "cpp"):
        if not any("graph_service" in file.name or file.name == "GraphServiceGrpc.java" for file in (gen / made).rglob("*")):
            raise AssertionError(f"no stubs in {made}")
    return f"all languages by one buf.gen.yaml, {compared} files as the examples make them"


def check(name: str, stage: Stage) -> bool:
    try:
        how = OTHERS[name](stage) if name in OTHERS else try_language(name, stage)
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
        stage = Stage(stack, Path(place))
        passed = sum([check(name, stage) for name in found])
    left_out = len(names) - len(found)
    print(f"{passed} passed, {len(found) - passed} failed, {left_out} skipped")
    return int(passed < len(found) or (left_out > 0 and os.environ.get("CI") == "true"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
