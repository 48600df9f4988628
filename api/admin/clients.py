"""The routes under /admin/clients and /admin/usage: who causes the load, and what each key has used."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from api.admin.schemas import HoldEnd, HoldRequest, UsageQuery
from api.admin.service import Console
from api.errors import Problem
from batcher.core.commands import COUNTS
from batcher.core.holds import MAX_HOLDS, Hold

Clients = dict[str, Any]


def client_routes(console: Console, quotas: Mapping[str, int]) -> APIRouter:
    router = APIRouter(prefix="/admin", include_in_schema=False)
    holds = console.stores.holds

    @router.get("/clients")
    async def clients() -> Clients:
        """The clients of the last seconds, the busiest first, and those that are held back."""
        seen = await console.call(console.stores.usage.clients)
        held = await console.call(holds.current)
        return {"clients": seen, "held": [_shown(client, hold) for client, hold in held.items()]}

    @router.post("/clients/hold")
    async def hold(request: Request, body: HoldRequest) -> dict[str, Any]:
        """Holds a client back. Every process does so within two seconds."""
        if not await console.call(holds.set, body.client, Hold(body.what, time.time() + body.for_s)):
            detail = f"{MAX_HOLDS} clients are held back already: end one of these holds first"
            raise Problem(409, detail, code="too_many_holds")
        await console.record(request, "hold", client=body.client, what=body.what, for_s=body.for_s)
        return {"client": body.client, "what": body.what, "for_s": body.for_s}

    @router.post("/clients/resume")
    async def resume(request: Request, body: HoldEnd) -> dict[str, bool]:
        """Ends a hold; `ended` is false if there was none."""
        ended = await console.call(holds.end, body.client)
        await console.record(request, "resume_client", client=body.client, ended=ended)
        return {"ended": ended}

    @router.get("/usage")
    async def usage(query: Annotated[UsageQuery, Query()]) -> Response:
        """What each key has used on each day, oldest first."""
        rows = await console.call(console.stores.usage.rows, query.first, query.last, query.key)
        if query.format == "csv":
            disposition = {"content-disposition": 'attachment; filename="usage.csv"'}
            return Response(_csv(rows), media_type="text/csv; charset=utf-8", headers=disposition)
        return JSONResponse({"usage": rows, "quotas": dict(quotas)})

    return router


def _shown(client: str, hold: Hold) -> dict[str, Any]:
    return {"client": client, "what": hold.what, "left_s": round(hold.left_s)}


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Names of keys begin with a letter or a digit, so no cell is a formula; "-" is written as it is."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["day", "key", *COUNTS])
    writer.writerows(row.values() for row in rows)
    return out.getvalue()
