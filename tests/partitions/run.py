"""One run: a network, Redis, the service, traffic; cuts one after the other; calm; and what was promised."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.answers import Answers
from tests.chaos.deployment import why_not_ready
from tests.chaos.invariants import settled
from tests.partitions.cuts import Cut, Cuts
from tests.partitions.network import Network
from tests.partitions.promises import READY_S
from tests.partitions.service import Service
from tests.partitions.topology import Clustered, Sentinels, Topology
from tests.partitions.traffic import Job, Jobs, Predicts, Record
from tests.partitions.watch import Masters
from tests.signing import SIGNED

TOPOLOGIES: dict[str, type[Sentinels | Clustered]] = {"sentinel": Sentinels, "cluster": Clustered}
CLIENTS = 2  # of each API
START_S, SETTLE_S = 120.0, 150.0


@dataclass(frozen=True, slots=True)
class Plan:
    topology: str = "sentinel"
    cuts: int = 200
    seed: int = 1
    planted: str = ""
    # Further words of each redis-server.
    options: Sequence[str] = ()


@dataclass
class Made:
    """What happened. Times in s of the machine's clock; `ready_s` of each cut is counted from its end."""

    record: Record = field(default_factory=Record)
    cuts: list[tuple[float, float, Cut]] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    jobs: Sequence[Job] = ()
    jobs_refused: int = 0
    promoted: Sequence[tuple[float, str]] = ()
    twice: Sequence[tuple[float, float, tuple[str, ...]]] = ()
    served_twice: int = 0
    broken: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)


async def run(plan: Plan, binary: Path, report: Callable[[str], None] = lambda line: None) -> Made:
    """Runs the plan and removes everything that it started."""
    made, answers = Made(), Answers(SIGNED)
    with ExitStack() as stack:
        stack.callback(answers.close)
        network = Network()
        stack.callback(network.close)
        topology = TOPOLOGIES[plan.topology](network, binary, plan.options)
        stack.callback(topology.close)
        topology.start()
        service = Service(network, topology, plan.planted)
        stack.callback(service.close)
        try:
            await _Run(plan, made, network, topology, service, answers, report).run()
        except BaseException:
            report(service.logs())
            raise
        if made.broken or made.record.wrong:
            report(service.logs())
    return made


@dataclass
class _Run:
    plan: Plan
    made: Made
    network: Network
    topology: Topology
    service: Service
    answers: Answers
    report: Callable[[str], None]

    async def run(self) -> None:
        made, rng = self.made, random.Random(f"{self.plan.seed} traffic")
        await self._ready(START_S)
        masters = Masters(self.topology, made.record.history)
        predicts = [Predicts(url, made.record, rng, self.answers) for url in self.service.urls]
        jobs = Jobs(self.service.urls, made.record, rng, self.answers)
        async with asyncio.TaskGroup() as group:
            for one in predicts:
                group.create_task(one.run(CLIENTS))
            group.create_task(jobs.run())
            await self._cut(masters)
            for each in (*predicts, jobs):
                each.stop.set()
        self.report("settling")
        await self._settle(jobs)
        masters.close()
        made.promoted, made.twice, made.served_twice = masters.promoted, masters.twice, masters.served_twice()
        made.jobs, made.jobs_refused = jobs.jobs, jobs.refused
        made.broken += [*self.service.ended(), *self.service.tracebacks()]

    async def _cut(self, masters: Masters) -> None:
        """All cuts, each until it is healed and the service is ready, and half a second or so."""
        rng = random.Random(f"{self.plan.seed} cuts")
        cuts = Cuts(self.topology, rng)
        for number in range(1, self.plan.cuts + 1):
            cut = cuts.draw()
            began, promoted = time.time(), len(masters.promoted)
            self.made.record.history.accidents.append(began)
            self.network.cut(cut.ways)
            await asyncio.sleep(cut.seconds)
            self.network.heal()
            healed = time.time()
            self.made.record.history.accidents.append(healed)
            ready_s = await self._ready(2 * READY_S)
            self.made.ready_s.append(ready_s)
            self.made.kinds[cut.kind] += 1
            await asyncio.sleep(rng.uniform(0.3, 1.0))
            self.made.cuts.append((began, healed, cut))
            news = [name for _, name in masters.promoted[promoted:]]
            said = f"{number:4} {cut.kind}: {len(cut.ways)} ways, {cut.seconds:.1f} s; ready {ready_s:.1f} s"
            self.report(
                "; ".join([said, *(f"{name} promoted" for name in news), *["two masters"] * masters.split])
            )

    async def _ready(self, timeout_s: float) -> float:
        """Seconds until every API says that it is ready and answers a new text."""
        began, number = time.monotonic(), 0
        async with httpx.AsyncClient(trust_env=False, timeout=timeout_s) as client:
            left = list(self.service.urls)
            while left:
                number += 1
                if not await _why_unusable(client, left[0], f"ready {time.time()} {number}"):
                    left.pop(0)
                elif time.monotonic() - began > timeout_s:
                    return time.monotonic() - began
                else:
                    await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def _settle(self, jobs: Jobs) -> None:
        """One master of everything, all jobs ended, and nothing left in the queue."""
        until = time.monotonic() + SETTLE_S
        while not self._one_master() and time.monotonic() < until:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.5)
        if not self._one_master():
            self.made.broken.append(f"these are masters at the end: {self.topology.masters()}")
        await jobs.finish(SETTLE_S)
        with contextlib.ExitStack() as stack:
            masters = [self.topology.nodes[name] for name in self.topology.masters()]
            clients = [stack.enter_context(node.server.client()) for node in masters]
            self.made.broken += await settled(clients, 60)

    def _one_master(self) -> bool:
        groups = Counter(self.topology.nodes[name].group for name in self.topology.masters())
        return set(groups) == {node.group for node in self.topology.nodes.values()} and set(
            groups.values()
        ) == {1}


async def _why_unusable(client: httpx.AsyncClient, url: str, text: str) -> str:
    """Why this API is not ready, or does not answer a text; empty if it does."""
    if why := await why_not_ready(client, url):
        return why
    answer = await client.post(f"{url}/predict", json={"text": [text]})
    return "" if answer.status_code == 200 else answer.text
