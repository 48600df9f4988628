"""The routes under /jobs: submit texts, follow progress, read results, cancel. See docs/jobs.md."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import JSONResponse, Response, StreamingResponse

from api.asgi.http import Answer, RequestHeaders, headers_of, sse, to_json, unless_disconnected
from api.asgi.ignored import refuse_unknown
from api.errors import ResponseCut
from api.jobs import openapi
from api.jobs.body import FileQuery, Receiver, Sender, SubmitQuery
from api.jobs.labelled import JobFiles
from api.jobs.pages import MEDIA_TYPES, TEXT_OUTPUTS, next_offset, page, page_type
from api.jobs.schemas import FilePreview, Job, JobList, JobPredictions
from api.jobs.service import JobService, not_found
from api.label_order import DESCRIPTION, LabelOrder, line_by_score
from batcher.errors import QueueUnavailable
from batcher.jobs.records import JobRecord, JobStatus

MAX_WAIT_S = 60
MAX_PAGE = 1_000_000_000  # results are streamed
PAGE = 1000
# Proxies close a stream that is silent for longer than about a minute.
KEEP_ALIVE_S = 15.0
# How long an event stream waits before it retries while Redis does not answer.
PAUSE_S = 0.5
# An event stream ends after this time, so that no connection stays open forever. Clients reconnect.
MAX_STREAM_S = 3600.0


class PageQuery(BaseModel):
    """What to return of the results of a job."""

    offset: int = Field(default=0, ge=0)
    limit: int = Field(default=PAGE, ge=1, le=MAX_PAGE)
    texts: bool = Field(default=False, description="Add the texts, which must be kept")
    models: bool = Field(default=False, description="Add which model and revision answered each text")
    order: LabelOrder | SkipJsonSchema[None] = Field(
        default=None, description=f"{DESCRIPTION}. By default as MILLRACE_LABEL_ORDER says"
    )


JobId = Annotated[str, Path(description="The id of the job")]


class _JobId(StringConvertor):
    """All but the names of other routes, of which another method gets 405."""

    regex = r"(?!preview$)[^/]+"


register_url_convertor("job", _JobId())


def job_routes(service: JobService, order: LabelOrder) -> APIRouter:
    router = APIRouter(
        prefix="/jobs", tags=["jobs"], responses=openapi.ALWAYS, dependencies=[Depends(refuse_unknown)]
    )
    _add_submission(router, service)
    _add_progress(router, service)
    _add_results(router, service, order)
    _add_labelled(router, service)

    @router.delete("/{job_id:job}", summary="Cancel a job, or delete one that has ended", **openapi.CANCEL)
    async def cancel(request: Request, job_id: JobId) -> Response:
        """Cancels a queued or running job (200), or deletes an ended job and its data (204)."""
        record = await service.cancel_or_delete(job_id, service.owner(headers_of(request)))
        return Response(status_code=204) if record is None else await _job(service, record, 200)

    return router


def _add_submission(router: APIRouter, service: JobService) -> None:
    options = openapi.submit_options(webhooks=service.webhooks)

    @router.post("", summary="Submit a job", status_code=202, response_model=Job, **options)
    async def submit(request: Request, query: Annotated[SubmitQuery, Query()]) -> Response:
        """The body is read as a stream. If any part of it is invalid, no job is created."""
        record, new = await service.take_body(headers_of(request), request.receive, query)
        return await _job(service, record, 202 if new else 200)

    @router.post("/preview", summary="How a file would be read", **openapi.PREVIEW)
    async def preview(request: Request, query: Annotated[FileQuery, Query()]) -> FilePreview:
        """The first rows, and what is detected. The body may be the beginning of a file of text."""
        return await service.preview(headers_of(request), request.receive, query)


def _add_progress(router: APIRouter, service: JobService) -> None:
    @router.get("", summary="Jobs, newest first")
    async def list_jobs(
        request: Request,
        status: JobStatus | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        cursor: Annotated[str, Query(pattern=r"^(\d{16}:[0-9a-f]{32})?$")] = "",
    ) -> JobList:
        """A page may hold fewer than `limit` jobs even if there is a `next_cursor`."""
        records, following = await service.newest(status, limit, cursor, service.owner(headers_of(request)))
        return JobList(jobs=[service.body(record) for record in records], next_cursor=following)

    @router.get("/{job_id:job}", summary="Status and progress of a job", response_model=Job, **openapi.FIND)
    async def find(
        request: Request,
        job_id: JobId,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for a change")] = 0,
    ) -> Response:
        """With `wait`, responds when the status or progress changes, or after that many seconds."""
        record = await service.find(job_id, service.owner(headers_of(request)))
        changed = await unless_disconnected(request.receive, service.watch.changed(record, wait))
        if changed is None:
            raise not_found()
        return await _job(service, changed, 200)

    @router.get("/{job_id}/events", summary="Progress as server-sent events", **openapi.EVENTS)
    async def events(
        request: Request, job_id: JobId, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """Ends with the event `end`. A client that reconnects with the id of that event gets 204."""
        record = await service.find(job_id, service.owner(headers_of(request)))
        if record.ended and last_event_id == record.version:
            return Response(status_code=204)
        headers = {"x-accel-buffering": "no"}
        stream = _events(service, record, last_event_id)
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)


def _add_results(router: APIRouter, service: JobService, default: LabelOrder) -> None:
    @router.get("/{job_id}/predictions", response_model=JobPredictions, **openapi.PREDICTIONS)
    async def predictions(
        request: Request,
        job_id: JobId,
        asked: Annotated[PageQuery, Query()],
        accept: Annotated[str, Header()] = "",
    ) -> Response:
        """Results can be read while the job is running. A page ends at the last result so far."""
        record = await service.find(job_id, service.owner(headers_of(request)))
        offset = asked.offset
        order = asked.order or default
        more = [name for name, wanted in (("text", asked.texts), ("model", asked.models)) if wanted]
        end = max(min(offset + asked.limit, record.done), offset)
        kind = page_type(accept)
        headers = {"x-total": str(record.total), "x-done": str(record.done), "vary": "accept"}
        if next_offset(record, end) is not None:
            following = "&".join([f"offset={end}&limit={asked.limit}", *(f"{name}s=true" for name in more)])
            following += f"&order={order}" if order != default else ""
            headers["link"] = f'</jobs/{job_id}/predictions?{following}>; rel="next"'
        chunks = await service.results(record, offset, end, more)
        if order == "score" and kind != "text/csv":
            chunks = (chunk._replace(lines=[*map(line_by_score, chunk.lines)]) for chunk in chunks)
        body = page(kind, record, offset, end, chunks, more)
        return await service.streamed(Receiver(request.receive), body, kind, headers)

    @router.get("/{job_id}/texts", response_class=StreamingResponse, **openapi.TEXTS)
    async def texts(request: Request, job_id: JobId) -> Response:
        """Available until the job ends, and afterwards if it was submitted with `keep_input`."""
        record = await service.find(job_id, service.owner(headers_of(request)))
        found = await service.texts(record)
        return await service.streamed(Receiver(request.receive), found, "application/x-ndjson")


def _add_labelled(router: APIRouter, service: JobService) -> None:
    files = JobFiles(service)

    @router.post("/{job_id}/labelled", response_class=StreamingResponse, **openapi.LABELLED)
    async def labelled(request: Request, job_id: JobId, accept: Annotated[str, Header()] = "") -> Response:
        """The body is the file that the job was made from; nothing of it is kept. Only rows with a result."""
        headers = headers_of(request)
        record = await service.find(job_id, service.owner(headers_of(request)))
        wanted = next((form for form in TEXT_OUTPUTS if MEDIA_TYPES[form] in accept), None)
        sender = Sender(request.receive, headers.left)
        form, rows = await files.labelled(headers, record, sender, service.blocks(headers, sender), wanted)
        return await service.streamed(sender, rows, MEDIA_TYPES[form], {"vary": "accept"})


async def defer(service: JobService, model: str, headers: RequestHeaders, texts: list[str]) -> Answer:
    """Turns a POST /predict with `Prefer: respond-async` into a job.

    Responds with 202 for a new job, or 200 for an existing one. Raises Problem or QueueUnavailable.
    """
    record, new = await service.take_texts(headers, texts, model)
    response = await _job(service, record, 202 if new else 200)
    location = [(name, value) for name, value in response.raw_headers if name == b"location"]
    applied = (b"preference-applied", b"respond-async")
    return Answer(response.status_code, [*location, applied], bytes(response.body))


async def _job(service: JobService, record: JobRecord, status: int) -> JSONResponse:
    body = await service.placed(record)
    return JSONResponse(body.model_dump(mode="json"), status, {"location": f"/jobs/{record.id}"})


async def _events(service: JobService, record: JobRecord, last_seen: str | None) -> AsyncIterator[bytes]:
    """Yields an event for each change, a comment if nothing changes for a while, and finally `end`.

    If the job is deleted, yields `gone` and raises ResponseCut.
    """
    until = monotonic() + MAX_STREAM_S
    shown = last_seen
    while True:
        try:
            if record.version != shown:
                body = await service.placed(record)
                name = "end" if record.ended else "progress"
                yield sse(name, body.model_dump_json().encode(), record.version)
                shown = record.version
            if record.ended or service.draining() or monotonic() > until:
                return
            changed = await service.watch.changed(record, KEEP_ALIVE_S)
        except QueueUnavailable:  # keep the stream open: browsers do not reconnect after a 503
            await asyncio.sleep(PAUSE_S)
            changed = record
        if changed is None:
            gone = {"id": record.id, "code": "not_found", "detail": "the job was deleted"}
            yield sse("gone", to_json(gone))
            raise ResponseCut("the job of an event stream was deleted")
        if changed.version == record.version:
            yield b": still here\n\n"
        record = changed
