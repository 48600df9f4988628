"""The routes under /admin/pauses: stop the work of a lane, or of both, for a while."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from api.admin.schemas import LaneOrAll, LanePause
from api.admin.service import Console
from api.models.served import ServedModels
from api.stats.frames import pause_facts
from batcher.core.console import SetPause
from batcher.core.pauses import Pause
from batcher.messages import Lane

_LANES: Mapping[LaneOrAll, tuple[Lane, ...]] = {
    "interactive": ("interactive",),
    "bulk": ("bulk",),
    "all": ("interactive", "bulk"),
}
Pauses = dict[str, Any]


def pause_routes(console: Console, models: ServedModels) -> APIRouter:
    """A pause holds for all models."""
    router = APIRouter(prefix="/admin/pauses")
    hub = models.first.hub

    async def apply(*commands: SetPause) -> Pauses:
        pauses: Mapping[str, Pause] = {}
        for command in commands:
            for served in [*models][::-1]:  # the first one last: its reply has what it had before
                pauses = await console.ask(served.hub.console.run(command))
        return {"pauses": pause_facts(pauses)}

    @router.get("")
    async def show() -> Pauses:
        """The pauses that hold, as of the last second."""
        return {"pauses": pause_facts(hub.snapshot.pauses)}

    @router.put("/{lane}")
    async def pause(request: Request, lane: LaneOrAll, pause: LanePause) -> Pauses:
        """Pauses a lane, or changes its pause. Every process knows of it within two seconds."""
        for_ms = round(pause.for_s * 1000)
        pauses = await apply(*(SetPause(one, pause.waiting, for_ms) for one in _LANES[lane]))
        await console.record(request, "pause", lane=lane, waiting=pause.waiting, for_s=pause.for_s)
        return pauses

    @router.delete("/{lane}")
    async def resume(request: Request, lane: LaneOrAll) -> Pauses:
        """Ends a pause. Workers go on at once, and requests are accepted within two seconds."""
        pauses = await apply(*(SetPause(one) for one in _LANES[lane]))
        await console.record(request, "resume", lane=lane)
        return pauses

    return router
