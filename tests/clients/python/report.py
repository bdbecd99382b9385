"""Runs cases, prints a line for each, and asks the witness what came of the calls."""

import json
import os
import traceback
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

ADDRESS = os.environ["ALIM_ADDRESS"]
UNREACHING = os.environ["ALIM_UNREACHING_ADDRESS"]
FULL = os.environ["ALIM_FULL_ADDRESS"]
DRAINING = os.environ["ALIM_DRAINING_ADDRESS"]
# What gets no second try: a 503 that does not say when, and one whose Retry-After is beyond the caller's deadline of 10 s.
PAID_ONCE = ("unavailable", "unavailable_0", "unavailable_past", "unavailable_30")
SERVICE = "alim.v1.GraphService"
MESSAGE = "Fermada susuzluq var, nə edim?"


@dataclass
class Call:
    """A call that the witness knows by its id, whose attempts meet what is planned for them."""

    meets: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: str(uuid4()))

    @property
    def context(self) -> dict[str, Any]:
        return {"witness": list(self.meets)}

    @property
    def fields(self) -> dict[str, Any]:
        return {"message": MESSAGE, "scenario_context": self.context}

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("x-request-id", self.id)]

    def posts(self) -> int:
        """How often it was sent."""
        return self._ask("seen")["posts"]

    def was_closed(self) -> bool:
        """Waits until the bridge has hung up."""
        return self._ask("closed")["closed"] == 1

    def _ask(self, question: str) -> dict[str, int]:
        with urllib.request.urlopen(f"{os.environ['ALIM_WITNESS']}/{question}/{self.id}", timeout=10) as reply:
            return json.load(reply)


def several(*addresses: str) -> tuple[str, tuple[str, str]]:
    """A channel to several bridges. In production that is one DNS name, which is then the authority too."""
    return f"ipv4:{','.join(addresses)}", ("grpc.default_authority", "alim-bridge")


def run(case: str, body: Callable[[], Any]) -> None:
    try:
        body()
        print("ok", case, sep="\t", flush=True)
    except Exception:
        lines = traceback.format_exc().splitlines()
        why = " | ".join(line.strip() for line in (*lines[-12:-9], *lines[-9:]) if "^^" not in line)
        print("failed", case, why, sep="\t", flush=True)


def skip(case: str, why: str) -> None:
    print("skipped", case, why, sep="\t", flush=True)
