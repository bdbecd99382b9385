"""A rolling restart: two bridges behind a balancer in the caller, each stopped and started again on its port, while
calls of both kinds go on. No call may be lost, no stream broken, and the upstream must see each call once.

    run restart [--retries] [--blind] [--delay 0s] [--callers 50] [--rounds 2]

`--retries` gives the callers a retry policy for UNAVAILABLE, `--blind` keeps them from watching the bridges' health;
`--delay` is DRAIN_DELAY. Without the policy, a caller who is blind or gets no delay can still ask a bridge that drains:
then such refusals may be told, and nothing else.
"""

import argparse
import asyncio
import json
import random
from collections import Counter

import grpc
from asking import invoke, stream
from processes import Bridge, check, finish, servers

from alim.v1.graph_service_pb2_grpc import GraphServiceStub

CHANNELS = 10
SETTLE_SECONDS = 3.0  # between two restarts, for the balancers to find the bridge again
REFUSED = "UNAVAILABLE BRIDGE_DRAINING"
DRAIN_TIMEOUT = "10s"  # longer than any of these calls
POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.05s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def service_config(retries: bool, blind: bool) -> str:
    method = {"name": [{"service": "alim.v1.GraphService"}]} | ({"retryPolicy": POLICY} if retries else {})
    config = {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [method]}
    return json.dumps(config | ({} if blind else {"healthCheckConfig": {"serviceName": ""}}))


def channel(bridges: list[Bridge], asked: argparse.Namespace) -> grpc.aio.Channel:
    options = [
        ("grpc.service_config", service_config(asked.retries, asked.blind)),
        # Else it is the list of addresses, which is no authority: the bridge's HTTP/2 resets such calls.
        ("grpc.default_authority", "alim-bridge"),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    return grpc.aio.insecure_channel("ipv4:" + ",".join(bridge.address for bridge in bridges), options)


class Callers:
    """They call until told to stop, and keep what became of each call."""

    def __init__(self, channels: list[grpc.aio.Channel], count: int) -> None:
        self.stubs = [GraphServiceStub(it) for it in channels]
        self.count = count
        self.stopped = False
        self.outcomes: dict[str, str] = {}

    async def one(self, who: int) -> None:
        choice, stub, nth = random.Random(who), self.stubs[who % len(self.stubs)], 0
        while not self.stopped:
            message, nth = f"{who}-{nth}", nth + 1
            if choice.random() < 0.5:
                self.outcomes[f"I{message}"] = await invoke(stub, f"I{message}", choice.uniform(0.01, 0.3))
            else:
                tokens, gap = choice.randint(5, 20), choice.uniform(0.01, 0.2)
                self.outcomes[f"S{message}"] = await stream(stub, f"S{message}", tokens, gap)
            await asyncio.sleep(choice.uniform(0, 0.05))

    def failures(self, kind: str) -> Counter[str]:
        return Counter(how for message, how in self.outcomes.items() if message[0] == kind and how != "OK")

    def number(self, kind: str) -> int:
        return sum(message[0] == kind for message in self.outcomes)


async def restart(bridge: Bridge) -> tuple[int, float]:
    bridge.signal_stop()
    ended = await asyncio.to_thread(bridge.wait)
    await asyncio.to_thread(bridge.start)
    return ended


async def run(bridges: list[Bridge], asked: argparse.Namespace) -> tuple[Callers, list[tuple[int, float]]]:
    channels = [channel(bridges, asked) for _ in range(CHANNELS)]
    callers = Callers(channels, asked.callers)
    calling = [asyncio.create_task(callers.one(who)) for who in range(asked.callers)]
    ends = []
    for bridge in bridges * asked.rounds:
        await asyncio.sleep(SETTLE_SECONDS)
        ends.append(await restart(bridge))
    await asyncio.sleep(SETTLE_SECONDS)
    callers.stopped = True
    await asyncio.gather(*calling)
    for it in channels:
        await it.close()
    return callers, ends


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--retries", action="store_true")
    parser.add_argument("--blind", action="store_true")
    parser.add_argument("--delay", default="0s")
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    with servers(2, DRAIN_DELAY=asked.delay, DRAIN_TIMEOUT=DRAIN_TIMEOUT) as (upstream, bridges):
        callers, ends = asyncio.run(run(bridges, asked))
        seen = Counter(upstream.seen()["posts"])
    lost, broken = callers.failures("I"), callers.failures("S")
    print(f"{callers.number('I')} invokes, {callers.number('S')} streams; bridges ended after "
          f"{', '.join(f'{seconds:.1f} s' for _, seconds in ends)}")
    check(all(code == 0 for code, _ in ends), f"all of {len(ends)} stops ended with 0")
    if asked.retries or not (asked.blind or asked.delay == "0s"):
        check(not lost, f"no invoke was lost: {dict(lost)}")
        check(not broken, f"no stream was lost or broken: {dict(broken)}")
    else:
        refused = lost + broken
        check(set(refused) <= {REFUSED}, f"nothing was lost but by a refusal before it began: {dict(refused)}")
        unsent = [message for message, how in callers.outcomes.items() if how == REFUSED]
        check(not any(seen[message] for message in unsent), "what was refused never reached the upstream")
    check(max(seen.values(), default=0) == 1, "the upstream saw no call twice")
    answered = [message for message, how in callers.outcomes.items() if how == "OK"]
    check(all(seen[message] == 1 for message in answered), f"it saw each of {len(answered)} answered calls once")
    finish()


if __name__ == "__main__":
    main()
