"""The routes under /admin/models: publish a model, and move its name to a publication.

A candidate is a publication that has a share of the texts, or is compared with the one that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from api.admin.schemas import CompareQuery, Move, Publish, TryOut
from api.admin.service import Console, missing
from api.errors import Problem
from api.models.served import ServedModels
from batcher.admin.console import Preparing
from batcher.core.publications import Candidate, publication_queue
from batcher.errors import QueueUnavailable
from batcher.publishing.shadow import report
from batcher.version import process_name

# How long processes that do not confirm a move are waited for.
CONFIRM_S = 10.0
LOOK_S = 0.05
# In this time every API process has swept: one that has started meanwhile is known.
SWEPT_S = 1.5


def publication_routes(console: Console, models: ServedModels) -> APIRouter:
    router = APIRouter(prefix="/admin/models", include_in_schema=False)
    _add_show(router, console, models)
    _add_move(router, console, models)
    _add_try_out(router, console, models)
    _add_compare(router, console, models)

    @router.post("/publish")
    async def publish(request: Request, what: Publish) -> dict[str, Any]:
        """Asks workers to load a model beside the publication that answers. They drop others for it."""
        model = models.model(what.model)
        before = await console.call(console.stores.publications.read)
        number = await console.call(console.stores.publications.publish, model, what.reference)
        await asyncio.sleep(SWEPT_S)  # until then, processes register for the move
        facts = {
            "model": models.name(model),
            "number": number,
            "dropped": before.of(model).beside,
            "ended": candidate_facts(before.candidates.get(model)),
            **await _behind(console),
        }
        await console.record(request, "publish", **facts, reference=what.reference)
        return facts

    return router


def _add_show(router: APIRouter, console: Console, models: ServedModels) -> None:
    @router.get("")
    async def show() -> dict[str, Any]:
        """The publications of each model, how many workers serve them, why some could not load one, and what
        those are doing that load one now.
        """
        publications = await console.call(console.stores.publications.read)
        found = {}
        # The first of two models of one name: requests find it once the other one has no worker.
        for name, model in reversed({models.name(one): one for one in reversed(models.ids)}.items()):
            published = publications.of(model)
            numbers = {0: "", **published.references}
            found[name] = {
                "current": published.current,
                "previous": published.previous,
                "candidate": candidate_facts(publications.candidates.get(model)),
                "revisions": {
                    number: {
                        "reference": reference,
                        "workers": models.snapshot(publication_queue(model, number)).workers,
                        "failure": publications.failures.get(publication_queue(model, number), ""),
                    }
                    for number, reference in numbers.items()
                },
            }
        preparing: Sequence[Preparing] = ()
        with suppress(QueueUnavailable, Problem):  # the rest is known as long as any shard answers
            preparing = await console.call(console.stores.preparing.read)
        return {"models": found, "preparing": [asdict(one) for one in preparing]}


def _add_move(router: APIRouter, console: Console, models: ServedModels) -> None:
    stores = console.stores.publications

    @router.post("/move")
    async def move(request: Request, what: Move) -> dict[str, Any]:
        """Makes a publication the one that answers. Returns once every API process answers with it."""
        model = models.model(what.model)
        published = (await console.call(stores.read)).of(model)
        if what.number is None and published.previous == published.current and not published.beside:
            detail = f"there is none to go back to: publication {published.current} answers all texts"
            raise Problem(404, detail, code="no_revision")
        number = published.previous if what.number is None else what.number
        if number and number not in published.references:
            raise _no_publication(number)
        check_workers(models, model, number, published.current)
        try:
            moves = await console.call(stores.move, model, number)
        except LookupError:
            raise _no_publication(number) from None  # another one was published meanwhile
        late = await confirmed(console, moves)
        facts = {"model": models.name(model), "number": number, "before": published.current}
        facts |= await _behind(console)
        await console.record(request, "move", **facts)
        return {**facts, "unconfirmed": late}


def _add_try_out(router: APIRouter, console: Console, models: ServedModels) -> None:
    stores = console.stores.publications

    @router.post("/candidate")
    async def try_out(request: Request, what: TryOut) -> dict[str, Any]:
        """Gives a candidate a share of the texts. Returns once every API process does so."""
        model = models.model(what.model)
        publications = await console.call(stores.read)
        before = publications.candidates.get(model)
        number = what.number or (before.number if before else 0)
        published = publications.of(model)
        if number not in published.references or number == published.current:
            raise _not_beside()
        if before is None or before.number != number:
            check_workers(models, model, number, published.current)
            await asyncio.sleep(SWEPT_S)  # until then, every process opens the queue of these workers
        _check_labels(models, model, number, published.current)
        known = before.by if before and before.number == number else "text"
        candidate = Candidate(number, what.share, what.by or known, what.shadow)
        try:
            moves = await console.call(stores.try_out, model, candidate)
        except LookupError:
            raise _not_beside() from None  # another one was published meanwhile
        late = await confirmed(console, moves)
        facts = {"model": models.name(model), "current": published.current}
        facts |= {"candidate": candidate_facts(candidate), **await _behind(console)}
        await console.record(request, "candidate", **facts)
        return {**facts, "unconfirmed": late}


def _add_compare(router: APIRouter, console: Console, models: ServedModels) -> None:
    @router.get("/comparison")
    async def compare(query: Annotated[CompareQuery, Query()]) -> Response:
        """What the candidate would have answered, or the last publication that was compared with this one."""
        model = models.model(query.model)
        publications = await console.call(console.stores.publications.read)
        published = publications.of(model)
        candidate = publications.candidates.get(model)
        number = candidate.number if candidate else published.last
        pair = model, published.current, number
        counts = await console.call(console.stores.comparisons.read, pair, query.labels)
        if not counts and not (candidate and candidate.shadow):
            detail = "no publication was compared with the one that answers: publish one as a shadow first"
            raise Problem(404, detail, code="no_revision")
        facts = {
            "model": models.name(model),
            "current": published.current,
            "candidate": candidate_facts(candidate) or {"number": number},
        }
        # A thread, because 200 labels have 40,000 pairs.
        return JSONResponse(facts | await console.call(report, counts))


def _no_publication(number: int) -> Problem:
    detail = f"there is no publication {number} of this model: GET /admin/models lists them"
    return Problem(404, detail, code="no_revision")


def check_workers(models: ServedModels, model: str, number: int, current: int) -> None:
    """Raises Problem 409 unless as many workers serve a publication as serve the one that answers."""
    ready, needed = (models.snapshot(publication_queue(model, one)).workers for one in (number, current))
    if ready < max(needed, 1):
        detail = (
            f"{ready} of {max(needed, 1)} workers serve publication {number}: wait for the others, or see "
            "why they fail in GET /admin/models"
        )
        raise Problem(409, detail, code="revision_not_ready")


def candidate_facts(candidate: Candidate | None) -> dict[str, Any] | None:
    """The facts about a candidate that are shown."""
    if candidate is None:
        return None
    mode = "shadow" if candidate.shadow else "share"
    return {"number": candidate.number, "mode": mode, "share": candidate.share, "by": candidate.by}


async def confirmed(console: Console, moves: int) -> list[str]:
    """Waits for all live API processes. Returns those that have not confirmed the move.

    None are known while the first shard, which has moved, does not answer.
    """
    at = monotonic()
    late: list[str] | None = None
    while True:
        with suppress(QueueUnavailable):
            late = list(await console.call(console.stores.publications.unconfirmed, moves))
        waited_s = monotonic() - at
        if (late == [] and waited_s > SWEPT_S) or waited_s > CONFIRM_S:
            return late or []
        await asyncio.sleep(LOOK_S)


async def _behind(console: Console) -> Mapping[str, Any]:
    """The fields of an answer about shards that do not have a change yet."""
    return missing(await console.call(console.stores.publications.behind))


def _not_beside() -> Problem:
    detail = "there is no such publication beside the one that answers: publish it first"
    return Problem(404, detail, code="no_revision")


def _check_labels(models: ServedModels, model: str, number: int, current: int) -> None:
    one, other = (models.snapshot(publication_queue(model, n)).model for n in (current, number))
    if one is not None and other is not None and one.labels != other.labels:
        detail = (
            f"the labels of publication {number} are not those of the one that answers, in the same order: "
            "serve it as a separate model"
        )
        raise Problem(409, detail, code="labels_differ")


class Confirming:
    """Writes to Redis which publications this process answers with, once there is one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._api = process_name()
        self._task: asyncio.Task[bool] | None = None

    def confirm(self, moves: int) -> None:
        """Confirms that this process answers by the state after so many moves. Called after each sweep."""
        if moves and (self._task is None or self._task.done()):
            seen = self._console.stores.publications.seen
            # Otherwise the next sweep confirms it.
            self._task = asyncio.create_task(self._console.attempt(seen, self._api, moves))
