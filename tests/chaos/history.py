"""What was asked, returned and computed, with times, and whether a legal order of it exists.

Ids are independent, so each is checked alone. One run answers any number of callers, and no caller takes
anything from another. So an order exists if and only if each return finds a run of the same id that fits
between its bounds, and the checks below are exact.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import redis

from batcher.messages import entry_id

Outcome = Literal["answer", "inference_failed", "poison"]
# How long a verdict of poison is kept, and for how long an accident may make a text run twice.
POISON_S = 61.0
AFTERMATH_S = 15.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request for a text, in s of the machine's clock. Without an `outcome` nothing came back."""

    began: float
    ended: float
    outcome: Outcome | None


@dataclass
class History:
    """`stored`: when Redis stored a result of an id, and which. `unseen`: spans that were not observed."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    stored: dict[str, list[tuple[float, Outcome]]] = field(default_factory=dict)
    accidents: list[float] = field(default_factory=list)
    unseen: list[tuple[float, float]] = field(default_factory=list)

    def add_call(self, text: str, began: float, outcome: Outcome | None) -> None:
        self.calls.setdefault(entry_id(text), []).append(Call(began, time.time(), outcome))

    def add_result(self, entry: str, at: float, outcome: Outcome) -> None:
        self.stored.setdefault(entry, []).append((at, outcome))

    def faults(self, budget_s: float) -> list[str]:
        """A sentence for each id without a legal order, in the order of ids."""
        return [fault for entry in sorted(self.calls) for fault in self._faults_of(entry, budget_s)]

    def _faults_of(self, entry: str, budget_s: float) -> Iterator[str]:
        calls, stored = self.calls[entry], sorted(self.stored.get(entry, []))
        first = min(call.began for call in calls)
        if stored and stored[0][0] < first:
            yield f"{entry} was computed before it was asked"
        for call in calls:
            earliest = {"inference_failed": call.began, "poison": call.began - POISON_S}
            since = earliest.get(call.outcome or "", first)
            fits = any(outcome == call.outcome and since <= at <= call.ended for at, outcome in stored)
            if call.outcome and not fits and not self._was_unseen(since, call.ended):
                span = f"between {since:.3f} and {call.ended:.3f}"
                yield f"{entry} returned {call.outcome}, which no run {span} gave"
            if call.outcome and call.ended - call.began > budget_s:
                yield f"{entry} took {call.ended - call.began:.1f} s"
        for (earlier, one), (later, other) in pairwise(stored):
            if one == other == "answer" and not any(
                earlier - AFTERMATH_S < at < later for at in self.accidents
            ):
                yield f"{entry} was computed at {earlier:.3f} and again at {later:.3f}"

    def _was_unseen(self, since: float, until: float) -> bool:
        return any(begin <= until and end >= since for begin, end in self.unseen)


STORED = re.compile(r"^SET \S+:res:(\S+) (.*) PX \d+$")


class Observer:
    """Watches the results that a server stores, until it is closed, across restarts of the server."""

    def __init__(self, client: redis.Redis, history: History) -> None:
        self._client, self._history = client, history
        self._stopped = threading.Event()
        self.watching = threading.Event()
        self._seen_until = time.time()
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Returns once everything that was sent before has been seen, or the server does not answer."""
        self._stopped.set()
        with contextlib.suppress(redis.RedisError):
            self._client.echo("the end")
        self._thread.join(10)
        self._client.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._client.monitor() as monitor:
                    # A server that is killed takes with it what a slow observer has not read yet.
                    self._history.unseen.append((self._seen_until, time.time()))
                    self.watching.set()
                    self._watch(monitor)
            except (redis.RedisError, OSError):
                self.watching.clear()
                self._stopped.wait(0.01)

    def _watch(self, monitor: redis.client.Monitor) -> None:
        for seen in monitor.listen():
            if self._stopped.is_set() and seen["command"] == "ECHO the end":
                return
            self._seen_until = seen["time"]
            # What a replica gets from its master comes from a connection, and was seen there.
            found = STORED.match(seen["command"]) if seen["client_type"] == "lua" else None
            if found:
                self._history.add_result(found[1], seen["time"], outcome_of(found[2]))


def outcome_of(payload: str) -> Outcome:
    """Of a stored result, as MONITOR prints it: only a failure ends with a line break."""
    if not payload.endswith("\\n"):
        return "answer"
    return "poison" if '"poison"' in payload else "inference_failed"
