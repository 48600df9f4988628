"""Runs situations one after the other, on services that are kept while they are as they began."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crossings.events import EARLY, EVENTS
from tests.crossings.promises import PROMISES, Broken
from tests.crossings.routes import ROUTES
from tests.crossings.run import Crossing, end_pause, fits
from tests.crossings.services import JOB_TTL_S, KINDS, Crossed
from tests.crossings.situations import Draw, Situation, shrunk

# Tries of a smaller situation, because what goes wrong may depend on time.
TRIES = 2
SHRINK_S = 90.0


@dataclass
class Session:
    """`report` gets a line for each situation. `found` are those that broke one of `promises`, smaller."""

    binary: Path
    seed: int
    report: Callable[[str], None]
    shrink: bool = True
    promises: Sequence[str] = tuple(PROMISES)
    found: list[tuple[Situation, list[Broken]]] = field(default_factory=list)
    count: int = 0
    _service: Crossed | None = None

    def __post_init__(self) -> None:
        self.draw = Draw([*KINDS], [*ROUTES], [*EVENTS], fits, self.seed, early=EARLY)

    def run(self, until: float, *, first_only: bool = False) -> None:
        """Draws situations until a time of the monotonic clock, or until the first that breaks a promise."""
        while time.monotonic() < until and not (first_only and self.found):
            for situation in self.draw.block():
                self._cross(situation)
                if time.monotonic() > until or (first_only and self.found):
                    break
            self.close()

    def cross(self, situation: Situation) -> list[Broken]:
        """Runs one situation."""
        self.count += 1
        began = time.monotonic()
        try:
            if self._service is None or self._service.name != situation.service or self._service.used_up:
                self.close()
                self._service = Crossed(situation.service, self.binary)
            broken = [one for one in Crossing(self._service, situation).run() if one.promise in self.promises]
        except Exception:
            broken = [Broken("processes live", traceback.format_exc(limit=-6))]
        self.report(f"{time.monotonic() - began:5.1f} s  {situation}")
        for one in broken:
            self.report(f"        BROKEN {one.promise}: {one.how}")
        if broken:
            self._note(f"{situation}")
            self.close()
        return broken

    def _cross(self, situation: Situation) -> None:
        broken = self.cross(situation)
        self.draw.seen.update(situation.pairs())
        if broken:
            small = self._smallest(situation, broken) if self.shrink else situation
            self.found.append((small, broken))

    def _smallest(self, situation: Situation, broken: list[Broken]) -> Situation:
        names = {one.promise for one in broken}
        until = time.monotonic() + SHRINK_S

        def fails(one: Situation) -> bool:
            return time.monotonic() < until and any(
                names & {again.promise for again in self.cross(one)} for _ in range(TRIES)
            )

        return shrunk(situation, fails, fits)

    def _note(self, line: str) -> None:
        """Keeps the logs of a service that has broken a promise."""
        if self._service is not None:
            path = Path("/tmp") / f"crossings-{time.time_ns()}.log"
            path.write_text(f"{line}\n{self._service.logs()}")
            self.report(f"        logs: {path}")

    def close(self) -> None:
        """Ends the service that runs, and the pause in it."""
        service, self._service = self._service, None
        if service is None:
            return
        try:
            if service.waiting:
                ended = end_pause(service, service.began + JOB_TTL_S + 5)
                self.found += [(situation, [one]) for situation, one in ended if one.promise in self.promises]
        finally:
            service.close()
