"""GET /admin/traces/{request_id}: the timeline of a request, which this process or another one remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from secrets import token_hex
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Path

from api.admin.service import Console
from api.admin.spread import gather
from api.admin.timeline import timeline
from api.backend import Hub
from api.errors import Problem
from api.predict.recent import RecentRequests
from batcher.core.commands import REQUEST, TEXTS, Answer, AskQuestion, EndQuestion, Question

LOOK_EVERY_S = 0.1
RequestId = Annotated[str, Path(pattern=r"^[A-Za-z0-9._-]{1,128}$")]
Answered = list[dict[str, Any]]


class Traces:
    """Finds requests in this process and in others, and answers what other processes ask."""

    # How long a question is open: API processes see it within two seconds, workers with their next heartbeat.
    open_s = 3.0

    def __init__(self, console: Console, hub: Hub, recent: RecentRequests) -> None:
        self._console = console
        self._hub = hub
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
            found = await self._answers(REQUEST, [request_id], bool)
            if not found:
                raise Problem(404, _NOT_FOUND, code="trace_not_found")
            facts = found[0]
        entries = set(facts["entries"])
        answers = await self._answers(TEXTS, sorted(entries), lambda so_far: _covers(so_far, entries))
        batches = [{**batch, "worker": answer["worker"]} for answer in answers for batch in answer["batches"]]
        shown = ("request_id", "received_at", "client", "texts", "tokens", "status", "code", "ms")
        return {**{name: facts[name] for name in shown}, "timeline": timeline(facts, batches)}

    async def _answers(self, kind: str, ids: Sequence[str], enough: Callable[[Answered], bool]) -> Answered:
        """The answers of other processes, until they are `enough` or the question ends."""
        if not ids:
            return []
        token = token_hex(8)
        ends = monotonic() + self.open_s
        asked = False
        answers = Answered()
        question = AskQuestion(Question(token, kind, tuple(ids)), round(self.open_s * 1000))
        while not enough(answers) and monotonic() < ends:
            if asked:
                found = await self._console.each(lambda shard: shard.answers.to(token))
                answers = [answer for some in found.found for answer in some]
            else:  # again, as long as another question is open
                asked = await self._ask(question)
                ends = monotonic() + self.open_s if asked else ends
            await asyncio.sleep(LOOK_EVERY_S)
        self._hub.console.send_to_all(EndQuestion(token))
        return answers

    async def _ask(self, question: AskQuestion) -> bool:
        """Asks at every shard, because each worker lives at one. False while another question is open.

        One after another: of two processes that ask at once, the same one is first at every shard.
        """
        down = self._console.shards_down
        for number, part in enumerate(self._hub.console.parts):
            if number not in down and not all((await gather({number: part.run(question)})).found):
                return False
        return True


_NOT_FOUND = (
    "no API process remembers this request; each keeps the last 1,000 that caches answered, 5,000 others and "
    "5,000 that failed or took over a second. The log line with this request_id has its status and duration"
)


def _covers(answers: Answered, entries: set[str]) -> bool:
    return {batch["id"] for answer in answers for batch in answer["batches"]} >= entries


def add_traces(router: APIRouter, traces: Traces) -> None:
    @router.get("/admin/traces/{request_id}")
    async def trace(request_id: RequestId) -> dict[str, Any]:
        """The timeline of a request, by its X-Request-ID."""
        return await traces.find(request_id)
