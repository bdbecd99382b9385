"""A run of the graph as Server-Sent Events. Data is not escaped, each event is its own chunk, no comments."""

from collections.abc import AsyncIterator

from langgraph_sdk.client import LangGraphClient

from .engine import GRAPH
from .question import Fault, Question
from .seen import seen

MODES = ["messages-tuple", "updates", "custom"]


def event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


async def events(engine: LangGraphClient, question: Question) -> AsyncIterator[str]:
    with seen.answering():
        if question.fault == Fault.EMPTY:
            return
        try:
            async for text in run(engine, question):
                yield text
                if question.fault == Fault.TRUNCATED and text.startswith("event: token"):
                    return
        except Exception as error:  # the head has left: nothing else can be told
            yield event("error", str(error))
        else:
            yield event("done", "[DONE]")


async def run(engine: LangGraphClient, question: Question) -> AsyncIterator[str]:
    thread_id = question.thread_id or (await engine.threads.create())["thread_id"]
    async for part in engine.runs.stream(thread_id, GRAPH, input=question.run, stream_mode=MODES):
        match part.event:
            case "messages" if part.data[0]["type"] == "AIMessageChunk":
                yield event("token", part.data[0]["content"])
            case "updates":
                for node in part.data:
                    yield event("node", node)
            case "custom":
                for name, data in part.data.items():
                    yield event(name, data)
            case "error":
                raise RuntimeError(f"{part.data['error']}: {part.data['message']}")
