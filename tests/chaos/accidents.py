"""What happens to the plant: a seeded schedule of accidents, each undone by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable

import redis

from tests.chaos.ledger import Ledger
from tests.chaos.plant import Plant, Seat

Accident = Callable[[Plant, random.Random], Awaitable[None]]


def _send(seat: Seat, how: signal.Signals) -> None:
    if seat.process.running:
        seat.process.kill(how)


async def kill_worker(plant: Plant, rng: random.Random) -> None:
    _send(rng.choice(plant.workers), signal.SIGKILL)


async def kill_all_workers(plant: Plant, rng: random.Random) -> None:
    for seat in plant.workers:
        _send(seat, signal.SIGKILL)


async def stop_worker(plant: Plant, rng: random.Random) -> None:
    _send(rng.choice(plant.workers), signal.SIGTERM)


async def kill_api(plant: Plant, rng: random.Random) -> None:
    _send(rng.choice(plant.apis), signal.SIGKILL)


async def stop_api(plant: Plant, rng: random.Random) -> None:
    _send(rng.choice(plant.apis), signal.SIGTERM)


async def kill_jobs(plant: Plant, rng: random.Random) -> None:
    _send(plant.jobs, rng.choice([signal.SIGKILL, signal.SIGTERM]))


async def freeze_worker(plant: Plant, rng: random.Random) -> None:
    await _freeze(rng.choice(plant.workers), rng.uniform(0.5, 4))


async def freeze_api(plant: Plant, rng: random.Random) -> None:
    await _freeze(rng.choice(plant.apis), rng.uniform(0.5, 3))


async def _freeze(seat: Seat, seconds: float) -> None:
    process = seat.process
    _send(seat, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    if process.running:
        process.kill(signal.SIGCONT)


async def freeze_redis(plant: Plant, rng: random.Random) -> None:
    plant.redis.pause()
    await asyncio.sleep(rng.uniform(0.3, 3))
    plant.redis.resume()


async def restart_redis(plant: Plant, rng: random.Random) -> None:
    plant.redis.kill()
    await asyncio.sleep(rng.uniform(0, 1.5))
    await asyncio.to_thread(plant.redis.start)


async def empty_redis(plant: Plant, rng: random.Random) -> None:
    plant.redis.kill()
    plant.redis.forget()
    await asyncio.sleep(rng.uniform(0, 1))
    await asyncio.to_thread(plant.redis.start)
    plant.emptied_at.append(time.monotonic())


async def pause_clients(plant: Plant, rng: random.Random) -> None:
    await _command(plant, "CLIENT", "PAUSE", rng.randrange(200, 2500), rng.choice(["ALL", "WRITE"]))


async def flush_scripts(plant: Plant, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 20)):
        await _command(plant, "SCRIPT", "FLUSH")


async def fill_memory(plant: Plant, rng: random.Random) -> None:
    await _command(plant, "CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(rng.uniform(0.3, 2))
    await _command(plant, "CONFIG", "SET", "maxmemory", "0")


async def fill_memory_long(plant: Plant, rng: random.Random) -> None:
    """For longer than a worker lives without a beat: who is refused must not seem dead."""
    await _command(plant, "CONFIG", "SET", "maxmemory", "1")
    await asyncio.sleep(rng.uniform(6, 9))
    await _command(plant, "CONFIG", "SET", "maxmemory", "0")


async def slow_network(plant: Plant, rng: random.Random) -> None:
    proxy = rng.choice([plant.api_proxy, plant.worker_proxy])
    proxy.slow(rng.uniform(0.005, 0.1))
    await asyncio.sleep(rng.uniform(1, 4))
    proxy.slow(0)


async def half_open(plant: Plant, rng: random.Random) -> None:
    rng.choice([plant.api_proxy, plant.worker_proxy]).strand()


async def lose_answers(plant: Plant, rng: random.Random) -> None:
    proxy = rng.choice([plant.api_proxy, plant.worker_proxy])
    proxy.lose("answers")
    await asyncio.sleep(rng.uniform(0.2, 2))
    proxy.heal()
    proxy.cut()


async def cut_connections(plant: Plant, rng: random.Random) -> None:
    rng.choice([plant.api_proxy, plant.worker_proxy]).cut()


async def _command(plant: Plant, *words: object) -> None:
    def run() -> None:
        with contextlib.suppress(redis.RedisError), plant.redis.client() as client:
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


async def happen(
    plant: Plant, rng: random.Random, until: float, ledger: Ledger, told: Callable[[str], None]
) -> None:
    """Accidents until `until` (monotonic), 0.5 to 3 s from the end of one to the next; every kind in turn."""
    bag: list[Accident] = []
    while time.monotonic() < until:
        await asyncio.sleep(rng.uniform(0.5, 3))
        if not bag:
            bag = rng.sample(ACCIDENTS, len(ACCIDENTS))
        accident = bag.pop()
        name = accident.__name__.replace("_", " ")
        ledger.events[name] += 1
        ledger.history.accidents.append(time.time())
        told(name)
        await accident(plant, rng)
