"""A drain under open streams that are being read: SIGTERM, and each ends with Done, or with a status of the bridge's
own when the drain's time is up. None is reset, and the bridge ends in time.

    run drain [--streams 500]
"""

import argparse
import asyncio
import time
from collections import Counter

import grpc
from asking import stream
from processes import Bridge, check, finish, servers

from alim.v1.graph_service_pb2_grpc import GraphServiceStub

CHANNELS = 10
DRAIN_SECONDS = 4
SLACK_SECONDS = 3  # the last statuses may take 0.5 s to leave; the rest is for a busy machine
SHORT = (20, 0.1)  # tokens, seconds between them: ends before the drain's time is up
LONG = (200, 0.1)  # outlasts it


async def run(bridge: Bridge, streams: int, all_open) -> tuple[Counter[str], Counter[str], int, float]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    channels = [grpc.aio.insecure_channel(bridge.address, options) for _ in range(CHANNELS)]
    stubs = [GraphServiceStub(channel) for channel in channels]
    paces = [SHORT if nth % 2 else LONG for nth in range(streams)]
    reading = [asyncio.create_task(stream(stubs[nth % CHANNELS], str(nth), *pace)) for nth, pace in enumerate(paces)]
    await all_open(streams)
    begin = time.monotonic()
    bridge.signal_stop()
    code, _ = await asyncio.to_thread(bridge.wait)
    took = time.monotonic() - begin
    outcomes = await asyncio.gather(*reading)
    for channel in channels:
        await channel.close()
    of = {pace: Counter(how for how, its in zip(outcomes, paces, strict=True) if its == pace) for pace in (SHORT, LONG)}
    return of[SHORT], of[LONG], code, took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=500)
    asked = parser.parse_args()
    with servers(DRAIN_TIMEOUT=f"{DRAIN_SECONDS}s") as (upstream, [bridge]):

        async def all_open(streams: int) -> None:
            deadline = time.monotonic() + 30
            while len((await asyncio.to_thread(upstream.seen))["posts"]) < streams:
                if time.monotonic() > deadline:
                    raise RuntimeError("the streams did not open within 30 s")
                await asyncio.sleep(0.05)

        short, long, code, took = asyncio.run(run(bridge, asked.streams, all_open))
        posts = upstream.seen()["posts"]
    both = f"shorter than the drain: {dict(short)}; longer: {dict(long)}"
    print(f"{both}; exit {code} after {took:.2f} s")
    check(set(short) <= {"OK"}, "each stream shorter than the drain ended with Done")
    ended = {"UNAVAILABLE BRIDGE_DRAINING inside"}
    check(set(long) == ended, "each longer one ended with BRIDGE_DRAINING, none by a reset")
    check(code == 1, "the bridge says by its exit code that it had to cut")
    check(DRAIN_SECONDS <= took < DRAIN_SECONDS + SLACK_SECONDS, "it ended when the drain's time was up")
    check(max(posts.values()) == 1, "the upstream saw no call twice")
    finish()


if __name__ == "__main__":
    main()
