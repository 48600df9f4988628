"""One soak: traffic, revisions, workers that come and go, in cycles; and what was recorded."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from batcher.worker.building import DROP_S
from tests.operators import OperatorAuth
from tests.signing import SIGNED, Checker, Revision
from tests.soak.record import Recorder
from tests.soak.schedule import Schedule, Steps
from tests.soak.service import SoakService, running_service
from tests.soak.slopes import PARTS
from tests.soak.traffic import Traffic

LOAD_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """`cycles` follow each other: as many as parts of both halves, so that each part is a whole cycle.

    `filled` requests of each outcome come first, so that the API remembers as many as it ever does. Then
    `jobs` of one text run, after which a jobs worker hardly grows, and `revisions` are published one after
    another and dropped, so that the memory of a worker has its gaps.
    """

    seconds: float
    model: str = "default"
    rate: float = 6.0
    every_s: float = 1.0
    cycles: int = 2 * PARTS["mean"]
    filled: int = 5_500
    jobs: int = 200
    revisions: int = 30
    limited: bool = False

    @property
    def cycle_s(self) -> float:
        return self.seconds / self.cycles

    @property
    def sample_s(self) -> float:
        """The time between samples: at most `every_s`, and several in each cycle."""
        return min(self.every_s, self.cycle_s / 4)


@dataclass(frozen=True, slots=True)
class Soak:
    """`wrong` has a sentence for each answer that was not as expected, and what `SoakService.wrong` finds.

    The times of `series` are planned ones (`Schedule.planned`); `lengths` are those of the shortest and the
    longest cycle in s.
    """

    series: dict[str, list[tuple[float, float]]]
    lengths: tuple[float, float]
    seen: Counter[str]
    wrong: Sequence[str]


def soak(plan: Plan, report: Callable[[str], None] = lambda line: None) -> Soak:
    """Starts the service, runs the plan and ends everything. Raises RuntimeError without a redis-server."""
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        running_service(plan.model, Path(folder), limited=plan.limited) as (service, models),
    ):
        report("ready")
        return asyncio.run(_Run(service, models.published, plan, report).run())


class _Run:
    def __init__(
        self, service: SoakService, published: Sequence[str], plan: Plan, report: Callable[[str], None]
    ) -> None:
        self._service, self._published, self._plan, self._report = service, published, plan, report
        checker = Checker([Revision(plan.model)]) if plan.model == SIGNED else None
        self._traffic = Traffic(service.base_url, plan.rate, report, checker)
        self._cycle = 0
        self._changing = asyncio.Lock()

    async def run(self) -> Soak:
        await self._traffic.fill(self._plan.filled)
        self._report(f"{self._plan.filled} requests of each outcome answered")
        await self._traffic.run_jobs(self._plan.jobs)
        self._report(f"{self._plan.jobs} jobs ended")
        await self._publish_many()
        self._schedule = Schedule(self._plan.cycle_s)
        self._recorder = Recorder(self._service, self._schedule)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._traffic.run())
            recording = group.create_task(self._record())
            for cycle in range(self._plan.cycles):
                self._cycle = cycle
                await self._schedule.run_cycle(self._steps)
                self._report(
                    f"cycle {cycle + 1} of {self._plan.cycles}: {len(self._traffic.wrong)} wrong answers"
                )
            recording.cancel()
            self._traffic.stop.set()
        series = {name: self._schedule.planned(one) for name, one in self._recorder.series.items()}
        wrong = [*self._traffic.wrong, *self._service.wrong()]
        return Soak(series, self._schedule.lengths, self._traffic.seen, wrong)

    async def _publish_many(self) -> None:
        """Returns once all but the last of them are dropped."""
        for number in range(self._plan.revisions):
            await self._publish(number)
        if self._plan.revisions:
            await self._move(None)
            await asyncio.sleep(DROP_S + 5)
            self._report(f"{self._plan.revisions} revisions published and dropped")

    @property
    def _steps(self) -> Steps:
        return (
            (0.02, self._publish_and_go_back),
            (0.1, self._traffic.job),
            (0.35, self._traffic.job),
            (0.5, self._traffic.unfinished),
            (0.6, self._traffic.job),
            (0.62, self._replace),
            (0.85, self._traffic.job),
        )

    async def _record(self) -> None:
        filled = False
        while True:
            await asyncio.to_thread(self._recorder.sample)
            filled = filled or await asyncio.to_thread(self._service.fill_history)
            await asyncio.sleep(self._plan.sample_s - self._schedule.passed_s % self._plan.sample_s)

    async def _publish_and_go_back(self) -> None:
        """The next revision answers once both workers have loaded it, for a third of the cycle.

        The bursts make every thread that the revisions ever need, some of which are otherwise made by chance.
        Meanwhile no worker is replaced, however long a busy machine takes.
        """
        async with self._changing:
            await self._publish(self._cycle)
            await asyncio.sleep(self._plan.cycle_s / 3)
            await self._move(None)
            await self._traffic.burst()
            self._recorder.second = self._service.workers[1].pid

    async def _publish(self, number: int) -> None:
        reference = self._published[number % len(self._published)]
        await self._move((await self._admin("publish", model="topics", reference=reference))["number"])
        await self._traffic.burst()

    async def _move(self, number: int | None) -> None:
        body = {"model": "topics"} | ({} if number is None else {"number": number})
        async with asyncio.timeout(LOAD_S):
            while (await self._admin("move", **body)).get("code") == "revision_not_ready":  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.5)

    async def _admin(self, what: str, **body: Any) -> dict[str, Any]:
        async with httpx.AsyncClient(
            base_url=self._service.base_url, trust_env=False, timeout=60, auth=OperatorAuth()
        ) as http:
            answer = await http.post(f"/admin/models/{what}", json=body)
        reply: dict[str, Any] = answer.json()
        if answer.status_code != 200 and reply.get("code") != "revision_not_ready":
            self._traffic.note(f"{what} {body}: {answer.text}")
        return reply

    async def _replace(self) -> None:
        """The second worker by a new one: stopped and killed in turn, and looked at before."""
        how = signal.SIGKILL if self._cycle % 2 else signal.SIGTERM
        async with self._changing:
            pid, self._recorder.second = self._service.workers[1].pid, None
            await asyncio.to_thread(self._recorder.sample_counts, "replaced worker", pid)
            await asyncio.to_thread(self._recorder.sample_memory, "replaced worker, at its end", pid)
            await asyncio.to_thread(self._service.replace_worker, how)
