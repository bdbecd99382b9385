"""Runs the callers, each in front of both upstreams, and prints what each could do: a table of languages and cases.

A caller is two commands, which get their surroundings by the environment (see `surroundings`). Its cases print a line
each, `ok`, `failed` or `skipped`, then the case, then why, parted by tabs. Its example is what a user would paste: it
takes an address and a message, and prints the answer while it is made.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import NamedTuple

import grpc
import servers
from alim.v1.graph_service_pb2 import StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub
from witness import witness

HERE = Path(__file__).parent
OUT = Path(os.environ["ALIM_CLIENTS_OUT"])
CASES = ["invoke", "stream", "typing", "deadline", "cancel", "details", "retry-info", "health", "retry", "no-retry"]
CASES += ["no-retry-after-event", "paid-runs", "balance", "full-bridge", "drain", "thread", "suite"]
MESSAGE = "Nə vaxt suvarım?"
SECONDS = 120  # for all the cases of one caller
AT_ONCE = 4
SIGNS = {"ok": "✓", "failed": "✗", "skipped": "–"}


class Said(NamedTuple):
    result: str
    case: str
    why: str = ""


@dataclass
class Caller:
    cases: list[str]
    example: list[str] | None = None


PYTHON = sys.executable
JAVA = ["java", "-XX:TieredStopAtLevel=1", f"@{OUT}/java/arguments"]
CALLERS = {
    "python": Caller([PYTHON, f"{HERE}/python/cases.py"], [PYTHON, f"{HERE}/python/ask.py"]),
    "asyncio": Caller([PYTHON, f"{HERE}/python/cases_asyncio.py"], [PYTHON, f"{HERE}/python/ask_asyncio.py"]),
    "node": Caller(["node", f"{OUT}/node/dist/cases.js"], ["node", f"{OUT}/node/dist/ask.js"]),
    "go": Caller([f"{OUT}/go/bin/cases"], [f"{OUT}/go/bin/ask"]),
    "java": Caller([*JAVA, "caller.Cases"], [*JAVA, "caller.Ask"]),
    "rust": Caller([f"{OUT}/rust/debug/cases"], [f"{OUT}/rust/debug/ask"]),
    "cpp": Caller([f"{OUT}/cpp/cases"], [f"{OUT}/cpp/ask"]),
    "grpcurl": Caller([PYTHON, f"{HERE}/grpcurl/cases.py"]),
}


def surroundings(address: str, witness: str, unreaching: str, full: str, draining: str) -> dict[str, str]:
    return os.environ | {
        "ALIM_ADDRESS": address,  # a bridge in front of a good upstream
        "ALIM_WITNESS": witness,  # who tells how often that upstream was asked
        "ALIM_UNREACHING_ADDRESS": unreaching,  # a bridge whose upstream can't be reached
        "ALIM_FULL_ADDRESS": full,  # a bridge whose one permit is taken
        "ALIM_DRAINING_ADDRESS": draining,  # a bridge that is NOT_SERVING
    }


class Upstream(NamedTuple):
    name: str
    url: str


@contextmanager
def full_bridge(upstream: str) -> Iterator[str]:
    """A bridge with one permit, which a stream holds that does not go on."""
    settings = {"MAX_CALLS": "1", "STREAM_IDLE_TIMEOUT": "15m"}
    with servers.bridge(upstream, **settings) as address, grpc.insecure_channel(address) as channel:
        held = GraphServiceStub(channel).Stream(StreamRequest(message=MESSAGE, scenario_context={"witness": ["held"]}))
        next(held)
        yield address
        held.cancel()


class Stage:
    """What all callers share."""

    def __init__(self, stack: ExitStack) -> None:
        self.upstreams = [
            Upstream("reference", stack.enter_context(servers.reference())),
            Upstream("emulator", stack.enter_context(servers.emulator())),
        ]
        self.unreaching = stack.enter_context(servers.bridge(stack.enter_context(servers.nowhere())))
        elsewhere = stack.enter_context(witness(self.upstreams[1].url))
        self.full = stack.enter_context(full_bridge(elsewhere))
        self.draining = stack.enter_context(servers.draining_bridge(elsewhere))

    @contextmanager
    def environment(self, upstream: Upstream) -> Iterator[dict[str, str]]:
        with witness(upstream.url) as counted, servers.bridge(counted) as address:
            yield surroundings(address, counted, self.unreaching, self.full, self.draining)


def run_cases(caller: Caller, environment: dict[str, str]) -> list[Said]:
    try:
        ended = subprocess.run(caller.cases, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as late:
        return [*read_lines((late.stdout or b"").decode()), Said("failed", "all", f"no end within {SECONDS} s")]
    said = read_lines(ended.stdout)
    if ended.returncode:
        said.append(Said("failed", "all", f"ended with {ended.returncode}: {ended.stderr[-2000:]}"))
    return said


def read_lines(text: str) -> list[Said]:
    lines = [line.split("\t", 2) for line in text.splitlines()]
    return [Said(*words) for words in lines if words[0] in SIGNS and len(words) > 1]


def answer(upstream: Upstream) -> str:
    """What the upstream itself says to the message."""
    headers = {"content-type": "application/json", "x-api-key": servers.KEY}
    body = json.dumps({"message": MESSAGE}).encode()
    request = urllib.request.Request(f"{upstream.url}/api/v1/graph/invoke", body, headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)["response"]


def run_example(caller: Caller, environment: dict[str, str], upstream: Upstream) -> Said:
    """It must print the answer, and while it is made: the emulator takes a while for that."""
    if not caller.example:
        return Said("skipped", "typing", "prints events, not text")
    command = ["timeout", "30", *caller.example, environment["ALIM_ADDRESS"], MESSAGE]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as example:
        pieces = list(iter(lambda: os.read(example.stdout.fileno(), 1 << 16), b""))
        said = b"".join(pieces).decode()
        wrong = example.stderr.read().decode()
    if said.rstrip("\n") != answer(upstream).rstrip("\n"):
        return Said("failed", "typing", f"printed {said!r}; {wrong}")
    if upstream.name == "emulator" and len(pieces) < 5:
        return Said("failed", "typing", f"the text came in {len(pieces)} pieces")
    return Said("ok", "typing")


def run_suite(log: Path) -> Said:
    """The bridge's whole behaviour as seen from Python, in front of upstreams of its own."""
    options = ["-o", f"cache_dir={OUT}/pytest", "-q", f"{HERE}/python"]
    ended = subprocess.run([PYTHON, "-m", "pytest", *options], capture_output=True, text=True, timeout=300)
    log.write_text(ended.stdout + ended.stderr)
    return Said("failed" if ended.returncode else "ok", "suite", f"see {log}" if ended.returncode else "")


