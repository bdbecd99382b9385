"""Puts a run's figures into the pages under docs/."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .programs import REPOSITORY

DOCS = REPOSITORY / "docs"
FILES = {"figures": "performance", "choices": "performance-choices"}


def write_docs(part: str, table: str, told: dict, out: Path) -> None:
    """The table and the versions into their page, the other files beside it."""
    listed = "\n".join(f"- {name}: {value}" for name, value in told["versions"].items())
    fill(FILES[part], part, f"{table}\n{listed}\n")
    for made in out.glob(f"{part}.*"):
        if made.suffix != ".md":
            shutil.copy(made, DOCS / f"{FILES[part]}{made.suffix}")


def fill(page: str, part: str, text: str) -> None:
    """Rewrites what stands between the part's markers."""
    path = DOCS / f"{page}.md"
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    path.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n\n{text}\n{end}", path.read_text(), flags=re.DOTALL))
