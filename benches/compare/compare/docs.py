"""Puts a run's figures into docs/performance.md, and its files beside."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from .programs import REPOSITORY

DOCS = REPOSITORY / "docs"
FILES = {"figures": "performance", "choices": "performance-choices"}


def write_docs(part: str, table: str, told: dict, out: Path) -> None:
    """Rewrites what stands between the part's markers."""
    page = DOCS / "performance.md"
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    listed = "\n".join(f"- {name}: {value}" for name, value in told["versions"].items())
    text = f"{begin}\n\n{table}\n{listed}\n\n{end}"
    page.write_text(re.sub(f"{begin}.*?{end}", lambda _: text, page.read_text(), flags=re.DOTALL))
    for made in out.glob(f"{part}.*"):
        if made.suffix != ".md":
            shutil.copy(made, DOCS / f"{FILES[part]}{made.suffix}")
