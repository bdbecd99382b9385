"""The agent: three nodes, of which the last one asks the model. LangGraph's server loads this file by its path."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.chat_models import agenerate_from_stream
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessageChunk, AnyMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

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
]


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    tokens: list[str] | None
    fault: str | None
    intent: str


class Model(GenericFakeChatModel):
    """langchain-core's fake chat model, but for where it cuts its text: at the tokens it was given."""

    tokens: list[str]
    fault: str | None = None

    async def _agenerate(self, messages, stop=None, run_manager=None, **options: Any) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages))

    async def _astream(
        self, messages, stop=None, run_manager=None, **options: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for token in self.tokens or [""]:
            if self.fault == "slow":
                await asyncio.sleep(1)
            # LangChain ends a stream with an empty token, unless the model has marked its last one.
            last = None if self.tokens else "last"
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=token, chunk_position=last))
            yield chunk
            if self.fault == "agent_failed":
                raise RuntimeError("the model did not answer")


def supervisor(state: State) -> State:
    return {"intent": "irrigation"}


def retrieve_weather(state: State) -> State:
    if state.get("fault") == "unknown_event":
        get_stream_writer()({"intent": state["intent"]})
    return {}


async def agronomist(state: State) -> State:
    tokens = TOKENS if state.get("tokens") is None else state["tokens"]
    model = Model(messages=iter([]), tokens=tokens, fault=state.get("fault"))
    return {"messages": [await model.ainvoke(state["messages"])]}


NODES = [supervisor, retrieve_weather, agronomist]

building = StateGraph(State)
for node in NODES:
    building.add_node(node.__name__, node)
for before, after in zip([START, *(node.__name__ for node in NODES)], [*(node.__name__ for node in NODES), END]):
    building.add_edge(before, after)
graph = building.compile()
