"""GET /admin/traces/{request_id}: the timeline of a request, which this process or another one remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from secrets import token_hex
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Path

from api.admin.service import Console, gather
from api.errors import Problem
from api.models.served import ServedModel, ServedModels
from api.predict.request_log import RecentRequests
from batcher.core.commands import REQUEST, TEXTS, Answer, AskQuestion, EndQuestion, Question

Facts = Mapping[str, Any]
Step = dict[str, Any]

# The same text may have been in an earlier batch, for another request. Clocks of machines differ by less.
NEAR_MS = 10_000
# A text that has waited for longer than its request was queued by another one; both times are rounded.
ROUNDED_MS = 5.0


def timeline(facts: Facts, batches: Sequence[Facts]) -> list[Step]:
    """The steps of a request in order, `at_ms` after it was received.

    `batches` are what workers remember of its texts: one for each batch and text. A batch that no worker
    remembers has no `worker`, and only the numbers that came with the results.
    """
    steps: list[Step] = [{"step": "received", "at_ms": 0.0, "texts": facts["texts"]}]
    if facts["local"] or facts["shared"] or facts["asked"]:
        at_ms = facts["asked_ms"] or facts["ms"]
        steps.append(
            {"step": "cache", "at_ms": at_ms, "in_process": facts["local"], "shared": facts["shared"]}
        )
    if facts["asked"]:
        steps.append({"step": "queued", "at_ms": facts["asked_ms"], "texts": facts["asked"]})
    near = [batch for batch in batches if _near(facts, batch)]
    remembered = {batch["id"] for batch in near}
    steps += _worker_steps(facts, near)
    steps += [_unknown_batch(facts, run) for run in facts["runs"] if run["entry"] not in remembered]
    steps.sort(key=lambda step: float(step["at_ms"]))
    answered = {"step": "answered", "at_ms": facts["ms"], "status": facts["status"], "code": facts["code"]}
    return [*steps, answered]


def _near(facts: Facts, batch: Facts) -> bool:
    received_ms = datetime.fromisoformat(facts["received_at"]).timestamp() * 1000
    after_ms: float = batch["at_ms"] - received_ms
    spent_ms: float = facts["ms"]
    return -NEAR_MS <= after_ms <= spent_ms + NEAR_MS


def _worker_steps(facts: Facts, batches: Iterable[Facts]) -> Iterator[Step]:
    """Two steps for each batch that a worker remembers: the claim of its texts, and its run."""
    texts = {run["entry"]: run["texts"] for run in facts["runs"]}
    together: dict[tuple[str, str, int], list[Facts]] = {}
    for batch in batches:
        # Workers of several models in one process have one name, and each counts its own batches.
        together.setdefault((batch["worker"], batch["revision"], batch["batch"]), []).append(batch)
    for (worker, _, number), of_batch in together.items():
        first = of_batch[0]
        own = min(sum(texts.get(batch["id"], 1) for batch in of_batch), first["size"])
        counts = {"worker": worker, "texts": own}
        began_ms, joined = _at(facts, first["queue_ms"], first["model_ms"])
        claimed_ms = min(facts["asked_ms"] + first["waited_ms"], began_ms)
        attempts = max(batch["attempts"] for batch in of_batch)
        yield {"step": "claimed", "at_ms": round(claimed_ms, 3), **counts, "attempts": attempts}
        size = {"batch": number, "size": first["size"], "others": first["size"] - own, "joined": joined}
        known = {name: first[name] for name in ("tokens", "computed_tokens", "reason", "model_ms")}
        yield {"step": "batch", "at_ms": began_ms, **counts, **size, **known}


def _unknown_batch(facts: Facts, run: Facts) -> Step:
    began_ms, joined = _at(facts, run["queue_ms"], run["model_ms"])
    counts = {"worker": None, "texts": run["texts"]}
    size = {"size": run["size"], "others": run["size"] - run["texts"], "joined": joined}
    return {"step": "batch", "at_ms": began_ms, **counts, **size, "model_ms": run["model_ms"]}


def _at(facts: Facts, queue_ms: float, model_ms: float) -> tuple[float, bool]:
    """When a batch began, and whether another request had queued the text before."""
    began = facts["asked_ms"] + queue_ms
    latest = max(facts["ms"] - model_ms, facts["asked_ms"])
    return round(min(began, latest), 3), began > latest + ROUNDED_MS


LOOK_EVERY_S = 0.1
RequestId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Answered = list[dict[str, Any]]


class Traces:
    """Finds requests in this process and in others, and answers what other processes ask."""

    # How long a question is open: API processes see it within two seconds, workers with their next heartbeat.
    open_s = 3.0

    def __init__(self, console: Console, models: ServedModels, recent: RecentRequests) -> None:
        self._console = console
        self._models = models
        self._hub = models.first.hub
        self._recent = recent
        self._answered = ""

    def follow(self) -> None:
        """Answers the question of another process, once and only if this one remembers the request."""
        question = self._hub.snapshot.question
        if question is None or question.kind != REQUEST or question.token == self._answered:
            return
        self._answered = question.token
        for request_id in question.ids:
            if facts := self._recent.find(request_id):
                # The one that asks may not reach each shard.
                self._hub.console.send_to_all(Answer(question.token, json.dumps(facts)))

    async def find(self, request_id: str) -> dict[str, Any]:
        """A request and its timeline. Raises Problem 404 `trace_not_found`, or as `Console.ask` does."""
        facts = self._recent.find(request_id)
        if facts is None:
            found = await self.ask(REQUEST, [request_id], bool)
            if not found:
                raise Problem(404, _NOT_FOUND, code="trace_not_found")
            facts = found[0]
        entries = set(facts["entries"])
        revisions = {run["revision"] for run in facts["runs"]}
        answers = await self.ask(
            TEXTS, sorted(entries), lambda so_far: {one["id"] for one in _ran(so_far, revisions)} >= entries
        )
        batches = _ran(answers or (), revisions)
        shown = ("request_id", "received_at", "client", "texts", "tokens", "status", "code", "ms")
        return {**{name: facts[name] for name in shown}, "timeline": timeline(facts, batches)}

    async def ask(self, kind: str, ids: Sequence[str], enough: Callable[[Answered], bool]) -> Answered | None:
        """The answers of processes, until they are `enough` or the question ends, of which nothing is left.

        None if it could not be asked: another one was open all the time. Raises as `Console.each`.
        """
        if not ids:
            return []
        # API processes read the questions in the first queue, and each worker those in its own.
        models = self._models.every if kind == TEXTS else [self._models.first]
        token = token_hex(8)
        ends = monotonic() + self.open_s
        asked = False
        answers = Answered()
        question = AskQuestion(Question(token, kind, tuple(ids)), round(self.open_s * 1000))
        while not enough(answers) and monotonic() < ends:
            if asked:
                found = await self._console.each(
                    lambda shard: [one for model in models for one in shard.answers(model.queue).to(token)]
                )
                answers = [answer for some in found.found for answer in some]
            else:  # again, as long as another question is open
                asked = await self._ask(question, models)
                ends = monotonic() + self.open_s if asked else ends
            await asyncio.sleep(LOOK_EVERY_S)
        ended = (part.run(EndQuestion(token)) for model in models for part in model.hub.console.parts)
        await asyncio.gather(*ended, return_exceptions=True)
        return answers if asked else None

    async def _ask(self, question: AskQuestion, models: Iterable[ServedModel]) -> bool:
        """Asks at every shard, because each worker lives at one. False while another question is open.

        One after another: of two processes that ask at once, the same one is first at every shard.
        """
        down = self._console.shards_down
        for model in models:
            for number, part in enumerate(model.hub.console.parts):
                if number not in down and not all((await gather({number: part.run(question)})).found):
                    return False
        return True


_NOT_FOUND = (
    "no API process remembers this request; each keeps the last 1,000 that caches answered, 5,000 others and "
    "5,000 that failed or took over a second. The log line with this request_id has its status and duration"
)


def _ran(answers: Iterable[Facts], revisions: set[str]) -> list[Facts]:
    """What workers remember that have one of these revisions: others may have run the same texts.

    All of them if none is known. Workers of version 0.2.0 do not say theirs.
    """
    return [
        {**batch, "worker": answer["worker"], "revision": answer.get("revision", "")}
        for answer in answers
        if not revisions or answer.get("revision", "") in {"", *revisions}
        for batch in answer["batches"]
    ]


def add_traces(router: APIRouter, traces: Traces) -> None:
    @router.get("/admin/traces/{request_id}")
    async def trace(request_id: RequestId) -> dict[str, Any]:
        """The timeline of a request, by its X-Request-ID."""
        return await traces.find(request_id)
