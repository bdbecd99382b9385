"""What one bridge takes as its streams become more: the figures that docs/capacity.md counts with."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Iterator

from .measures import ANSWER_TIMEOUT, GROUP, HOLD_CONNECTIONS, Size, loading, warm
from .programs import level_kib, proportional_kib
from .subjects import Subject, running

STREAMS = (1, 10, 100, 1000, 5000, 10_000)
TOKENS_A_SECOND = 2
"""Of one stream."""
CONNECTIONS = 2000
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]) + bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
"""HTTP/2's preface, empty SETTINGS, and the acknowledgement of the peer's."""

HEAD = """| open streams | tokens a second | CPU, cores | CPU-µs a token | token's way, p50 / p99 µs | memory, MiB | KiB a stream | open files |
| --: | --: | --: | --: | --: | --: | --: | --: |
"""


def capacity(size: Size) -> str:
    """The table, and what an idle connection takes."""
    lines = [grown(streams, size) for streams in STREAMS]
    return HEAD + "".join(lines) + f"\nAn idle connection of a caller, without TLS: {idle_connection(size):.1f} KiB.\n"


def grown(streams: int, size: Size) -> str:
    """One line: so many streams, each at the same pace."""
    with running("bridge") as subject:
        warm(subject, size)
        before = proportional_kib(subject.pid)
        flags = {"streams": streams, "period_us": 1_000_000 // TOKENS_A_SECOND, "group": min(GROUP, streams),
                 "connections": min(HOLD_CONNECTIONS, streams), "warm": size.warm, "seconds": 2 * size.window}
        with loading(subject, "paced", **flags) as load:
            load.line(ANSWER_TIMEOUT)
            memory, files = proportional_kib(subject.pid), open_files(subject.pid)
            report = json.loads(load.line(ANSWER_TIMEOUT))
    rate, cpu = report["tokens"] / report["seconds"], report["cpu_s"][0]
    cores, way = cpu / report["seconds"], report["delay_us"]
    each = f"{cpu * 1e6 / report['tokens']:.0f}" if streams >= 1000 else "–"  # the kernel counts in steps of 10 ms
    kib = f"{(memory - before) / streams:.1f}" if streams >= 100 else "–"
    return (f"| {streams:,} | {rate:,.0f} | {cores:.3f} | {each} | {way['p50']:,.0f} / {way['p99']:,.0f} "
            f"| {memory / 1024:.0f} | {kib} | {files:,} |\n")


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(Path(f"/proc/{pid}/fd")))


def idle_connection(size: Size) -> float:
    """KiB of a connection that has made no call."""
    with running("bridge") as subject:
        warm(subject, size)
        before = level_kib(subject.pid, size.patience)
        held = list(connections(subject))
        after = level_kib(subject.pid, size.patience)
        for connection in held:
            connection.close()
    return (after - before) / len(held)


def connections(subject: Subject) -> Iterator[socket.socket]:
    """Connections that have exchanged their settings."""
    host, port = subject.streams.split(":")
    for _ in range(CONNECTIONS):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(HELLO)
        connection.recv(1024)
        yield connection
