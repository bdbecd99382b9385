"""Three bridges, one quota of 12 a second at the rate limit service, 5 of it for the caller `orders`.

    run
"""

import asyncio
import hashlib
import os
import signal
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from processes import Bridge, check, finish, free_port
from service import Alim, Network, RateLimit, Redis

from alim.v1.graph_service_pb2 import InvokeRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub

BRIDGES = 3
LIMIT, OF_ORDERS = 12, 5
SHARE = LIMIT // BRIDGES
WINDOW = 1.25  # of a bridge's own count: its second, and 250 ms for the way
DELAY = 0.5
CALL_SECONDS = 60


class Bridges:
    def __init__(self, alim: Alim, service: str, callers: Path) -> None:
        self.admin = [f"127.0.0.1:{free_port()}" for _ in range(BRIDGES)]
        settings = {
            "UPSTREAM_QUOTA": f"{LIMIT}/s",
            "QUOTA_WAIT": "50s",
            "QUOTA_REPLICAS": str(BRIDGES),
            "QUOTA_SERVICE": service,
            "CALLERS_FILE": str(callers),
            "ACCESS_LOG": "off",
        }
        self.running = [Bridge(alim, ADMIN_LISTEN=admin, **settings) for admin in self.admin]
        self.channels = [grpc.aio.insecure_channel(bridge.address) for bridge in self.running]

    async def call(self, at: int, caller: str, message: str, timeout: float = CALL_SECONDS) -> tuple[str, float]:
        """Its code, and how long it took."""
        begin = time.monotonic()
        stub, key = GraphServiceStub(self.channels[at]), [("authorization", f"Bearer {caller}")]
        asked = InvokeRequest(message=f"{at} {caller} {message}")
        try:
            await stub.Invoke(asked, metadata=key, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}", time.monotonic() - begin
        return "OK", time.monotonic() - begin

    async def each(self, count: int, name: str) -> list[tuple[str, float]]:
        """So many calls of a caller to each bridge, all at once."""
        calls = [self.call(at, name, str(nth)) for nth in range(count) for at in range(BRIDGES)]
        return await asyncio.gather(*calls)

    async def asked(self) -> Counter:
        """The results of all questions to the service so far, and on how many bridges it is up."""
        found: Counter = Counter()
        for admin in self.admin:
            text = await asyncio.to_thread(read, f"http://{admin}/metrics")
            for line in text.splitlines():
                name, _, value = line.partition(" ")
                if name.startswith("alim_bridge_quota_service_requests_total"):
                    found[name.split('"')[1]] += int(value)
                if name == "alim_bridge_quota_service_up":
                    found["up"] += int(value)
        return found

    def kill(self) -> None:
        for bridge in self.running:
            bridge.kill()


def read(url: str) -> str:
    with urllib.request.urlopen(url) as reply:
        return reply.read().decode()


async def middle_of_a_second() -> None:
    """The service's windows are seconds of the clock. What is admitted in the middle of one arrives in the same."""
    await asyncio.sleep((1.35 - time.time() % 1) % 1)


def most_in_a_second(arrived: list[tuple[float, str]], caller: str = "") -> int:
    seconds = Counter(int(at) for at, message in arrived if caller in message)
    return max(seconds.values(), default=0)


def most_of_a_bridge(arrived: list[tuple[float, str]]) -> int:
    """The most that one bridge sent in any window of its own."""
    most = 0
    for bridge in range(BRIDGES):
        times = [at for at, message in arrived if message.startswith(f"{bridge} ")]
        for begin in times:
            # A millisecond less, because it is the arrival that is seen.
            most = max(most, sum(begin <= at < begin + WINDOW - 0.25 for at in times))
    return most


def failures(before: Counter, after: Counter) -> int:
    return sum(after[it] - before[it] for it in ("error", "timeout"))


def in_a_second(before: Counter, after: Counter) -> int:
    """What may reach ALİM: the limit, or twice that where a busy machine made an answer late, so that a bridge went on alone."""
    return 2 * LIMIT if failures(before, after) else LIMIT


