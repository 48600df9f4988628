"""GET /admin/jobs: jobs of all clients, by status, name and client."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.admin.schemas import JobsQuery
from api.jobs.schemas import job_body
from api.jobs.service import JobService
from batcher.jobs.records import JobRecord

# How many jobs one page examines: a filter that matches few of them returns less than a page.
MAX_LOOKS = 1000


def add_jobs(router: APIRouter, service: JobService) -> None:
    @router.get("/admin/jobs")
    async def jobs(query: Annotated[JobsQuery, Query()]) -> dict[str, Any]:
        """Newest first. A page may have fewer than `limit` jobs even if there is a `next_cursor`."""
        filtered = bool(query.search or query.client)
        count = MAX_LOOKS if filtered else query.limit
        records, following = await service.newest(query.status, count, query.cursor, "")
        found: list[JobRecord] = []
        for record in records:
            if len(found) == query.limit:
                following = found[-1].place
                break
            if _matches(record, query):
                found.append(record)
        shown = [job_body(record).model_dump(mode="json") | {"client": record.owner} for record in found]
        return {"jobs": shown, "next_cursor": following}


def _matches(record: JobRecord, query: JobsQuery) -> bool:
    search = query.search.casefold()
    return query.client in ("", record.owner) and (
        record.id.startswith(search) or search in record.file_name.casefold()
    )
