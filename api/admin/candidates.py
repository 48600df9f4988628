"""The routes for candidates: give one a share of the texts, and compare it with what answers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from api.admin.publications import candidate_facts, check_workers, confirmed, swept
from api.admin.schemas import CompareQuery, TryOut
from api.admin.service import Console
from api.errors import Problem
from api.models.served import ServedModels
from batcher.core.publications import Candidate, publication_queue
from batcher.publishing.comparisons import report


def candidate_routes(console: Console, models: ServedModels) -> APIRouter:
    router = APIRouter(prefix="/admin/models")
    _add_try_out(router, console, models)
    _add_compare(router, console, models)
    return router


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
            await swept()  # until then, every process has opened the queue that these workers serve
        _check_labels(models, model, number, published.current)
        known = before.by if before and before.number == number else "text"
        candidate = Candidate(number, what.share, what.by or known, what.shadow)
        try:
            moves = await console.call(stores.try_out, model, candidate)
        except LookupError:
            raise _not_beside() from None  # another one was published meanwhile
        late = await confirmed(console, moves)
        facts = {"model": models.name(model), "current": published.current}
        facts |= {"candidate": candidate_facts(candidate)}
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
        counts = await console.call(console.stores.comparisons.read, pair)
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
