"""Runs the backend in front of an engine of its own: `python -m alim --port 0`."""

import argparse
import socket
from contextlib import nullcontext

import uvicorn
from langgraph_sdk import get_client

from . import engine
from .api import make_app
from .limits import RateLimit


class Server(uvicorn.Server):
    """Tells its address only when it listens."""

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        print(f"listening on http://127.0.0.1:{sockets[0].getsockname()[1]}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="app", description="The reference upstream.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--engine", help="an engine's address; without it one is started")
    parser.add_argument("--rate-limit", type=int, help="calls a minute for each key; without it there is no limit")
    return parser.parse_args()


def bind(port: int) -> socket.socket:
    # asyncio turns Nagle's delay off, as it does for uvicorn's own listener, only where the protocol is named.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def main() -> None:
    asked = arguments()
    listener = bind(asked.port)
    with nullcontext(asked.engine) if asked.engine else engine.running() as url:
        app = make_app(get_client(url=url, api_key=None))
        if asked.rate_limit:
            app = RateLimit(app, asked.rate_limit)
        Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


main()
