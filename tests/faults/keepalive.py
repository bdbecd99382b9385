"""The race with the upstream's keep-alive: uvicorn closes an idle connection after 5.0 s, so a call that goes out on
one at that moment is lost, and may not be sent again. The bridge's pool keeps connections for 4 s only.

All callers call at once and the upstream answers only when it has all the calls, so each has a connection of its own,
which is then idle until the next round; the rounds' gaps go from 3.8 to 5.2 s. `--prove` runs the pool at 6 s, where
calls must be lost: if none is, the figure of the other run means nothing.

    run keepalive [--callers 500] [--rounds 20] [--prove]
"""

import argparse
import asyncio
import random
from collections import Counter

import grpc
from asking import invoke
from processes import check, finish, servers

from alim.v1.graph_service_pb2_grpc import GraphServiceStub

SHORTEST, LONGEST = 3.8, 5.2
HOLD = 0.6  # long enough for a round to be all in
CHANNELS = 10  # an HTTP/2 connection carries 100 of Python's calls well


def gaps(rounds: int) -> list[float]:
    """Evenly spread and shuffled, always the same."""
    step = (LONGEST - SHORTEST) / max(1, rounds - 2)
    spread = [SHORTEST + step * nth for nth in range(rounds - 1)]
    random.Random(5).shuffle(spread)
    return spread


async def call_in_rounds(address: str, callers: int, rounds: int) -> Counter[str]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(address, options) for _ in range(CHANNELS)]
    stubs = [GraphServiceStub(channel) for channel in channels]
    outcomes: Counter[str] = Counter()
    for nth, gap in enumerate([0.0, *gaps(rounds)]):
        await asyncio.sleep(gap)
        calls = (invoke(stubs[who % CHANNELS], f"{nth}-{who}", HOLD) for who in range(callers))
        outcomes.update(await asyncio.gather(*calls))
    for channel in channels:
        await channel.close()
    return outcomes


def run(pool: str, callers: int, rounds: int) -> tuple[Counter[str], dict]:
    with servers(POOL_IDLE_TIMEOUT=pool, MAX_CALLS="8192") as (upstream, [bridge]):
        outcomes = asyncio.run(call_in_rounds(bridge.address, callers, rounds))
        return outcomes, upstream.seen()


def tell(pool: str, outcomes: Counter[str], seen: dict) -> None:
    late = sorted(seen["reused_after"])
    print(f"pool of {pool}: {dict(outcomes)}; {seen['connections']} connections, used again {len(late)} times, "
          f"after up to {late[-1] if late else 0} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--callers", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--prove", action="store_true", help="with a pool of 6 s, where calls must be lost")
    asked = parser.parse_args()
    pool, calls = "6s" if asked.prove else "4s", asked.callers * asked.rounds
    outcomes, seen = run(pool, asked.callers, asked.rounds)
    tell(pool, outcomes, seen)
    check(max(seen["posts"].values()) == 1, "no call was posted twice")
    if asked.prove:
        check(outcomes["OK"] < calls, f"{calls - outcomes['OK']} of {calls} calls are lost with a pool of 6 s")
    else:
        check(outcomes == {"OK": calls}, f"all {calls} calls were answered")
        check(len(seen["posts"]) == calls, f"all {calls} calls were posted")
        check(max(seen["reused_after"]) > SHORTEST, "connections were used again after close to 4 s")
    finish()


if __name__ == "__main__":
    main()
