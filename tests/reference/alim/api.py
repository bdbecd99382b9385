"""The FastAPI backend: the guide's routes, who gets in, and what each failure looks like."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Security
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.security import APIKeyHeader
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import APIStatusError
from pydantic import BaseModel

from .engine import GRAPH
from .events import events
from .question import Fault, Question
from .seen import Count, seen

API_KEY = "dev-api-key-change-in-production"  # the guide's default for development
MODEL = "llama-3.3-70b-versatile"
PROXY_PAGE = "<html><h1>503 Service Temporarily Unavailable</h1></html>"


def require_key(key: Annotated[str | None, Security(APIKeyHeader(name="X-API-Key", auto_error=False))]) -> None:
    if not key:
        raise HTTPException(401, "Missing API Key", headers={"WWW-Authenticate": "ApiKey"})
    if key != API_KEY:
        raise HTTPException(403, "Invalid API Key")


def engine_of(request: Request) -> LangGraphClient:
    return request.app.state.engine


Engine = Annotated[LangGraphClient, Depends(engine_of)]
api = APIRouter(prefix="/api/v1", dependencies=[Depends(require_key)])


@api.post("/graph/invoke")
async def invoke(question: Question, request: Request, engine: Engine):
    seen.note(request, question)
    if refusal := refuse(question):
        return refusal
    if question.fault == Fault.SILENT:
        await seen.until_closed(request)
    if question.fault == Fault.EMPTY:
        return Response(media_type="application/json")
    try:
        thread_id = question.thread_id or (await engine.threads.create())["thread_id"]
        values = await engine.runs.wait(thread_id, GRAPH, input=question.run)
    except Exception as error:
        raise HTTPException(500, f"Graph execution failed: {error}") from error
    reply = {
        "response": values["messages"][-1]["content"],
        "thread_id": thread_id,
        "model": MODEL,
        "metadata": {"nodes_visited": ["supervisor", "retrieve_weather", "agronomist"], "intent": values["intent"]},
    }
    if question.fault == Fault.TRUNCATED:
        return StreamingResponse(half(reply), media_type="application/json")
    return reply


@api.post("/graph/stream")
async def stream(question: Question, request: Request, engine: Engine):
    seen.note(request, question)
    return refuse(question) or StreamingResponse(
        silence() if question.fault == Fault.SILENT else events(engine, question),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


def refuse(question: Question) -> HTMLResponse | None:
    match question.fault:
        case Fault.RATE_LIMITED:
            raise HTTPException(429, "Rate limit exceeded", headers={"Retry-After": "1", "X-RateLimit-Remaining": "0"})
        case Fault.UNAVAILABLE:
            return HTMLResponse(PROXY_PAGE, 503)
        case Fault.BAD_VALUE:
            raise ValueError("the farm has no fields")
        case Fault.CRASHED:
            raise RuntimeError("the backend has a fault")
    return None


async def silence() -> AsyncIterator[str]:
    with seen.answering():
        await asyncio.Event().wait()
        yield ""


async def half(reply: dict[str, Any]) -> AsyncIterator[bytes]:
    """Half a body; the error makes uvicorn cut the connection before the last chunk."""
    body = json.dumps(reply).encode()
    yield body[: len(body) // 2]
    raise ConnectionError("cut on purpose")


class NewThread(BaseModel):
    metadata: dict[str, Any] = {}


@api.post("/threads")
async def create_thread(thread: NewThread, engine: Engine):
    made = await engine.threads.create(metadata=thread.metadata)
    return {"thread_id": made["thread_id"], "metadata": made["metadata"]}


@api.get("/threads/{thread_id}")
async def get_thread(thread_id: str, engine: Engine):
    found = await known(engine.threads.get(thread_id))
    return {"thread_id": found["thread_id"], "metadata": found["metadata"]}


@api.delete("/threads/{thread_id}")
async def delete_thread(thread_id: str, engine: Engine):
    await known(engine.threads.delete(thread_id))
    return {"deleted": True, "thread_id": thread_id}


async def known(answer) -> Any:
    """What the engine answers of a thread; one that it does not know, or that is no UUID, is not found."""
    try:
        return await answer
    except APIStatusError as error:
        raise HTTPException(404, "Thread not found") from error


@api.get("/graph/health")
async def graph_health(engine: Engine):
    answer = await engine.http.get("/ok")
    return {"healthy": bool(answer["ok"])}


async def tell_value_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "Bad Request", "detail": str(error), "path": str(request.url)}, 400)


async def tell_any_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "Internal Server Error", "detail": str(error), "path": str(request.url)}, 500)


def make_app(engine: LangGraphClient) -> FastAPI:
    app = FastAPI(exception_handlers={ValueError: tell_value_error, Exception: tell_any_error})
    app.state.engine = engine
    app.include_router(api)
    app.add_api_route("/health", alive)
    app.add_api_route("/live", alive)
    app.add_api_route("/calls", calls)
    app.add_middleware(Count)
    return app


async def alive():
    return {"status": "ok"}


async def calls():
    return vars(seen)
