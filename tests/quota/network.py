"""A slow network: passes TCP on to the address in its argument. Each line of its input is the delay from now on, in seconds.

It is a process of its own, so that no load of the test slows it.
"""

import asyncio
import sys

delay = 0.0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, port = sys.argv[1].split(":")
    try:
        there = await asyncio.open_connection(host, int(port))
    except OSError:
        writer.transport.abort()
        return
    await asyncio.gather(pass_on(reader, there[1], True), pass_on(there[0], writer, False))


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_slow: bool) -> None:
    try:
        while data := await reader.read(65536):
            await asyncio.sleep(delay if is_slow else 0)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.transport.abort()


async def main() -> None:
    global delay
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"listening on {host}:{port}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        delay = float(line)
        print("set", flush=True)


asyncio.run(main())
