"""The routes under /admin/clients and /admin/usage: who causes the load, and what each key has used."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from api.admin.schemas import HoldEnd, HoldRequest, UsageQuery
from api.admin.service import Console, Replies
from api.errors import Problem
from batcher.core.commands import COUNTS
from batcher.core.holds import MAX_HOLDS, Hold, merge_holds

Clients = dict[str, Any]


def client_routes(console: Console, quotas: Mapping[str, int]) -> APIRouter:
    router = APIRouter(prefix="/admin", include_in_schema=False)

    @router.get("/clients")
    async def clients() -> Clients:
        """The clients of the last seconds, the busiest first, and those that are held back."""
        seen = await console.call(console.stores.usage.clients)
        replies = await _held(console)
        held = [_shown(client, hold) for client, hold in merge_holds(replies.found).items()]
        return {"clients": seen, "held": held, **replies.facts}

    @router.post("/clients/hold")
    async def hold(request: Request, body: HoldRequest) -> dict[str, Any]:
        """Holds a client back, at every shard that answers. Every process does so within two seconds."""
        await _check_room(console, body.client)
        replies = await console.each(lambda shard: shard.holds.set(body.client, body.what, body.for_s))
        facts = {"client": body.client, "what": body.what, "for_s": body.for_s, **replies.facts}
        await console.record(request, "hold", **facts)
        return facts

    @router.post("/clients/resume")
    async def resume(request: Request, body: HoldEnd) -> dict[str, Any]:
        """Ends a hold at every shard that answers; `ended` is false if there was none."""
        replies = await console.each(lambda shard: shard.holds.end(body.client))
        facts = {"ended": any(replies.found), **replies.facts}
        await console.record(request, "resume_client", client=body.client, **facts)
        return facts

    @router.get("/usage")
    async def usage(query: Annotated[UsageQuery, Query()]) -> Response:
        """What each key has used on each day, oldest first."""
        rows = await console.call(console.stores.usage.rows, query.first, query.last, query.key)
        if query.format == "csv":
            disposition = {"content-disposition": 'attachment; filename="usage.csv"'}
            return Response(_csv(rows), media_type="text/csv; charset=utf-8", headers=disposition)
        return JSONResponse({"usage": rows, "quotas": dict(quotas)})

    return router


async def _held(console: Console) -> Replies[Mapping[str, Hold]]:
    return await console.each(lambda shard: shard.holds.current())


async def _check_room(console: Console, client: str) -> None:
    held = merge_holds((await _held(console)).found)
    if client not in held and len(held) >= MAX_HOLDS:
        detail = f"{MAX_HOLDS} clients are held back already: end one of these holds first"
        raise Problem(409, detail, code="too_many_holds")


def _shown(client: str, hold: Hold) -> dict[str, Any]:
    return {"client": client, "what": hold.what, "left_s": round(hold.left_s)}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Names of keys begin with a letter or a digit, so no cell is a formula; "-" is written as it is."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["day", "key", *COUNTS])
    writer.writerows(row.values() for row in rows)
    return out.getvalue()
