"""The routes of OpenAI's batches: /v1/files and /v1/batches. See docs/batches.md."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from api.asgi.http import BodyReader, check_json, headers_of, unless_disconnected
from api.asgi.ignored import ignored_header, refuse_unknown
from api.batches import schemas
from api.batches.service import BatchAnswers, BatchService
from api.compat.reading import parse
from api.jobs.body import Receiver
from api.jobs.openapi import ALWAYS, FIND, NOT_FOUND, Options
from api.jobs.service import JobService
from api.schemas import FILE, REFERENCE, STRING, body, content, error, errors

# The body of a request to create a batch, and how long it may take to arrive.
MAX_REQUEST_BYTES = 64 * 1024
BODY_TIMEOUT_S = 30.0

FileId = Annotated[str, Path(description="The id of the file")]
BatchId = Annotated[str, Path(description="The id of the batch")]
_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "purpose": {"type": "string", "enum": ["batch"]},
        "file": {**FILE, "minLength": 1},
    },
}
_UPLOAD: Options = {
    "responses": {
        **errors(408, 507),
        413: error("The file is too large; nothing is stored"),
        415: error("The content type is not multipart/form-data, or the Content-Encoding is unknown"),
    },
    "openapi_extra": body({"multipart/form-data": _FORM}),
}
_CREATE: Options = {
    "responses": {
        **NOT_FOUND,
        **errors(408, 409, 415, 507),
        413: error("The texts and their results are too large (job_too_large); nothing is stored"),
    },
    "openapi_extra": body(
        {"application/json": schemas.BatchRequest.model_json_schema(ref_template=REFERENCE)}
    ),
}
_CONTENT: Options = {
    "responses": {
        **NOT_FOUND,
        200: {
            "description": "The file; of a batch, one line for each result",
            **content({"application/octet-stream": STRING}),
        },
    }
}
_DELETE: Options = {"responses": {**NOT_FOUND, 409: error("The batch has not ended (batch_running)")}}


def batch_routes(jobs: JobService, answers: BatchAnswers) -> APIRouter:
    router = APIRouter(
        prefix="/v1", tags=["batches"], responses=ALWAYS, dependencies=[Depends(refuse_unknown)]
    )
    service = BatchService(jobs, answers)
    _add_files(router, jobs, service)
    _add_batches(router, jobs, service)
    return router


def _add_files(router: APIRouter, jobs: JobService, service: BatchService) -> None:
    @router.post("/files", summary="Upload the file of a batch", **_UPLOAD)
    async def upload(request: Request) -> schemas.FileObject:
        """The form has the `purpose` "batch" and the `file`. Either the whole file is kept, or nothing."""
        return await service.upload(headers_of(request), request.receive)

    @router.get("/files/{file_id}", summary="A file", **FIND)
    async def file(request: Request, file_id: FileId) -> schemas.FileObject:
        return await unless_disconnected(
            request.receive, service.file(file_id, jobs.owner(headers_of(request)))
        )

    @router.get("/files/{file_id}/content", response_class=StreamingResponse, **_CONTENT)
    async def content(request: Request, file_id: FileId) -> Response:
        """The content of a file."""
        receiver = Receiver(request.receive)
        found = await service.content(file_id, jobs.owner(headers_of(request)), receiver)
        return await jobs.streamed(receiver, found, "application/octet-stream")

    @router.delete("/files/{file_id}", summary="Delete a file", **_DELETE)
    async def delete(request: Request, file_id: FileId) -> schemas.FileDeleted:
        """Deleting the results of a batch also deletes the batch."""
        await service.delete(file_id, jobs.owner(headers_of(request)))
        return schemas.FileDeleted(id=file_id)


def _add_batches(router: APIRouter, jobs: JobService, service: BatchService) -> None:
    bodies = BodyReader(MAX_REQUEST_BYTES, BODY_TIMEOUT_S)

    @router.post("/batches", summary="Create a batch", response_model=schemas.Batch, **_CREATE)
    async def create(request: Request) -> Response:
        """Each line of the file is a request with one text. The batch is a job (`/jobs`)."""
        headers = headers_of(request)
        check_json(headers)
        asked = parse(await bodies.read(headers, request.receive), schemas.BatchRequest)
        record, ignored = await service.create(headers, request.receive, asked)
        one = ignored_header(ignored)
        named = {one[0].decode(): one[1].decode()} if one else None
        return Response(schemas.batch_body(record).model_dump_json(), 200, named, "application/json")

    @router.get("/batches", summary="Batches, newest first", **FIND)
    async def list_batches(
        request: Request, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str = ""
    ) -> schemas.BatchList:
        records, more = await service.newest(limit, after, jobs.owner(headers_of(request)))
        data = [schemas.batch_body(record) for record in records]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return schemas.BatchList(data=data, first_id=first, last_id=last, has_more=more)

    @router.get("/batches/{batch_id}", summary="A batch", **FIND)
    async def find(request: Request, batch_id: BatchId) -> schemas.Batch:
        return schemas.batch_body(await service.find(batch_id, jobs.owner(headers_of(request))))

    @router.post("/batches/{batch_id}/cancel", summary="Cancel a batch", **FIND)
    async def cancel(request: Request, batch_id: BatchId) -> schemas.Batch:
        return schemas.batch_body(await service.cancel(batch_id, jobs.owner(headers_of(request))))
