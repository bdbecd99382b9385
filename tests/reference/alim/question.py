"""What a caller asks, and what tests may order with it.

`scenario_context: {"tokens": [...]}` replaces the model's text; `{"fault": "..."}` orders a failure. The bridge's
emulator calls them `emulator_tokens` and `emulator_fault`; here either name will do. Both travel on to the graph.
"""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field


class Fault(StrEnum):
    # In front of the graph.
    RATE_LIMITED = "rate_limited"  # 429 with Retry-After
    UNAVAILABLE = "unavailable"  # 503 with the HTML page of a proxy
    BAD_VALUE = "bad_value"  # a ValueError inside the backend: 400
    CRASHED = "crashed"  # anything else that nobody caught: 500
    SILENT = "silent"  # no answer; on a stream a head and then nothing
    # On the way back.
    TRUNCATED = "truncated"  # the stream stops after its first token, without `done`; half a reply of an invoke
    EMPTY = "empty"  # the stream stops before its first event; a reply without a body
    # In the graph.
    AGENT_FAILED = "agent_failed"  # the model fails after its first token: 500, or `event: error`
    SLOW = "slow"  # a second before each token
    UNKNOWN_EVENT = "unknown_event"  # the graph writes an event that the guide does not name


class Question(BaseModel):
    message: str = Field(min_length=1)
    user_id: str = "anonymous"
    thread_id: str | None = None
    farm_id: str | None = None
    language: str = "az"
    system_prompt_override: str | None = None
    scenario_context: dict[str, Any] | None = None

    @property
    def fault(self) -> str | None:
        return self.ordered("fault")

    @property
    def run(self) -> dict[str, Any]:
        """The input of the graph."""
        said = [{"type": "human", "content": self.message}]
        return {"messages": said, "tokens": self.ordered("tokens"), "fault": self.fault}

    def ordered(self, what: str) -> Any:
        context = self.scenario_context or {}
        return context.get(what, context.get(f"emulator_{what}"))
