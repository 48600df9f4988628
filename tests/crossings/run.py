"""Runs one situation at a running service, and says which promises it has not kept."""

from __future__ import annotations

import random
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, cast

import httpx

from tests.crossings.events import EVENTS, Event
from tests.crossings.promises import Broken, broken
from tests.crossings.record import LATER, Exchange, Phase, Record
from tests.crossings.routes import JOBS, MODERATION, ROUTES, WAIT_FOR_JOBS, Caller
from tests.crossings.services import CLIENTS, KINDS, QUOTA, Crossed, key_of
from tests.crossings.situations import Situation
from tests.service import wait_until
from tests.signing import Revision

# How long an answer may take to come once an event is over.
BACK_S = 60.0
PAUSE_S = 0.1
# What reading an answer raises if it has another form, or was cut.
UNREADABLE = (httpx.TransportError, ValueError, LookupError, AssertionError, struct.error)


def fits(first: str, second: str) -> bool:
    """Whether two parts of a situation, in the order of `Situation.pairs`, can meet."""
    if first in KINDS and second in EVENTS:
        event = EVENTS[second]
        return first not in event.not_in and (not event.only_in or first in event.only_in)
    if first in ROUTES and second in EVENTS:
        event = EVENTS[second]
        return not event.only_with or first in event.only_with
    # Its answers have six decimals, and only scores of these services have more.
    if first in ("abstain", "windows", "engine") and second == "oip classes":
        return False
    # Neither of their labels is a category.
    if first in ("abstain", "engine") and second in MODERATION:
        return False
    return not (first == "paused" and second in WAIT_FOR_JOBS)


