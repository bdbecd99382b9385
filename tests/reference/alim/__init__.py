"""The reference upstream: ALİM as its guide describes it, on the real FastAPI, uvicorn and LangGraph server.

It shares no code with the bridge or its emulator, so the two can't agree on the same mistake. Only the chat model is
a fake, langchain-core's own, which says the same text each time.

- `api` is the FastAPI backend: routes, key, errors.
- `question` is what a caller asks, with the two things in `scenario_context` that are for tests.
- `events` turns a run of the graph into Server-Sent Events, unescaped as ALİM writes them.
- `seen` counts what came in, for `GET /calls`.
- `limits` is the rate limit, off unless asked for.
- `engine` starts LangGraph's in-memory server, which loads `graph`, in a process of its own.
"""
