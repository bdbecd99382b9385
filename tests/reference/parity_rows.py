"""What `parity` asks: one table of requests, one of streams, one of what happens to connections."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wire import Connection, first_line

KEY = {"x-api-key": "dev-api-key-change-in-production"}
JSON = {"content-type": "application/json"}
BASE = "/api/v1"
INVOKE, STREAM, THREADS = f"{BASE}/graph/invoke", f"{BASE}/graph/stream", f"{BASE}/threads"
UNKNOWN = "3f2c1c5e-8f9c-4a39-9f8e-2b7f2c1d0e5a"


@dataclass
class Row:
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=lambda: KEY | JSON)
    loose: bool = False  # the body's values are each upstream's own
    judge: Callable[[list[str]], Any] = lambda events: events

    @property
    def name(self) -> str:
        return f"{self.method} {self.path} {self.body[:90]!r} {[f'{k}: {v}' for k, v in self.headers.items()]}"


def post(path: str, body: Any, **options: Any) -> Row:
    return Row("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), **options)


def fault(name: str) -> dict[str, Any]:
    return {"message": "Salam", "scenario_context": {"emulator_fault": name}}


INVALID: list[Any] = [
    {},
    [],
    None,
    "text",
    5,
    {"message": ""},
    {"message": None},
    {"message": 5},
    {"message": ["a"]},
    {"message": {}},
    {"message": True},
    {"user_id": "u"},
    {"message": "a", "user_id": None},
    {"message": "a", "user_id": 7},
    {"message": "a", "language": None},
    {"message": "a", "language": 1.5},
    {"message": "a", "thread_id": 5},
    {"message": "a", "farm_id": []},
    {"message": "a", "system_prompt_override": False},
    {"message": "a", "scenario_context": "x"},
    {"message": "a", "scenario_context": []},
    {"message": 1, "user_id": 2, "thread_id": 3, "farm_id": 4, "language": 5, "system_prompt_override": 6},
    {"Message": "a"},
    {"message": "ə", "user_id": {"ə": "\n"}},
]
UNREADABLE: list[bytes] = [
    b"",
    b" ",
    b"{",
    b"salam",
    b'{"message":',
    b'{"message": "a",}',
    b'{"message" "a"}',
    b"{'message': 1}",
    b'{"message": "a"} x',
    b'{"message": "a\nb"}',
    b'{"message": "a\\x"}',
    b'{"message": "a\xff"}',
    b'\xef\xbb\xbf{"message": "a", "user_id": 1}',
    b'"a\xff"',
    "{\n\"a\": \"əəə\",\n\"b\": x}".encode(),
    b'{"message": "a", "message": ""}',
    b'{"message": 01}',
    b"nul",
    b"[1, 2",
    b'["a" "b"]',
]
CONTENT_TYPES = [
    "text/plain",
    "application/problem+json",
    "application/x-www-form-urlencoded",
    "json",
    "application/json; charset=utf-8",
    "APPLICATION/JSON",
]
ROWS = [
    # Good ones.
    post(INVOKE, {"message": "Salam"}, loose=True),
    post(INVOKE, {"message": " ", "user_id": "", "thread_id": "", "language": ""}, loose=True),
    post(INVOKE, {"message": "a", "thread_id": None, "farm_id": None, "scenario_context": None, "x": 1}, loose=True),
    post(INVOKE, {"message": "a"}, loose=True, headers=KEY),
    post(INVOKE + "?a=b", {"message": "a"}, loose=True),
    post(INVOKE, {"message": "a", "scenario_context": {"emulator_tokens": ["bir", "\n", " iki"]}}, loose=True),
    # Who gets in.
    *[post(path, {"message": "a"}, headers=JSON) for path in (INVOKE, STREAM, THREADS)],
    *[post(path, {"message": "a"}, headers=JSON | {"x-api-key": ""}) for path in (INVOKE, STREAM)],
    *[post(path, {"message": "a"}, headers=JSON | {"x-api-key": "wrong"}) for path in (INVOKE, STREAM)],
    post(INVOKE, {"message": ""}, headers=JSON),
    post(INVOKE, b"{", headers=JSON),
    post(INVOKE, b'"a\xff"', headers=JSON),
    Row("GET", f"{BASE}/graph/health", headers={}),
    Row("GET", f"{BASE}/graph/health", headers={"x-api-key": "wrong"}),
    Row("GET", f"{THREADS}/{UNKNOWN}", headers={}),
    # Bodies.
    *[post(path, body) for body in INVALID for path in (INVOKE, STREAM)],
    *[post(INVOKE, body) for body in UNREADABLE],
    *[post(INVOKE, {"message": ""}, headers=KEY | {"content-type": kind}) for kind in CONTENT_TYPES],
    post(INVOKE, b"{", headers=KEY | {"content-type": "text/plain"}),
    # Threads.
    post(THREADS, {}),
    post(THREADS, {"metadata": {"farm": 7, "deep": {"a": [1, None]}}}),
    *[post(THREADS, body) for body in ([], None, {"metadata": None}, {"metadata": []}, {"metadata": "x"}, b"", b"{")],
    *[Row(method, f"{THREADS}/{it}") for it in (UNKNOWN, "no-uuid") for method in ("GET", "DELETE")],
    post(INVOKE, {"message": "a", "thread_id": UNKNOWN}),
    post(INVOKE, {"message": "a", "thread_id": "no-uuid"}),
    post(INVOKE, {"message": "a", "thread_id": "../runs/stream?a="}),
    # Routes.
    *[Row(method, path) for path in ("/", "/api/v1", "/api/v1/", "/api/v1/graph/nothing", "/api/v1/graph//invoke",
                                     "/API/v1/graph/invoke", "/api/v1/threads/a/b", "/health/x", "//health")
      for method in ("GET", "POST")],
    *[Row(method, path) for path in (INVOKE, STREAM, THREADS)
      for method in ("GET", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")],
    *[Row(method, path) for path in (f"{THREADS}/{UNKNOWN}", "/health", "/live", f"{BASE}/graph/health")
      for method in ("POST", "PUT", "HEAD", "OPTIONS")],
    *[Row(method, path + "/") for path in (INVOKE, STREAM, THREADS, f"{THREADS}/{UNKNOWN}", "/health")
      for method in ("GET", "POST", "DELETE")],
    Row("POST", INVOKE + "/?a=b&c"),
    Row("POST", INVOKE + "//"),
    Row("GET", "/health", headers={}, loose=True),
    Row("GET", "/live", headers={}, loose=True),
    Row("GET", "/live?x", headers={}, loose=True),
    # Failures on purpose.
    *[post(path, fault("unavailable")) for path in (INVOKE, STREAM)],
    *[post(path, fault(name), loose=True) for path in (INVOKE, STREAM)
      for name in ("rate_limited", "bad_value", "crashed")],
    post(INVOKE, fault("agent_failed")),
    post(INVOKE, fault("empty")),
]


def tokens(*texts: str) -> Row:
    """The bytes of each token; which nodes there are is each upstream's own, but not where they stand."""
    asked = {"message": "Salam", "scenario_context": {"emulator_tokens": texts}}
    return post(STREAM, asked, judge=collapse)


