"""Runs the examples of the documents, as a reader would paste them, and compares what they print.

- A `console` block has commands after `$`, each with its output. A command goes on in the next line after a backslash.
- A `python` block that begins with `# NAME.py` is that file.
- `…` is any text within a line, or any lines if it is alone. Ids, times and addresses are compared by their form.

Each document has one shell in an empty folder, with the repository's `proto` in it. Its `127.0.0.1:50051` is a bridge in front of the
embedded ALİM, and its `https://alim.example.az` that ALİM. What serves is stopped once it has said so.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import servers
from conftest import Bridge

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FORMS = [
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\b\d+(?:\.\d+)? ?(?:µs|ms|s)\b"), "TIME"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "ADDRESS"),
]
# A server is stopped after its first line.
PRELUDE = """
serve_once() {
  coproc "$@" 2>/dev/null
  local server=$COPROC_PID line
  read -r line <&"${COPROC[0]}"
  echo "$line"
  kill "$server"
  wait "$server"
}
"""


@dataclass
class Command:
    line: int
    text: str
    output: str


def commands(document: Path, block: re.Match[str]) -> Iterator[Command]:
    line = document.read_text()[: block.start()].count("\n") + 2
    for part in re.split(r"^\$ ", block[2], flags=re.MULTILINE)[1:]:
        text, _, output = re.sub(r"\\\n", "\\\0", part).partition("\n")
        yield Command(line, text.replace("\0", "\n"), output)
        line += part.count("\n")


def matches(shown: str, printed: str) -> bool:
    """Whether `printed` is what a document shows."""
    for form, name in FORMS:
        shown, printed = form.sub(name, shown), form.sub(name, printed)
    lines = []
    for line in shown.splitlines():
        if line.strip() == "…":
            lines.append(r"(?:[^\n]*\n)*?")
        else:
            lines.append("[^\n]*".join(map(re.escape, line.rstrip().split("…"))) + "[ \t]*\n")
    return re.fullmatch("".join(lines), printed if not printed or printed.endswith("\n") else printed + "\n") is not None


class Reader:
    """A shell that reads what a document says."""

    def __init__(self, bridge: Bridge, folder: Path) -> None:
        self.replaced = {"127.0.0.1:50051": bridge.address, "https://alim.example.az": bridge.upstream.url}
        self.folder = folder
        (folder / "proto").symlink_to(ROOT / "proto")
        (folder / "alim.key").write_text(servers.KEY)
        (folder / "bin").mkdir()
        (folder / "bin/alim-bridge").symlink_to(servers.BIN)
        own = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "ALIM_ADDRESS": bridge.address, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        own |= {"ALIM_BRIDGE_LISTEN": "127.0.0.1:0", "ALIM_BRIDGE_ADMIN_LISTEN": "off"}
        own["PYTHONPATH"] = sysconfig.get_path("purelib")  # pip then finds the packages here, and fetches none
        self.environment = servers.OURS | own

    def substitute(self, text: str) -> str:
        for shown, real in self.replaced.items():
            text = text.replace(shown, real)
        return text

    def write(self, text: str) -> None:
        name = re.match(r"# (\w+\.py)\n", text)[1]
        (self.folder / name).write_text(self.substitute(text))

    def run(self, found: list[Command]) -> list[str]:
        """Runs commands in one shell. Returns what each prints."""
        script = [PRELUDE]
        for command in found:
            text = re.sub(r"^alim-bridge serve", "serve_once alim-bridge serve", self.substitute(command.text))
            script += [text, "printf '\\0'"]
        options = {"cwd": self.folder, "env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(["bash", "-c", "\n".join(script)], text=True, timeout=120, check=False, **options)
        return done.stdout.split("\0")


@pytest.mark.parametrize("name", ["README.md", "docs/clients.md", "docs/faults.md"])
def test_the_examples_of_a_document_print_what_it_shows(name: str, bridge_to_emulator: Bridge, tmp_path: Path) -> None:
    for tool in ("grpcurl", "jq"):
        if not shutil.which(tool):
            pytest.skip(f"no {tool} here")
    document, reader, found = ROOT / name, Reader(bridge_to_emulator, tmp_path), []
    if name != "README.md":  # whose commands make what the others use
        (tmp_path / "venv").symlink_to(sys.prefix)
        reader.environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    for block in BLOCK.finditer(document.read_text()):
        if block[1] == "console":
            found += commands(document, block)
        elif block[1] == "python":
            reader.write(block[2])
    printed = reader.run(found)
    assert len(found) >= 5 and len(printed) == len(found) + 1, printed[-1]
    for command, said in zip(found, printed, strict=False):
        assert matches(command.output.rstrip("\n") + "\n" if command.output.strip() else "", said), (
            f"{name}:{command.line}: {command.text}\nshows:\n{command.output}\nand prints:\n{said}"
        )


def test_the_pictures_of_a_terminal_show_what_is_printed() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs/terminal", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
