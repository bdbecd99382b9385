"""The reference upstream: ALİM's REST and SSE on the real FastAPI, pydantic and uvicorn, with a fixed model.

It shares no code with the bridge or its emulator, so the two can't agree on the same mistake. Events are framed
as ALİM frames them: data is not escaped, each event is its own chunk, and there are no comments.

Two things in `scenario_context` are for tests. `{"tokens": [...]}` replaces the model's text, and `{"fault": "..."}`
asks for a failure: see `Fault`. `GET /calls` tells what this upstream has seen.

    python -m app --port 0        # in this folder; prints the address that was bound
"""

import argparse
import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any
from uuid import uuid4

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field

API_KEY = "dev-api-key-change-in-production"  # the guide's default for development
MODEL = "llama-3.3-70b-versatile"
NODES = ["supervisor", "retrieve_weather", "agronomist"]
# Each awkward for an SSE parser in its own way: the standard alone loses text from most of them.
TOKENS = [
    "Salam",
    ",",
    " fermer",
    "!",
    "\n",
    "Suvarma",
    ":\n",
    "\n\n",
    "a\n\nb\n",
    "\n- maddə",
    "  iki boşluq",
    " 🌱",
    "",
]


class Fault(StrEnum):
    RATE_LIMITED = "rate_limited"  # 429 with Retry-After
    UNAVAILABLE = "unavailable"  # 503 with the HTML page of a proxy
    AGENT_FAILED = "agent_failed"  # 500; on a stream `event: error` after the first token
    TRUNCATED = "truncated"  # the stream stops after its first token, without `done`
    EMPTY = "empty"  # the stream stops before its first event
    SILENT = "silent"  # no answer; on a stream a head and then nothing
    SLOW = "slow"  # a second before each token
    UNKNOWN_EVENT = "unknown_event"  # an event that the guide does not name


class Question(BaseModel):
    message: str = Field(min_length=1)
    user_id: str = "anonymous"
    thread_id: str | None = None
    farm_id: str | None = None
    language: str = "az"
    system_prompt_override: str | None = None
    scenario_context: dict[str, Any] | None = None

    @property
    def tokens(self) -> list[str]:
        return (self.scenario_context or {}).get("tokens", TOKENS)

    @property
    def fault(self) -> str | None:
        return (self.scenario_context or {}).get("fault")


class NewThread(BaseModel):
    metadata: dict[str, Any] = {}


class Seen:
    """What `GET /calls` tells: enough to prove that a call was not sent twice, and that a cancelled one ended."""

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


seen = Seen()
threads: dict[str, dict[str, Any]] = {}


class Count:
    def __init__(self, inner) -> None:
        self.inner = inner

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "http":
            seen.requests[f"{scope['method']} {scope['path']}"] += 1
        await self.inner(scope, receive, send)


app = FastAPI()
app.add_middleware(Count)


def require_key(key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))]) -> None:
    if not key:
        raise HTTPException(401, "Missing API Key", headers={"WWW-Authenticate": "ApiKey"})
    if key != API_KEY:
        raise HTTPException(403, "Invalid API Key")


api = APIRouter(prefix="/api/v1", dependencies=[Depends(require_key)])


@api.post("/graph/invoke")
async def invoke(question: Question, request: Request):
    seen.note(request, question)
    if refusal := refuse(question):
        return refusal
    if question.fault == Fault.AGENT_FAILED:
        raise HTTPException(500, "Graph execution failed: the model did not answer")
    thread_id = question.thread_id or new_thread({})
    if thread_id not in threads:
        raise HTTPException(500, f"Graph execution failed: thread {thread_id} not found")
    if question.fault == Fault.SILENT:
        await until_closed(request)
    return {
        "response": "".join(question.tokens),
        "thread_id": thread_id,
        "model": MODEL,
        "metadata": {"nodes_visited": NODES, "intent": "irrigation"},
    }


@api.post("/graph/stream")
async def stream(question: Question, request: Request):
    seen.note(request, question)
    return refuse(question) or StreamingResponse(
        events(question),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def refuse(question: Question) -> HTMLResponse | None:
    if question.fault == Fault.RATE_LIMITED:
        raise HTTPException(429, "Rate limit exceeded", headers={"Retry-After": "1", "X-RateLimit-Remaining": "0"})
    if question.fault == Fault.UNAVAILABLE:
        return HTMLResponse("<html><h1>503 Service Temporarily Unavailable</h1></html>", 503)


async def events(question: Question) -> AsyncIterator[str]:
    with seen.answering():
        if question.fault == Fault.SILENT:
            await asyncio.Event().wait()
        if question.fault == Fault.EMPTY:
            return
        if question.thread_id and question.thread_id not in threads:
            yield event("error", f"thread {question.thread_id} not found")
            return
        for node in NODES:
            yield event("node", node)
        if question.fault == Fault.UNKNOWN_EVENT:
            yield event("intent", "irrigation")
        for token in question.tokens:
            if question.fault == Fault.SLOW:
                await asyncio.sleep(1)
            yield event("token", token)
            if question.fault == Fault.AGENT_FAILED:
                yield event("error", "Graph execution failed: the model did not answer")
            if question.fault in (Fault.AGENT_FAILED, Fault.TRUNCATED):
                return
        yield event("done", "[DONE]")


def event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


async def until_closed(request: Request) -> None:
    with seen.answering():
        while not await request.is_disconnected():
            await asyncio.sleep(0.02)
    seen.closed_by_peer += 1


def new_thread(metadata: dict[str, Any]) -> str:
    thread_id = str(uuid4())
    threads[thread_id] = metadata
    return thread_id


def known_thread(thread_id: str) -> str:
    if thread_id not in threads:
        raise HTTPException(404, "Thread not found")
    return thread_id


@api.post("/threads")
async def create_thread(thread: NewThread):
    return {"thread_id": new_thread(thread.metadata), "metadata": thread.metadata}


@api.get("/threads/{thread_id}")
async def get_thread(thread_id: Annotated[str, Depends(known_thread)]):
    return {"thread_id": thread_id, "metadata": threads[thread_id]}


@api.delete("/threads/{thread_id}")
async def delete_thread(thread_id: Annotated[str, Depends(known_thread)]):
    del threads[thread_id]
    return {"deleted": True, "thread_id": thread_id}


@api.get("/graph/health")
async def graph_health():
    return {"healthy": True}


app.include_router(api)


@app.get("/health")
@app.get("/live")
async def live():
    return {"status": "ok"}


@app.get("/calls")
async def calls():
    return vars(seen)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The reference upstream.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    # asyncio turns Nagle's delay off, as it does for uvicorn's own listener, only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", parser.parse_args().port))
    print(f"listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