class Crossing:
    """One situation. Events use it to ask more, and to note what they see."""

    def __init__(self, service: Crossed, situation: Situation) -> None:
        self.service, self.situation = service, situation
        self.rng = random.Random(situation.seed)
        self.record = Record()
        self._numbers = 0
        self.client, self.other = self.rng.sample(CLIENTS, 2)
        self.known = self.texts(4)
        self._caller = Caller(service)
        self._pool = ThreadPoolExecutor(2 * len(situation.routes) + 2)
        self._event = EVENTS["none"]
        # Exchanges of jobs that were not read yet.
        self._open: list[Exchange] = []

    def run(self) -> list[Broken]:
        try:
            self._ask_until_answered("before", self.known)
            for name in self.situation.events:
                self._across(EVENTS[name])
            self._end()
            return broken(self.record, self.service)
        finally:
            self._pool.shutdown()
            self._caller.close()

    def _across(self, event: Event) -> None:
        self._event = event
        waiting = [
            self._pool.submit(self._begin, self.exchange(name, "during", self.texts(6)))
            for name in self.situation.routes
        ]
        stop = threading.Event()
        bystander = self._pool.submit(self._stand_by, stop)
        try:
            event.act(self)
        finally:
            stop.set()
        self.service.heal()
        for one in [bystander, *waiting]:
            cast("Future[None]", one).result()
        self._event = EVENTS["none"]
        self._check_decisions()
        self._ask_until_answered("after", [*self.known, *self.texts(2)])
        self._check_decisions()  # the first look may have been at what was known before the event

    def _check_decisions(self) -> None:
        with suppress(AssertionError):
            wait_until(lambda: self.service.decisions() == self.service.decided, "what was decided", 10)
        if (found := self.service.decisions()) != self.service.decided:
            self.record.decided.append(f"what was decided is {found}, and was {self.service.decided}")

    def _end(self) -> None:
        if self.service.kind.paused:
            self.service.waiting += [(self.situation, one) for one in self._open]
            self.record.exchanges = [one for one in self.record.exchanges if one not in self._open]
            found = [one for one in self._open if self._progress(one)]
            self.record.decided += [f"{one} goes on although jobs are paused" for one in found]
            return
        self._finish_open()
        with suppress(AssertionError):
            wait_until(lambda: not self.service.leftovers(), "the queue to be empty", 30)
        if left := self.service.leftovers():
            self.record.ended.append(f"this is left in the queue: {left}")
        self.record.ended += self.service.endings()

    def _progress(self, exchange: Exchange) -> bool:
        answer = self._caller.request(exchange, "GET", exchange.job)
        counts = answer.json().get("request_counts", {})
        return bool(answer.json().get("done") or counts.get("completed"))

    # -- asking --------------------------------------------------------------------------------------

    def texts(self, count: int) -> list[str]:
        """New texts."""
        made = []
        for _ in range(count):
            self._numbers += 1
            words = 40 if self.service.kind.long_texts else 3
            made.append(
                f"text {self.situation.seed} {self._numbers} "
                + " ".join(f"word{self.rng.randrange(10**6)}" for _ in range(words))
            )
        return made

    def exchange(self, name: str, phase: Phase, texts: Sequence[str], **more: Any) -> Exchange:
        """A use of a route, noted."""
        models = self.service.kind.models if ROUTES[name].names_models else ("stub",)
        model = models[(self.situation.seed + len(name)) % len(models)]
        order = "score" if self.service.kind.settings.get("label_order") == "score" else "id"
        during = phase == "during"
        made = Exchange(
            name,
            model,
            self.client,
            texts[: ROUTES[name].most],
            phase,
            order=order,  # type: ignore[arg-type]
            seed=self.rng.randrange(10**6),
            allowed=self._event.allowed if during else frozenset(),
            cuts=during and self._event.cuts,
        )
        made = replace(made, **more)
        self.service.checker.asks(made.texts)
        self.record.exchanges.append(made)
        return made

    def _begin(self, exchange: Exchange) -> None:
        exchange.asked_at = time.monotonic()
        exchange.problem = ""
        try:
            ROUTES[exchange.route].begin(self._caller, exchange)
        except UNREADABLE as error:
            exchange.problem = repr(error)
            exchange.status = 0 if isinstance(error, httpx.TransportError) else exchange.status
        exchange.seconds = time.monotonic() - exchange.asked_at
        if exchange.job:
            self._open.append(exchange)

    def ask_all(self, phase: Phase, count: int = 4, wait: int = 0) -> None:
        """Asks every route about new texts, and returns once all have answered or made a job."""
        headers = {"prefer": f"wait={wait}"} if wait else {}
        asked = [
            self.exchange(name, phase, self.texts(count), headers=headers)
            for name in self.situation.routes
            if name not in WAIT_FOR_JOBS
        ]
        list(self._pool.map(self._begin, asked))

    def _ask_until_answered(self, phase: Phase, texts: Sequence[str]) -> None:
        """Asks every route about these texts, until it is not refused any more."""
        # Jobs of texts that a cache knows end although jobs are paused.
        new = JOBS if self.service.kind.paused else ()
        asked = [
            self.exchange(name, phase, self.texts(len(texts)) if name in new else texts)
            for name in self.situation.routes
        ]
        list(self._pool.map(self._begin_until_answered, asked))
        if not self.service.kind.paused:
            self._finish_open()

    def _begin_until_answered(self, exchange: Exchange) -> None:
        deadline = time.monotonic() + BACK_S
        while True:
            self._begin(exchange)
            refused = exchange.status in LATER and exchange.code != "quota_exceeded"
            if not refused or time.monotonic() > deadline:
                return
            time.sleep(PAUSE_S)

    def _finish_open(self) -> None:
        opened, self._open = self._open, []
        list(self._pool.map(self._finish, opened))

    def _finish(self, exchange: Exchange) -> None:
        finish(self._caller, exchange)

    def _stand_by(self, stop: threading.Event) -> None:
        """Another client, who asks all the time."""
        number = 0
        while not stop.wait(PAUSE_S):
            number += 1
            texts = [f"bystander {self.situation.seed} {number}", "bystander"]
            exchange = Exchange("predict", "stub", "bystander", texts, "during", cuts=not self._event.alone)
            exchange.order = "score" if self.service.kind.settings.get("label_order") == "score" else "id"
            self.service.checker.asks(texts)
            self.record.others.append(exchange)
            self._begin(exchange)

    # -- for events ----------------------------------------------------------------------------------

    def know(self, reference: str) -> Revision:
        """A revision of the first model that may answer from now on."""
        made = self.service.version.published(reference)
        checker = self.service.checker
        checker.revisions = list({one.name: one for one in [*checker.revisions, made]}.values())
        checker.settled(reference, at=float("inf"))
        return made

    def check_refused(self, client: str, code: str, status: int) -> None:
        """Notes every route that does not refuse this client."""
        before = self.jobs(client) if status != 401 else set()
        for name in self.situation.routes:
            if name in WAIT_FOR_JOBS or name == "client":
                continue  # they wait until they are not refused
            more = {"client": client, "allowed": frozenset({status})}
            exchange = self.exchange(name, "during", self.texts(2), **more)
            self._begin(exchange)
            if exchange.status != status:
                self.record.decided.append(f"{exchange} should be refused with {status} {code}")
        if status != 401 and self.jobs(client) - before:
            self.record.done.append(f"a job of {client} was made although it was refused with {code}")

    def jobs(self, client: str = "repeater") -> set[str]:
        """The ids of the jobs of a client."""
        answer = self.service.http.get("/jobs", params={"limit": 1000}, headers=key_of(client))
        assert answer.is_success, answer.text
        return {job["id"] for job in answer.json()["jobs"]}

    def status_of(self, model: str) -> int:
        """The status of a request that names a model."""
        body = {"text": self.texts(1)}
        headers = {**key_of(self.client), "prefer": "wait=1"}
        return self.service.http.post(f"/models/{model}/predict", json=body, headers=headers).status_code

    def ready(self, name: str) -> int:
        """How many models of this name are ready."""
        found = self.service.http.get("/models", headers=key_of(self.client)).json()["models"]
        return sum((one["name"], one["state"]) == (name, "ready") for one in found)

    def check_name(self, name: str) -> None:
        """Notes it if a name that two models have finds one of them."""
        for _ in range(3):
            if (status := self.status_of(name)) != 409:
                self.record.wrong.append(f"two models are called {name}, and a request for it gets {status}")
        self.ask_all("during")

    def leave(self, exchange: Exchange) -> None:
        """Asks, and closes the connection before there is an answer."""
        self.record.exchanges.remove(exchange)
        if exchange.route in WAIT_FOR_JOBS:
            return
        caller = Caller(self.service)
        caller.http.timeout = httpx.Timeout(5, read=0.01)
        with suppress(httpx.TransportError, ValueError, LookupError):
            ROUTES[exchange.route].begin(caller, exchange)
        caller.close()

    @contextmanager
    def asking(self, text: str) -> Iterator[list[Exchange]]:
        """Each route is asked for a text and others meanwhile; their answers are not checked.

        Not those that send it again by themselves.
        """
        names = [name for name in self.situation.routes if name not in {*WAIT_FOR_JOBS, "client"}]
        asked = [self.exchange(name, "during", [text, *self.texts(11)]) for name in names]
        self.record.exchanges = [one for one in self.record.exchanges if one not in asked]
        list(self._pool.map(self._begin, [one for one in asked if one.route in JOBS]))
        waiting = [self._pool.submit(self._begin, one) for one in asked if one.route not in JOBS]
        yield asked
        for one in waiting:
            one.result()
        self._finish_open()

    def with_key(self, client: str = "repeater") -> Iterator[tuple[str, Exchange]]:
        """The routes of the situation that make jobs, each with a job of QUOTA texts that has a key."""
        for name in self.situation.routes:
            if name in JOBS:
                headers = {"idempotency-key": f"{self.situation.seed} {name} {time.monotonic_ns()}"}
                exchange = self.exchange(name, "during", self.texts(QUOTA), client=client, headers=headers)
                self._begin(exchange)
                yield name, exchange

    def repeated(self, name: str, exchange: Exchange, changed: Mapping[str, Any] | None = None) -> Exchange:
        """The same request again, or with something changed."""
        more = dict(changed or {})
        more["headers"] = {**exchange.headers, **more.get("headers", {})}
        asked = None if {"texts", "model"} & more.keys() else exchange.asked
        again = replace(exchange, job="", status=0, code="", said=None, asked=asked, **more)
        ROUTES[name].begin(self._caller, again)
        return again


def finish(caller: Caller, exchange: Exchange) -> None:
    """Waits for a job, and reads it."""
    try:
        ROUTES[exchange.route].finish(caller, exchange)
    except UNREADABLE as error:
        exchange.problem = repr(error)


def end_pause(service: Crossed, until: float) -> list[tuple[Situation, Broken]]:
    """Lets paused jobs run once they have waited for longer than jobs live, and reads them."""
    time.sleep(max(until - time.monotonic(), 0))
    service.pause(False)
    found = []
    caller = Caller(service)
    for situation, exchange in service.waiting:
        finish(caller, exchange)
        found += [(situation, one) for one in broken(Record([exchange]), service)]
    caller.close()
    return found
