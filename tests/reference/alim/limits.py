"""The rate limit of a key: so many calls a minute, told in the headers of each answer, as ALİM does with Redis up."""

import json
import time
from dataclasses import dataclass

WINDOW_SECONDS = 60


@dataclass
class Window:
    begins: float
    calls: int = 0


class RateLimit:
    def __init__(self, inner, calls_a_minute: int) -> None:
        self.inner = inner
        self.limit = calls_a_minute
        self.windows: dict[bytes, Window] = {}

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/api/"):
            return await self.inner(scope, receive, send)
        window = self.window_of(dict(scope["headers"]).get(b"x-api-key", b""))
        window.calls += 1
        resets = int(window.begins + WINDOW_SECONDS - time.monotonic()) + 1
        told = [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % max(0, self.limit - window.calls)),
            (b"x-ratelimit-reset", b"%d" % resets),
        ]
        if window.calls > self.limit:
            return await self.refuse(send, [*told, (b"retry-after", b"%d" % resets)])

        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *told]
            await send(message)

        await self.inner(scope, receive, send_with_headers)

    def window_of(self, key: bytes) -> Window:
        now = time.monotonic()
        window = self.windows.get(key)
        if window is None or now >= window.begins + WINDOW_SECONDS:
            window = self.windows[key] = Window(now)
        return window

    async def refuse(self, send, headers: list[tuple[bytes, bytes]]) -> None:
        body = json.dumps({"detail": f"Rate limit exceeded: {self.limit} per 1 minute"}, separators=(",", ":")).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *headers]
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body})
