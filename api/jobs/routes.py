"""/jobs: hand in many texts, ask how far they are, fetch what is done, cancel. docs/jobs.md is the guide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from api.asgi.body import check_length
from api.asgi.headers import RequestHeaders, check_encoding
from api.asgi.responses import Answer
from api.jobs.openapi import CANCEL, EVENTS, FIND, LIST, PREDICTIONS, SUBMIT, TEXTS
from api.jobs.schemas import Job, JobList, JobPredictions, job_body, next_offset, page, page_type
from api.jobs.service import JobService, not_found
from batcher.errors import QueueUnavailable
from batcher.jobs.records import JobRecord, JobStatus

MAX_WAIT_S = 60
MAX_PAGE = 1_000_000
PAGE = 1000
# Proxies close a stream that is silent for longer than about a minute.
KEEP_ALIVE_S = 15.0
# Between two looks of an event stream while Redis is away.
PAUSE_S = 0.5
# An event stream ends after this, so that nobody's connection is for ever; the client comes back by itself.
MAX_STREAM_S = 3600.0


def _owner(desk: JobService, request: Request) -> str:
    return desk.owner(request.scope["state"]["headers"])


JobId = Annotated[str, Path(description="As POST /jobs gave it")]


def job_routes(desk: JobService, max_body_bytes: int) -> APIRouter:
    """The seven routes."""
    router = APIRouter(prefix="/jobs", tags=["jobs"])
    _add_intake(router, desk, max_body_bytes)
    _add_progress(router, desk)
    _add_results(router, desk)
    _add_cancel(router, desk)
    return router


def _add_intake(router: APIRouter, desk: JobService, max_body_bytes: int) -> None:
    @router.post("", summary="Hand in a job", status_code=202, response_model=Job, **SUBMIT)
    async def submit(
        request: Request,
        keep_input: Annotated[bool, Query(description="Keep the texts after the job's end")] = False,
    ) -> Response:
        """The body is read as a stream. All of it becomes a job, or nothing."""
        head: RequestHeaders = request.scope["state"]["headers"]
        check_length(head, max_body_bytes)
        check_encoding(head)
        try:
            record, new = await desk.take_body(head, request.receive, keep_input=keep_input)
        except ClientDisconnect:
            return Response(status_code=499)
        return await _job(desk, record, 202 if new else 200)


def _add_progress(router: APIRouter, desk: JobService) -> None:
    @router.get("", summary="Jobs, newest first", **LIST)
    async def list_jobs(
        request: Request,
        status: JobStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        cursor: Annotated[str, Query(pattern=r"^(\d{16}:[0-9a-f]{32})?$")] = "",
    ) -> JobList:
        """A page may hold fewer jobs than `limit` although `next_cursor` leads on."""
        records, following = await desk.newest(status, limit, cursor, _owner(desk, request))
        return JobList(jobs=[job_body(record) for record in records], next_cursor=following)

    @router.get("/{job_id}", summary="How far a job is", response_model=Job, **FIND)
    async def find(
        request: Request,
        job_id: JobId,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for a change")] = 0,
    ) -> Response:
        """With `wait`, answers when status or progress changes, or when the time is over."""
        record = await desk.find(job_id, _owner(desk, request))
        changed = await desk.watch.changed(record, wait)
        if changed is None:
            raise not_found()
        return await _job(desk, changed, 200)

    @router.get("/{job_id}/events", summary="Progress as server-sent events", **EVENTS)
    async def events(
        request: Request, job_id: JobId, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """Ends with the event `end`. Whoever comes back with the id of that one gets 204."""
        record = await desk.find(job_id, _owner(desk, request))
        if record.ended and last_event_id == record.version:
            return Response(status_code=204)
        headers = {"x-accel-buffering": "no"}
        stream = _events(desk, record, last_event_id)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _add_results(router: APIRouter, desk: JobService) -> None:
    @router.get("/{job_id}/predictions", response_model=JobPredictions, **PREDICTIONS)
    async def predictions(
        request: Request,
        job_id: JobId,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
        accept: Annotated[str, Header()] = "",
    ) -> Response:
        """What is done can be read while the rest runs: a page ends where the results end."""
        record = await desk.find(job_id, _owner(desk, request))
        end = max(min(offset + limit, record.done), offset)
        kind = page_type(accept)
        headers = {"x-total": str(record.total), "x-done": str(record.done), "vary": "accept"}
        if next_offset(record, end) is not None:
            headers["link"] = f'</jobs/{job_id}/predictions?offset={end}&limit={limit}>; rel="next"'
        body = page(kind, record, offset, end, desk.store.output(record, offset, end))
        return StreamingResponse(body, media_type=kind, headers=headers)

    @router.get("/{job_id}/texts", response_class=StreamingResponse, **TEXTS)
    async def texts(request: Request, job_id: JobId) -> Response:
        """Until the job's end, and after it where `keep_input` was asked for."""
        record = await desk.find(job_id, _owner(desk, request))
        return StreamingResponse(await desk.texts(record), media_type="application/x-ndjson")


def _add_cancel(router: APIRouter, desk: JobService) -> None:
    @router.delete("/{job_id}", summary="Cancel a job, or delete one that has ended", **CANCEL)
    async def cancel(request: Request, job_id: JobId) -> Response:
        """A job that waits or runs is cancelled (200); one that has ended goes with its data (204)."""
        record = await desk.cancel_or_delete(job_id, _owner(desk, request))
        return Response(status_code=204) if record is None else await _job(desk, record, 200)


class JobDeferral:
    """POST /predict with `Prefer: respond-async`: its texts become a job."""

    def __init__(self, desk: JobService) -> None:
        self._desk = desk

    async def __call__(self, head: RequestHeaders, texts: list[str]) -> Answer:
        """202 and Location, or 200 for a job that was there. Raises Problem or QueueUnavailable."""
        record, new = await self._desk.take_texts(head, texts)
        answer = await _job(self._desk, record, 202 if new else 200)
        headers = [(name, value) for name, value in answer.raw_headers if name == b"location"]
        headers.append((b"preference-applied", b"respond-async"))
        return Answer(answer.status_code, headers, bytes(answer.body))


async def _job(desk: JobService, record: JobRecord, status: int) -> JSONResponse:
    body = job_body(record, await desk.position(record)).model_dump(mode="json")
    return JSONResponse(body, status, {"location": f"/jobs/{record.id}"})


async def _events(desk: JobService, record: JobRecord, last_seen: str | None) -> AsyncIterator[bytes]:
    """An event for each change, a comment while there is none, the event `end` at the end."""
    until = monotonic() + MAX_STREAM_S
    shown = last_seen
    while True:
        try:
            if record.version != shown:
                yield _event(record, job_body(record, await desk.position(record)).model_dump_json())
                shown = record.version
            if record.ended or desk.draining() or monotonic() > until:
                return
            changed = await desk.watch.changed(record, KEEP_ALIVE_S)
        except QueueUnavailable:  # a browser that is sent away with 503 would not come back
            await asyncio.sleep(PAUSE_S)
            changed = record
        if changed is None:
            return
        if changed.version == record.version:
            yield b": still here\n\n"
        record = changed


def _event(record: JobRecord, data: str) -> bytes:
    name = "end" if record.ended else "progress"
    return f"event: {name}\nid: {record.version}\ndata: {data}\n\n".encode()
