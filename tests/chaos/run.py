"""One run: start, traffic, accidents, calm, proof."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from contextlib import ExitStack

import redis

from tests.chaos.accidents import happen
from tests.chaos.answers import Answers
from tests.chaos.deployment import Deployment
from tests.chaos.history import Observer
from tests.chaos.invariants import settled
from tests.chaos.ledger import Ledger
from tests.chaos.traffic import Clients, Jobs
from tests.signing import SIGNED

CALM_S = 60.0
# What is on its way over a connection that died silently waits for its budget, and its client with it.
ANSWER_S = 10.0
# The default budget, and what a frozen Redis and a frozen API add to it.
MAX_S = 20.0


async def run_chaos(
    seconds: float,
    seed: int,
    *,
    apis: int = 2,
    workers: int = 3,
    clients: int = 10,
    model: str = SIGNED,
    shards: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[Ledger, list[str]]:
    """The ledger, with the history of each text, and a sentence for each invariant that was broken."""
    ledger = Ledger()
    answers = Answers(model)
    deployment = Deployment(apis=apis, workers=workers, model=model, shards=shards)
    try:
        await deployment.start()
        report("ready")
        return ledger, await _through(deployment, ledger, answers, seconds, seed, clients, report)
    except BaseException:
        report(deployment.logs())
        raise
    finally:
        await deployment.close()
        answers.close()


async def _through(
    deployment: Deployment,
    ledger: Ledger,
    answers: Answers,
    seconds: float,
    seed: int,
    clients: int,
    report: Callable[[str], None],
) -> list[str]:
    traffic = Clients(deployment, ledger, random.Random(f"{seed} traffic"), answers)
    observers = [Observer(server.client(), ledger.history) for server in deployment.servers]
    jobs = Jobs(deployment, ledger, random.Random(f"{seed} jobs"), answers)
    running = [asyncio.create_task(traffic.run(clients)), asyncio.create_task(jobs.run())]
    counting = asyncio.create_task(_count(deployment, ledger))
    await happen(deployment, random.Random(f"{seed} accidents"), time.monotonic() + seconds, ledger, report)
    report("calm")
    deployment.heal()
    await deployment.ready(CALM_S)
    before = ledger.right
    for _ in range(round(ANSWER_S / 2)):
        await asyncio.sleep(2)
        if ledger.right > before:
            break
    found = [] if ledger.right > before else ["no request was answered after the run"]
    traffic.stop.set()
    jobs.stop.set()
    await asyncio.gather(*running)
    await jobs.finish(CALM_S * 2)
    with ExitStack() as stack:
        found += await settled([stack.enter_context(server.client()) for server in deployment.servers], 30)
    counting.cancel()
    for observer in observers:
        observer.close()
    if not ledger.closed:
        found.append("answered is not asked")
    found += deployment.crashes()
    if ledger.failures or found:
        for server in deployment.servers:
            with server.client() as client:
                for key in client.scan_iter("{millrace:*}:dead"):
                    report("\n".join(map(repr, client.lrange(key, 0, -1))))
        report(deployment.logs())
    return found


async def _count(deployment: Deployment, ledger: Ledger) -> None:
    """Remembers what each worker has said that it computed."""
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            ledger.computed |= await asyncio.to_thread(_computed, deployment)
        await asyncio.sleep(0.5)


def _computed(deployment: Deployment) -> dict[str, int]:
    counted: dict[str, int] = {}
    for server in deployment.servers:
        with server.client() as client:
            keys = list(client.scan_iter("{millrace:*}:worker:*"))
            counted |= {key.decode(): int(client.hget(key, "texts") or 0) for key in keys}
    return counted