def collapse(events: list[str]) -> list[str]:
    """Neighbours that are the same count as one: how many nodes there are is each upstream's own."""
    return [event for nth, event in enumerate(events) if nth == 0 or event != events[nth - 1] or "node" not in event]


def kinds(events: list[str]) -> list[str]:
    names = [event.split("\n")[0] for event in events]
    return [name for nth, name in enumerate(names) if nth == 0 or name != names[nth - 1]]


STREAMS = [
    tokens("\n"),
    tokens("\n\n"),
    tokens("abc\n"),
    tokens("\n- maddə"),
    tokens("a\nb"),
    tokens("a\n\nb"),
    tokens("a\n\nb\n"),
    tokens("  iki"),
    tokens("a", "\n", "\n\n", "b", "\n"),
    tokens("data: x", "event: done", ":", "id: 1", "retry: 5"),
    tokens("\r", "a\rb", "\r\n"),
    tokens("", "a", ""),
    tokens(),
    tokens("ə🌱", "e\u0301", "\u2028"),
    tokens("x" * 70_000),
    post(STREAM, {"message": "Salam"}, judge=kinds),
    post(STREAM, {"message": "Salam"}, headers=KEY, judge=kinds),
    post(STREAM, {"message": "Salam", "thread_id": UNKNOWN}),
    post(STREAM, {"message": "Salam", "thread_id": "no-uuid"}),
    post(STREAM, {"message": "Salam", "thread_id": "../runs/stream?a="}),
    post(STREAM, fault("agent_failed"), judge=kinds),
    post(STREAM, fault("truncated"), judge=kinds),
    post(STREAM, fault("empty"), judge=kinds),
]


