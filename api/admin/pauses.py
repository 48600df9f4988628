"""The routes under /admin/pauses: stop the work of a lane, of a model or of all workers for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from time import time
from typing import Any, get_args

from fastapi import APIRouter, Request

from api.admin.schemas import LaneOrAll, LanePause
from api.admin.service import Console, Replies, gather, missing
from api.models.served import ServedModel, ServedModels
from api.stats.frames import pause_facts
from batcher.connection.outage import RANDOM
from batcher.core.commands import SetPause
from batcher.core.holds import OF_ALL, Pause, merge_pauses
from batcher.core.publications import model_of
from batcher.errors import QueueUnavailable
from batcher.messages import Lane

# The first characters of a revision that name it.
MIN_REVISION = 4
# The number of a decision ends with so many random bits: of one millisecond, one pair in 1,024 has the same.
RANDOM_BITS = 10
Pauses = dict[str, Any]
# Lanes of queues, with the queue of each.
Lanes = Sequence[tuple[ServedModel, str]]


def pause_routes(console: Console, models: ServedModels) -> APIRouter:
    """A pause of a lane holds for all models, and that of a model for all of its publications, also later.

    Of the decisions about a lane, the last one counts. Each queue keeps it, and after each sweep, API
    processes pass it on to the queues and shards that do not know it: they are new, or have been away.
    """
    router = APIRouter(prefix="/admin/pauses", include_in_schema=False)
    change = partial(_change, console, models)

    @router.get("")
    async def show() -> Pauses:
        """The pauses that hold, as of the last second, and the models that can be paused by name."""
        pauses = pause_facts(models.current.hub.snapshot.pauses)
        return {"pauses": pauses, "models": list(dict.fromkeys(models.names)), **missing(console.shards_down)}

    @router.put("/{lane}")
    async def pause(request: Request, lane: LaneOrAll, pause: LanePause) -> Pauses:
        """Pauses a lane, or changes its pause. Every process knows of it within two seconds."""
        return await change(request, _of_all(models, lane), pause, {"lane": lane})

    @router.delete("/{lane}")
    async def resume(request: Request, lane: LaneOrAll) -> Pauses:
        """Ends a pause. Workers go on at once, and requests are accepted within two seconds."""
        return await change(request, _of_all(models, lane), None, {"lane": lane})

    @router.put("/models/{name:path}")
    async def pause_model(request: Request, name: str, pause: LanePause) -> Pauses:
        """Pauses all work of a model, by its name or its revision."""
        served = find(models, name)
        return await change(request, _of_model(models, served), pause, {"model": served.name})

    @router.delete("/models/{name:path}")
    async def resume_model(request: Request, name: str) -> Pauses:
        """Ends the pauses of a model."""
        served = find(models, name)
        return await change(request, _of_model(models, served), None, {"model": served.name})

    return router


def _of_all(models: ServedModels, lane: LaneOrAll) -> Lanes:
    """A lane in every queue that there is, and what is passed on to later ones."""
    lanes = get_args(Lane) if lane == "all" else (lane,)
    kept = [(models.first, OF_ALL[one]) for one in lanes]
    return [*kept, *((served, one) for served in models.every[::-1] for one in lanes)]


def _of_model(models: ServedModels, served: ServedModel) -> Lanes:
    """Both lanes of all publications of a model."""
    every = models.publications(model_of(served.queue))
    return [(one, lane) for one in every[::-1] for lane in get_args(Lane)]


async def _change(
    console: Console,
    models: ServedModels,
    request: Request,
    lanes: Lanes,
    pause: LanePause | None,
    facts: dict[str, Any],
) -> Pauses:
    """Sets the pause of these lanes, or ends it, at every shard that answers; not of a queue that is dropped.

    Returns the pauses of the last queue, and which shards do not know of it yet.
    """
    await asyncio.gather(*(served.hub.look() for served, _ in lanes))
    number = _number(one.number for served, _ in lanes for one in served.hub.snapshot.pauses.values())
    pauses = dict[str, Any]()
    lost = set[int]()
    for served, lane in lanes:
        command = SetPause(lane, "", 0, number)
        if pause is not None:
            command = SetPause(lane, pause.waiting, round(pause.for_s * 1000), number)
        try:
            replies = await _run(console, served, command)
        except QueueUnavailable:
            if served in models.every:
                raise
            continue
        pauses = pause_facts(merge_pauses(replies.found))
        lost.update(replies.down)
    shards = missing(sorted(lost))
    if pause is not None:
        facts |= {"waiting": pause.waiting, "for_s": pause.for_s}
    facts |= {"decision": number, **shards}
    await console.record(request, "resume" if pause is None else "pause", **facts)
    return {"pauses": pauses, **shards}


def _number(known: Iterable[int]) -> int:
    """The number of a decision after the known ones. By it, queues agree which of several is the last.

    It is below 2**53: Lua and JavaScript know larger ones only roughly.
    """
    first = max([round(time() * 1000) << RANDOM_BITS, *(before + 1 for before in known)])
    return first + RANDOM.getrandbits(RANDOM_BITS)


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