async def shares(bridges: Bridges, alim: Alim) -> None:
    await middle_of_a_second()
    begin, before = time.monotonic(), await bridges.asked()
    told = await asyncio.gather(bridges.each(8, "orders"), bridges.each(16, "research"))
    took, after = time.monotonic() - begin, await bridges.asked()
    codes = Counter(code for calls in told for code, _ in calls)
    arrived = alim.take()
    check(codes == {"OK": 72}, f"72 calls of two callers over three bridges: {dict(codes)}")
    bound = in_a_second(before, after)
    check(most_in_a_second(arrived) <= bound, f"at most {most_in_a_second(arrived)} of {bound} a second reach ALİM")
    orders, of_orders = most_in_a_second(arrived, " orders "), OF_ORDERS + bound - LIMIT
    check(orders <= of_orders, f"at most {orders} of {of_orders} a second of orders")
    for bridge in range(BRIDGES):
        check(sum(message.startswith(f"{bridge} ") for _, message in arrived) == 24, f"bridge {bridge} sent its 24")
    denied = after["over_limit"] - before["over_limit"]
    # All that a bridge's own count allows ask in the first second. Then each asks once in vain for the key and once for orders.
    most = BRIDGES * LIMIT + 2 * BRIDGES * (int(took) + 1)
    check(denied <= most, f"{denied} questions in vain in {took:.0f} s, {most} at most")
    admitted, alone = after["ok"] - before["ok"], failures(before, after)
    check(36 <= admitted <= 72 <= admitted + alone * SHARE, f"each call asked until it was admitted: {admitted} of 72")


async def fails(bridges: Bridges, alim: Alim, how: str) -> None:
    """Each bridge goes on alone, and its calls do not wait for the service."""
    alim.take()
    before = await bridges.asked()
    begin = time.monotonic()
    told = await bridges.each(2 * SHARE, "research")
    took, after = time.monotonic() - begin, await bridges.asked()
    codes, arrived = Counter(code for code, _ in told), alim.take()
    check(codes == {"OK": 2 * SHARE * BRIDGES}, f"{how}: calls go on: {dict(codes)}")
    most = most_of_a_bridge(arrived)
    check(most <= SHARE, f"{how}: a bridge sends at most {most} of its share of {SHARE}")
    check(sorted(took for _, took in told)[SHARE * BRIDGES - 1] < DELAY, f"{how}: nobody within the share waits for {DELAY} s")
    check(after["up"] == 0, f"{how}: alim_bridge_quota_service_up is 0")
    failed = failures(before, after)
    # All that a bridge's own count allows ask at once; then it is one a second.
    most = BRIDGES * (2 * SHARE + int(took) + 1)
    check(0 < failed <= most, f"{how}: {failed} questions failed, {most} at most")


async def is_back(bridges: Bridges, alim: Alim, how: str) -> None:
    """Calls find out by themselves."""
    for _ in range(60):
        await bridges.each(1, "research")
        if (await bridges.asked())["up"] == BRIDGES:
            break
        await asyncio.sleep(0.25)
    await asyncio.sleep(WINDOW)
    alim.take()
    await middle_of_a_second()
    before = await bridges.asked()
    told, arrived = await bridges.each(8, "research"), alim.take()
    bound = in_a_second(before, await bridges.asked())
    codes = Counter(code for code, _ in told)
    check(codes == {"OK": 24}, f"{how}: 24 calls: {dict(codes)}")
    most = most_in_a_second(arrived)
    check(most <= bound, f"{how}: at most {most} of {bound} a second reach ALİM")
    check((await bridges.asked())["up"] == BRIDGES, f"{how}: alim_bridge_quota_service_up is 1")