def run(language: str, upstream: Upstream | None, stage: Stage) -> list[Said]:
    if not upstream:
        return [run_suite(OUT / "suite.log")]
    caller = CALLERS[language]
    with stage.environment(upstream) as environment:
        said = [*run_cases(caller, environment), run_example(caller, environment, upstream)]
    silent = set(CASES) - {it.case for it in said} - {"suite"}
    said += [Said("failed", case, "not a word of it") for case in silent]
    return [it if it.result == "skipped" else it._replace(why=f"{it.why} ({upstream.name})") for it in said]


def run_all(languages: list[str]) -> dict[str, list[Said]]:
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        stage = Stage(stack)
        jobs = [("python", None)] if "python" in languages else []
        jobs += product(languages, stage.upstreams)
        running = [(language, pool.submit(run, language, upstream, stage)) for language, upstream in jobs]
        said = {language: [] for language in languages}
        for language, job in running:
            said[language] += job.result()
        return said


def cell(said: list[Said], case: str) -> str:
    """Good is what is good in front of every upstream."""
    results = [it.result for it in said if it.case in (case, "all")]
    return next((SIGNS[it] for it in ("failed", "ok", "skipped") if it in results), " ")


def show(said: dict[str, list[Said]]) -> None:
    width = max(map(len, CASES))
    print(f"\n{'':{width}}  {'  '.join(said)}")
    for case in CASES:
        cells = [f"{cell(of, case):^{len(language)}}" for language, of in said.items()]
        print(f"{case:{width}}  {'  '.join(cells)}")
    print()
    for sign, result in (("–", "skipped"), ("✗", "failed")):
        whys = [f"{sign} {name} {it.case}: {it.why}" for name, of in said.items() for it in of if it.result == result]
        print(*dict.fromkeys(whys), sep="\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped
    start = time.monotonic()
    everything = run_all(sys.argv[1:] or list(CALLERS))
    show(everything)
    print(f"{time.monotonic() - start:.0f} s")
    sys.exit(any(it.result == "failed" for of in everything.values() for it in of))