def thread_of_its_own(connection: Connection):
    """Made, shown, gone on with twice, deleted, gone: all on one connection."""
    def say(method: str, path: str, body: Any = None) -> tuple[int, str]:
        connection.send(method, path, KEY | JSON, b"" if body is None else json.dumps(body).encode())
        answer = connection.answer()
        return answer.status, answer.body.decode()

    status, made = say("POST", THREADS, {"metadata": {"farm": 7}})
    thread_id = json.loads(made)["thread_id"]
    path, question = f"{THREADS}/{thread_id}", {"message": "a", "thread_id": thread_id}
    said = [(status, made), say("GET", path), say("GET", path.upper().replace("/API/V1/THREADS", THREADS))]
    for _ in range(2):
        status, reply = say("POST", INVOKE, question)
        said.append((status, json.loads(reply)["thread_id"]))
    said += [(say("POST", STREAM, question)[1].splitlines()[-2],)]
    said += [say("DELETE", path), say("GET", path), say("DELETE", path), (say("POST", INVOKE, question)[0],)]
    return [tuple(str(it).replace(thread_id, "ID") for it in one) for one in said]


def idle_after(path: str, body: Any):
    def of(connection: Connection):
        connection.send("POST", path, KEY | JSON, json.dumps(body).encode())
        connection.answer()
        return connection.seconds_until_closed()

    return of


def idle_after_a_second_call(connection: Connection):
    for _ in range(2):
        connection.send("GET", "/health", {}, b"")
        connection.answer()
    return connection.seconds_until_closed()


def asked_to_close(connection: Connection):
    connection.send("GET", "/health", {"connection": "close"}, b"")
    answer = connection.answer()
    return answer.headers.get("connection"), connection.seconds_until_closed()


def truncated_invoke(connection: Connection):
    connection.send("POST", INVOKE, KEY | JSON, json.dumps(fault("truncated")).encode())
    answer = connection.answer()
    return answer.status, answer.whole, answer.body.startswith(b'{"response"')


def two_at_once(connection: Connection):
    for _ in range(2):
        connection.send("POST", INVOKE, KEY | JSON, b'{"message": "a"}')
    return [connection.answer().status for _ in range(2)]


def chunked_request(connection: Connection):
    head = f"POST {INVOKE} HTTP/1.1\r\nhost: {connection.address}\r\ntransfer-encoding: chunked\r\n"
    head += f"content-type: application/json\r\nx-api-key: {KEY['x-api-key']}\r\n\r\n"
    connection.socket.sendall(head.encode() + b"8\r\n{\"messag\r\n8\r\ne\": \"a\"}\r\n0\r\n\r\n")
    return connection.answer().status


def expects_to_go_on(connection: Connection):
    head = f"POST {INVOKE} HTTP/1.1\r\nhost: {connection.address}\r\nexpect: 100-continue\r\ncontent-length: 16\r\n"
    connection.socket.sendall(f"{head}content-type: application/json\r\nx-api-key: {KEY['x-api-key']}\r\n\r\n".encode())
    first = connection.read.readline(), connection.read.readline()
    connection.socket.sendall(b'{"message": "a"}')
    return first, connection.answer().status


def http_1_0(connection: Connection):
    connection.socket.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    return connection.answer().status, connection.seconds_until_closed()


def http_2(connection: Connection):
    connection.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
    return "an HTTP/2 frame" if "\0" in first_line(connection) else "anything but HTTP/2"


def rubbish(connection: Connection):
    connection.socket.sendall(b"this is no HTTP\r\n\r\n")
    return first_line(connection)


CONNECTIONS = [
    ("a thread from its making to its end", thread_of_its_own),
    ("an idle connection after a reply", idle_after(INVOKE, {"message": "a"})),
    ("an idle connection after a stream", idle_after(STREAM, {"message": "a"})),
    ("an idle connection after a refusal", idle_after(INVOKE, {})),
    ("an idle connection after two calls", idle_after_a_second_call),
    ("a caller who asks to close", asked_to_close),
    ("half a reply", truncated_invoke),
    ("two calls at once on one connection", two_at_once),
    ("a chunked request", chunked_request),
    ("a request that expects 100 Continue", expects_to_go_on),
    ("HTTP/1.0", http_1_0),
    ("HTTP/2 with prior knowledge", http_2),
    ("what is no HTTP", rubbish),
]