async def admits_nobody(bridges: Bridges, alim: Alim) -> None:
    alim.take()
    before = await bridges.asked()
    waiting = asyncio.create_task(bridges.each(4, "research"))
    await asyncio.sleep(3)
    after = await bridges.asked()
    check(not alim.take(), "over the limit for all: nothing reaches ALİM")
    check(after["up"] == BRIDGES, "over the limit for all: the service is up")
    denied = after["over_limit"] - before["over_limit"]
    check(denied <= BRIDGES * (4 + 3), f"over the limit for all: {denied} questions of 12 waiting calls in 3 s")
    impatient = GraphServiceStub(bridges.channels[0]).Invoke(
        InvokeRequest(message="Salam"), metadata=[("authorization", "Bearer orders")], timeout=0.2
    )
    try:
        await impatient
    except grpc.aio.AioRpcError as error:
        rich, retry = rpc_status.from_call(error), RetryInfo()
        known = rich and any(packed.Unpack(retry) for packed in rich.details)
        exact = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and known and retry.retry_delay.ToMilliseconds() <= 1000
        check(bool(exact), f"over the limit for all: who can't wait learns when: {error.details()}")
    else:
        check(False, "over the limit for all: a call went through")
    return waiting


async def shipped(bridges: Bridges, alim: Alim) -> None:
    """The limits of deploy/: 15 a minute, of which a caller may have 10."""
    while time.time() % 60 > 50:
        await asyncio.sleep(1)
    alim.take()
    for caller in ("research", "orders"):
        for nth in range(12):
            # Who can't have its turn within the deadline is rejected at once.
            await bridges.call(nth % BRIDGES, caller, "shipped", timeout=5)
    arrived = alim.take()
    sent = {caller: sum(f" {caller} " in message for _, message in arrived) for caller in ("research", "orders")}
    check(sent == {"research": 10, "orders": 5}, f"the limits of deploy/, 15 and 10 a minute: {sent}")


async def run(folder: Path) -> None:
    redis = Redis(folder)
    limits = RateLimit(folder, redis)
    limits.start(LIMIT, OF_ORDERS)
    alim, network = Alim(), Network(limits.address)
    callers = folder / "callers.toml"
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("orders", "research")}
    callers.write_text("".join(f'[[caller]]\nname = "{it}"\nkey_sha256 = ["{key}"]\n' for it, key in keys.items()))
    bridges = Bridges(alim, network.url, callers)
    try:
        await is_back(bridges, alim, "started")
        await shares(bridges, alim)

        limits.kill()
        await asyncio.sleep(WINDOW)
        await fails(bridges, alim, "killed")
        limits.start(LIMIT, OF_ORDERS)
        await is_back(bridges, alim, "restarted")

        network.set_delay(DELAY)
        await asyncio.sleep(WINDOW)
        await fails(bridges, alim, "slow")
        network.set_delay(0)
        await is_back(bridges, alim, "fast again")

        redis.kill()
        await asyncio.sleep(WINDOW)
        await fails(bridges, alim, "errors, for Redis is gone")
        redis.start()
        await is_back(bridges, alim, "Redis is back")

        os.kill(limits.process.pid, signal.SIGSTOP)
        await asyncio.sleep(WINDOW)
        await fails(bridges, alim, "stopped in the middle of it")
        os.kill(limits.process.pid, signal.SIGCONT)
        await is_back(bridges, alim, "goes on")

        limits.kill()
        limits.start(0, 0)
        await is_asked(bridges)
        waiting = await admits_nobody(bridges, alim)
        limits.kill()
        limits.start(LIMIT, OF_ORDERS)
        told = Counter(code for code, _ in await waiting)
        check(told == {"OK": 12}, f"the limit is raised: calls that waited are served: {dict(told)}")
        await is_back(bridges, alim, "the limit is raised")

        limits.kill()
        limits.start_shipped()
        await asyncio.sleep(WINDOW)
        await shipped(bridges, alim)
    finally:
        bridges.kill()
        limits.kill()
        redis.kill()
        network.kill()


async def is_asked(bridges: Bridges) -> None:
    """Each bridge has a connection to the service again."""
    before = await bridges.asked()
    impatient = [bridges.call(at, "research", "finds the service") for at in range(BRIDGES) for _ in range(SHARE + 1)]
    calls = [asyncio.create_task(it) for it in impatient]
    while (await bridges.asked())["over_limit"] < before["over_limit"] + BRIDGES:
        await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await asyncio.sleep(WINDOW)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
    finish()


if __name__ == "__main__":
    main()
