"""What happens to the deployment: a seeded schedule of accidents, each undone by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable

import redis

from tests.chaos.deployment import Deployment, Seat
from tests.chaos.ledger import Ledger
from tests.servers import RedisServer

Accident = Callable[[Deployment, random.Random], Awaitable[None]]


def _send(seat: Seat, how: signal.Signals) -> None:
    if seat.process.running:
        seat.process.kill(how)


async def kill_worker(deployment: Deployment, rng: random.Random) -> None:
    _send(rng.choice(deployment.workers), signal.SIGKILL)


async def kill_all_workers(deployment: Deployment, rng: random.Random) -> None:
    for seat in deployment.workers:
        _send(seat, signal.SIGKILL)


async def stop_worker(deployment: Deployment, rng: random.Random) -> None:
    _send(rng.choice(deployment.workers), signal.SIGTERM)


async def kill_api(deployment: Deployment, rng: random.Random) -> None:
    _send(rng.choice(deployment.apis), signal.SIGKILL)


async def stop_api(deployment: Deployment, rng: random.Random) -> None:
    _send(rng.choice(deployment.apis), signal.SIGTERM)


async def kill_jobs(deployment: Deployment, rng: random.Random) -> None:
    _send(deployment.jobs, rng.choice([signal.SIGKILL, signal.SIGTERM]))


async def freeze_worker(deployment: Deployment, rng: random.Random) -> None:
    await _freeze(rng.choice(deployment.workers), rng.uniform(0.5, 4))


async def freeze_api(deployment: Deployment, rng: random.Random) -> None:
    await _freeze(rng.choice(deployment.apis), rng.uniform(0.5, 3))


async def _freeze(seat: Seat, seconds: float) -> None:
    process = seat.process
    _send(seat, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    if process.running:
        process.kill(signal.SIGCONT)


async def freeze_redis(deployment: Deployment, rng: random.Random) -> None:
    server = deployment.any_redis(rng)
    server.pause()
    await asyncio.sleep(rng.uniform(0.3, 3))
    server.resume()


async def restart_redis(deployment: Deployment, rng: random.Random) -> None:
    server = deployment.any_redis(rng)
    server.kill()
    await asyncio.sleep(rng.uniform(0, 1.5))
    await asyncio.to_thread(server.start)


async def empty_redis(deployment: Deployment, rng: random.Random) -> None:
    server = deployment.any_redis(rng)
    server.kill()
    server.forget()
    await asyncio.sleep(rng.uniform(0, 1))
    await asyncio.to_thread(server.start)
    if server is deployment.jobs_redis:
        deployment.emptied_at.append(time.monotonic())


async def pause_clients(deployment: Deployment, rng: random.Random) -> None:
    await _command(
        deployment.any_redis(rng), "CLIENT", "PAUSE", rng.randrange(200, 2500), rng.choice(["ALL", "WRITE"])
    )


async def flush_scripts(deployment: Deployment, rng: random.Random) -> None:
    server = deployment.any_redis(rng)
    for _ in range(rng.randrange(1, 20)):
        await _command(server, "SCRIPT", "FLUSH")


async def fill_memory(deployment: Deployment, rng: random.Random) -> None:
    await _fill(deployment.any_redis(rng), rng.uniform(0.3, 2))


async def fill_memory_long(deployment: Deployment, rng: random.Random) -> None:
    """For longer than a worker lives without a heartbeat: a worker that is refused must not seem dead."""
    await _fill(deployment.any_redis(rng), rng.uniform(6, 9))


async def _fill(server: RedisServer, seconds: float) -> None:
    await _command(server, "CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(seconds)
    await _command(server, "CONFIG", "SET", "maxmemory", "0")


async def slow_network(deployment: Deployment, rng: random.Random) -> None:
    proxy = rng.choice(deployment.proxies)
    proxy.slow(rng.uniform(0.005, 0.1))
    await asyncio.sleep(rng.uniform(1, 4))
    proxy.slow(0)


async def half_open(deployment: Deployment, rng: random.Random) -> None:
    rng.choice(deployment.proxies).strand()


async def lose_answers(deployment: Deployment, rng: random.Random) -> None:
    proxy = rng.choice(deployment.proxies)
    proxy.lose("answers")
    await asyncio.sleep(rng.uniform(0.2, 2))
    proxy.heal()
    proxy.cut()


async def cut_connections(deployment: Deployment, rng: random.Random) -> None:
    rng.choice(deployment.proxies).cut()


async def move_shard(deployment: Deployment, rng: random.Random) -> None:
    """The slot of a shard moves to another master. Until all keys have arrived, the shard stands still."""
    cluster = deployment.cluster
    assert cluster is not None
    shard = rng.randrange(len(cluster.shards))
    target = rng.choice([number for number in range(len(cluster.shards)) if number != cluster.masters[shard]])
    await asyncio.to_thread(cluster.begin_move, shard, target)
    await asyncio.sleep(rng.uniform(0, 0.6))
    await asyncio.to_thread(cluster.end_move, shard, target)


async def _command(server: RedisServer, *words: object) -> None:
    def run() -> None:
        with contextlib.suppress(redis.RedisError), server.client() as client:
            client.execute_command(*words)

    await asyncio.to_thread(run)


ACCIDENTS: list[Accident] = [
    kill_worker,
    kill_worker,
    kill_all_workers,
    stop_worker,
    kill_api,
    stop_api,
    kill_jobs,
    freeze_worker,
    freeze_worker,
    freeze_api,
    freeze_redis,
    restart_redis,
    empty_redis,
    pause_clients,
    flush_scripts,
    fill_memory,
    fill_memory_long,
    slow_network,
    half_open,
    half_open,
    lose_answers,
    cut_connections,
]
# Those of a queue in a cluster, which come beside the others.
CLUSTER_ACCIDENTS: list[Accident] = [restart_redis, restart_redis, move_shard, move_shard, move_shard]


async def happen(
    deployment: Deployment, rng: random.Random, until: float, ledger: Ledger, report: Callable[[str], None]
) -> None:
    """Accidents until `until` (monotonic), 0.5 to 3 s from the end of one to the next; every kind in turn."""
    kinds = ACCIDENTS + (CLUSTER_ACCIDENTS if deployment.cluster is not None else [])
    bag: list[Accident] = []
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0.5, 3))
        if not bag:
            bag = rng.sample(kinds, len(kinds))
        accident = bag.pop()
        name = accident.__name__.replace("_", " ")
        ledger.events[name] += 1
        ledger.history.accidents.append(time.time())
        report(name)
        await accident(deployment, rng)
