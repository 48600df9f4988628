"""The routes under /admin/pauses: stop the work of a lane, of a model or of all workers for a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from fastapi import APIRouter, Request

from api.admin.schemas import LaneOrAll, LanePause
from api.admin.service import Console, Replies, gather, missing
from api.models.served import ServedModel, ServedModels
from api.stats.frames import pause_facts
from batcher.core.commands import SetPause
from batcher.core.holds import Pause
from batcher.core.publications import model_of, publication_queue
from batcher.core.snapshot import merge_pauses
from batcher.messages import Lane

# The first characters of a revision that name it.
MIN_REVISION = 4
Pauses = dict[str, Any]


def pause_routes(console: Console, models: ServedModels) -> APIRouter:
    """A pause of a lane holds for all models, and for publications that jobs still use."""
    router = APIRouter(prefix="/admin/pauses", include_in_schema=False)

    @router.get("")
    async def show() -> Pauses:
        """The pauses that hold, as of the last second, and the models that can be paused by name."""
        pauses = pause_facts(models.current.hub.snapshot.pauses)
        return {"pauses": pauses, "models": list(dict.fromkeys(models.names)), **missing(console.shards_down)}

    @router.put("/{lane}")
    async def pause(request: Request, lane: LaneOrAll, pause: LanePause) -> Pauses:
        """Pauses a lane, or changes its pause. Every process knows of it within two seconds."""
        return await _change(console, request, models.every, lane, pause, {"lane": lane})

    @router.delete("/{lane}")
    async def resume(request: Request, lane: LaneOrAll) -> Pauses:
        """Ends a pause. Workers go on at once, and requests are accepted within two seconds."""
        return await _change(console, request, models.every, lane, None, {"lane": lane})

    @router.put("/models/{name:path}")
    async def pause_model(request: Request, name: str, pause: LanePause) -> Pauses:
        """Pauses all work of a model, by its name or its revision."""
        served = find(models, name)
        every = models.publications(model_of(served.queue))
        return await _change(console, request, every, "all", pause, {"model": served.name})

    @router.delete("/models/{name:path}")
    async def resume_model(request: Request, name: str) -> Pauses:
        """Ends the pauses of a model."""
        served = find(models, name)
        every = models.publications(model_of(served.queue))
        return await _change(console, request, every, "all", None, {"model": served.name})

    return router


async def _change(
    console: Console,
    request: Request,
    models: Sequence[ServedModel],
    lane: LaneOrAll,
    pause: LanePause | None,
    facts: dict[str, Any],
) -> Pauses:
    """Sets the pause of a lane of these models, or ends it, at every shard that answers.

    Returns the pauses of the first of the models, and which shards do not know of it.
    """
    pauses = dict[str, Any]()
    lost = set[int]()
    lanes: tuple[Lane, ...] = ("interactive", "bulk") if lane == "all" else (lane,)
    for one in lanes:
        command = SetPause(one, pause.waiting, round(pause.for_s * 1000)) if pause else SetPause(one)
        for served in models[::-1]:  # the first one last: its reply counts
            replies = await _run(console, served, command)
            pauses = pause_facts(merge_pauses(replies.found))
            lost.update(replies.down)
    shards = missing(sorted(lost))
    if pause is not None:
        facts |= {"waiting": pause.waiting, "for_s": pause.for_s}
    await console.record(request, "resume" if pause is None else "pause", **facts, **shards)
    return {"pauses": pauses, **shards}


async def pause_alike(console: Console, models: ServedModels, model: str, number: int) -> None:
    """Gives a publication the pauses of the one that answers, and no others, before it answers too."""
    answering, *others = models.publications(model)
    await answering.hub.look()
    for lane in get_args(Lane):
        command = SetPause(lane)
        if (pause := answering.hub.snapshot.pauses.get(lane)) and pause.left_s:
            command = SetPause(lane, pause.waiting, round(pause.left_s * 1000))
        for other in others:
            if other.queue == publication_queue(model, number):
                await _run(console, other, command)


async def _run(console: Console, served: ServedModel, command: SetPause) -> Replies[Mapping[str, Pause]]:
    down = console.shards_down
    parts = enumerate(served.hub.console.parts)
    return await gather({number: part.run(command) for number, part in parts if number not in down}, down)


def find(models: ServedModels, name: str) -> ServedModel:
    """The model of this name or revision. Raises the Problem of `ServedModels.unknown`."""
    for served in models:
        revision = served.lookup.models.revision
        if served.name and (
            served is models.get(name) or (len(name) >= MIN_REVISION and revision.startswith(name))
        ):
            return served
    raise models.unknown(name)
