"""What `GET /calls` tells: enough to prove that a call was not sent twice, and that a cancelled one ended."""

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import Any

from fastapi import Request

from .question import Question


class Seen:
    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.open = 0
        self.closed_by_peer = 0
        self.last_headers: dict[str, str] = {}
        self.last_body: dict[str, Any] = {}

    def note(self, request: Request, question: Question) -> None:
        self.last_headers = dict(request.headers)
        self.last_body = question.model_dump(exclude_unset=True)

    @contextmanager
    def answering(self):
        self.open += 1
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            self.closed_by_peer += 1
            raise
        finally:
            self.open -= 1

    async def until_closed(self, request: Request) -> None:
        with self.answering():
            while not await request.is_disconnected():
                await asyncio.sleep(0.02)
        self.closed_by_peer += 1


seen = Seen()


class Count:
    """The outermost layer: it sees what no route takes, too."""

    def __init__(self, inner) -> None:
        self.inner = inner

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            seen.requests[f"{scope['method']} {scope['path']}"] += 1
        await self.inner(scope, receive, send)
