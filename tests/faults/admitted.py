"""How many calls a MEMORY_LIMIT admits while each waits for its first event, and what the process takes then: the figures of
docs/capacity.md.

    run admitted [--limit 128] [--max-calls 20000]
"""

import argparse
import asyncio
from collections import Counter

import h2.connection
import h2.events
from memory import STREAM, head, metrics, mib, question, resident
from processes import check, finish, free_port, servers

CONNECTIONS = 16
BATCH = 20
PAUSE_SECONDS = 600.0


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def fill(address: str, seen: Counter[str]) -> Streams:
    """Opens calls over one connection until a call of any is rejected; they stay open while the streams are kept."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    http2 = h2.connection.H2Connection()
    http2.initiate_connection()
    while not seen["rejected"]:
        for _ in range(BATCH):
            stream = http2.get_next_available_stream_id()
            http2.send_headers(stream, head(STREAM))
            http2.send_data(stream, question("idle", tokens=1, gap=PAUSE_SECONDS), end_stream=True)
        http2.ping(b"all seen")
        is_seen = False
        while not is_seen:
            writer.write(http2.data_to_send())
            events = http2.receive_data(await reader.read(65_536))
            seen["rejected"] += sum(isinstance(event, h2.events.StreamEnded) for event in events)
            is_seen = any(isinstance(event, h2.events.PingAckReceived) for event in events)
    return reader, writer


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=mib, default=128, help="MEMORY_LIMIT in MiB")
    parser.add_argument("--max-calls", default="20000")
    asked = parser.parse_args()
    admin = f"127.0.0.1:{free_port()}"
    settings = {"MEMORY_LIMIT": f"{asked.limit}MiB", "MAX_CALLS": asked.max_calls, "ADMIN_LISTEN": admin, "ACCESS_LOG": "off"}
    with servers(**settings) as (_, [bridge]):
        seen = Counter()
        streams = await asyncio.gather(*(fill(bridge.address, seen) for _ in range(CONNECTIONS)))
        last = 0.0
        while abs(last - resident(bridge)) > 1:
            last = resident(bridge)
            await asyncio.sleep(2)
        figures = await asyncio.to_thread(metrics, admin)
        for _, writer in streams:
            writer.transport.abort()
    held = figures["alim_bridge_buffered_bytes"] / (1 << 20)
    print(f"MEMORY_LIMIT {asked.limit} MiB: {figures['alim_bridge_open_calls']:.0f} calls, which hold {held:.1f} MiB; resident {last:.0f} MiB")
    check(last < asked.limit, "the process stayed under its limit")
    finish()


if __name__ == "__main__":
    asyncio.run(main())
