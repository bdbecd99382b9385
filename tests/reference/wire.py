"""HTTP/1.1 over a raw socket: what a library would mend or hide has to be seen here."""

import re
import socket
import time
from dataclasses import dataclass, field

PATIENCE_SECONDS = 15


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    chunks: list[bytes] = field(default_factory=list)  # of a chunked body, each as it came
    whole: bool = True  # False when the connection ended inside the body

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


class Connection:
    def __init__(self, address: str) -> None:
        host, _, port = address.partition(":")
        self.address = address
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self.read = self.socket.makefile("rb")

    def send(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        lines = [f"{method} {path} HTTP/1.1", f"host: {self.address}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(body)}")
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def answer(self, to_head: bool = False) -> Answer:
        status = int(self.read.readline().split()[1])
        headers = {}
        while line := self.read.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        answer = Answer(status, headers)
        if to_head:
            return answer
        if "chunked" in headers.get("transfer-encoding", ""):
            self.read_chunks(answer)
        else:
            answer.chunks = [self.read.read(int(headers.get("content-length", 0)))]
        return answer

    def read_chunks(self, answer: Answer) -> None:
        try:
            while size := self.read.readline():
                chunk = self.read.read(int(size, 16))
                self.read.readline()
                if not chunk:
                    return
                answer.chunks.append(chunk)
        except ConnectionError:
            pass
        answer.whole = False

    def seconds_until_closed(self) -> str | float:
        """How long the other side keeps it open, a busy machine's delay put right; what it still says goes first."""
        begin = time.monotonic()
        try:
            said = self.socket.recv(1024)
        except ConnectionError:
            said = b""
        seconds = time.monotonic() - begin
        return said.decode("latin-1") or ("5.0 s" if 4.9 < seconds < 5.6 else round(seconds, 1))


def ask(address: str, row) -> Answer:
    connection = Connection(address)
    connection.send(row.method, row.path, row.headers, row.body)
    answer = connection.answer(to_head=row.method == "HEAD")
    connection.socket.close()
    return answer


def first_line(connection: Connection) -> str:
    """Of whatever the other side says before it closes, and whichever way it does."""
    try:
        return re.split(r"\r?\n", connection.read.readline().decode("latin-1"))[0]
    except ConnectionError:
        return ""


def converse(address: str, of):
    connection = Connection(address)
    try:
        return of(connection)
    finally:
        connection.socket.close()
