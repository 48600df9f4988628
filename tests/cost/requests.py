"""The worst requests of every route, made from its parameters and an example of its body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from api.compat.oip import HEADER_LENGTH
from tests.cost.bodies import (
    JSON_BODIES,
    Chosen,
    binary_bodies,
    compressed_bodies,
    in_chunks_of_a_byte,
    json_bodies,
)
from tests.cost.files import files, forms, read_again, tables_again, zipped
from tests.cost.meter import KIB, Request
from tests.cost.routes import ApiRoute
from tests.cost.stored import NO_ID, Stored, filled

Named = tuple[str, Request]
JOBS, FILES, LABELLED = "/jobs", "/v1/files", "/jobs/{job_id}/labelled"
PLAIN = "a plain request"
# A workbook is compressed, and has so many times its own size at least.
TABLE, PACKED = ".xlsx", 4
# A head has 8 KiB and 100 headers; a target 8 KiB.
HEAD, FIELDS = 6 * KIB, 90
# A byte in a chunk has six, and these kinds of bodies are also sent so.
CHUNK_BYTES, IN_CHUNKS = 6, ("many short rows", "a long unknown value", "repeats")
# Content of more than 64 MiB is refused.
LARGE_ZIP = 60 * KIB * KIB
# A value of each header that is worst for its readers.
HEADS = {
    "accept": "text/html;q=0.1," * (HEAD // 16),
    "accept ": "a/b;" + "c=d;" * (HEAD // 4),
    "accept-encoding": "gzip;q=0," * (HEAD // 9),
    "accept-language": "de;q=0.1," * (HEAD // 9),
    "authorization": "Bearer " + "x" * HEAD,
    "content-encoding": "gzip," * (HEAD // 5),
    "content-type": 'application/json;a="' + ";" * HEAD,
    "content-type ": "multipart/form-data;boundary=" + "B" * HEAD,
    "content-type  ": "multipart/form-data" + ";boundary*%d=B" * (HEAD // 13) % (*range(HEAD // 13),),
    "content-type   ": "multipart/form-data" + ";a=b" * (HEAD // 4),
    "cookie": "a=b;" * (HEAD // 4),
    "cookie ": '="' + "\\" * HEAD,
    "forwarded": "for=1.2.3.4," * (HEAD // 12),
    "host": "a." * (HEAD // 2),
    "idempotency-key": "x" * HEAD,
    "if-modified-since": "Mon," * (HEAD // 4),
    "if-none-match": 'W/"a",' * (HEAD // 6),
    "inference-header-content-length": "9" * HEAD,
    "last-event-id": "9" * HEAD,
    "origin": "http://" + "a." * (HEAD // 2),
    "prefer": "wait=1," * (HEAD // 7),
    "prefer ": "wait=1" + " " * HEAD + ";",
    "range": "bytes=" + "0-1," * (HEAD // 4),
    "traceparent": "00-" + "0" * HEAD,
    "tracestate": "a=b," * (HEAD // 4),
    "webhook-url": "https://" + "a." * (HEAD // 2),
    "x-forwarded-for": "1.2.3.4," * (HEAD // 8),
    "x-request-id": "x" * HEAD,
}
# What results can be read as; of /stats, frames.
ACCEPTED = ("application/json", "application/x-ndjson", "text/csv", "text/event-stream")


def bodies(route: ApiRoute, size: int, stored: Stored, wanted: Chosen = bool) -> Iterator[Named]:
    """Requests with bodies of about `size` bytes, only the `wanted` ones.

    None for a route with a body that has no example.
    """
    yield from _bodies(route, size, stored, wanted)
    small = _bodies(route, size // CHUNK_BYTES, stored, lambda name: name.endswith(IN_CHUNKS))
    for name, request in small:
        if name.endswith(IN_CHUNKS) and wanted(name := f"chunks of a byte: {name}"):
            yield name, replace(request, body=in_chunks_of_a_byte(request.body), chunked=True)


def _bodies(route: ApiRoute, size: int, stored: Stored, wanted: Chosen) -> Iterator[Named]:
    method, path = route.method, route.path
    if (method, path) == ("POST", JOBS):
        for name, query, kind, body in files(size, wanted):
            yield name, Request(method, path + query, body, kind, tables=query.endswith(TABLE))
        for name, packed, content in zipped(min(8 * size, LARGE_ZIP), wanted):
            yield name, Request(method, f"{path}?filename=a.txt", packed, "", content)
    elif path == f"{JOBS}/preview":
        for name, query, kind, body in files(size, wanted):
            yield name, Request(method, path + query, body, kind, tables=query.endswith(TABLE))
    elif path == LABELLED:
        for name, body in read_again(size, wanted):
            for target in stored.paths(path):  # of jobs of lines and of a table
                yield name, Request(method, target, body)
        for name, packed, content in zipped(min(8 * size, LARGE_ZIP), wanted):
            for target in stored.paths(path):
                yield name, Request(method, target, packed, "", content)
        for name, form, body in tables_again(size, wanted):  # one process reads, and another one writes
            target = path.replace("{job_id}", stored.values[form][0])
            content = PACKED * len(body) if form == "xlsx" else 0
            yield name, Request(method, target, body, content=content, tables=2)
    elif (method, path) == ("POST", FILES):
        for name, kind, body in forms(size, wanted):
            yield name, Request(method, path, body, kind)
    elif method in ("POST", "PUT") and path in JSON_BODIES:
        target = stored.paths(path)[0] + ("?order=score" if "predict" in path and "v1" not in path else "")
        for name, body in json_bodies(JSON_BODIES[path], size, wanted):
            yield name, Request(method, target, body)
        for packed in compressed_bodies(JSON_BODIES[path], size, wanted):
            headers = (("content-encoding", packed.encoding),)
            yield packed.name, Request(method, target, packed.body, content=packed.content, headers=headers)
        if path.endswith("/infer"):
            for name, body, length in filter(lambda one: wanted(one[0]), binary_bodies(size)):
                headers = ((HEADER_LENGTH.decode(), str(length)),)
                yield name, Request(method, target, body, "application/octet-stream", headers=headers)


def heads(route: ApiRoute, stored: Stored) -> Iterator[Named]:
    """Requests with the worst paths, queries and headers."""
    first = next(bodies(route, 100, stored), None)
    if route.method in ("POST", "PUT") and first is None and not route.path.endswith("/cancel"):
        return
    # What is stored is deleted by no request.
    known = stored.paths(route.path) if route.method == "GET" else [filled(route.path, NO_ID)]
    for target in known if first is None else ():
        yield PLAIN, Request(route.method, target)
    for query in largest(route) if route.method == "GET" else ():
        for accepted in ACCEPTED:
            request = Request(route.method, f"{known[0]}?{query}", headers=(("accept", accepted),))
            yield f"{query} as {accepted}", request
    plain = first[1] if first else Request(route.method, known[-1])
    if "{" in route.path:
        for name, value in (("a long name", "x" * HEAD), ("many parts", "x%2F" * (HEAD // 4))):
            yield name, replace(plain, path=filled(route.path, value))
    for name, query in _queries(route):
        yield name, replace(plain, path=f"{plain.path.partition('?')[0]}?{query}")
    if not plain.body:
        yield "a body that is not read", replace(plain, body=b"x" * 64 * KIB)
    for name, value in HEADS.items():
        yield f"header {name}", _with(plain, ((name.strip(), value),))
    for name in ("prefer", "cookie", "x-forwarded-for", "x"):
        yield f"many headers {name}", _with(plain, ((name, "a=b"),) * FIELDS)
    yield "many different headers", _with(plain, tuple((f"x-{number}", "") for number in range(FIELDS)))


def largest(route: ApiRoute) -> Iterator[str]:
    """Queries that ask for the most, in each form that the parameters name; none without parameters."""
    most = "&".join(f"{name}={values[0]}" for name, values in route.query if len(values) == 1)
    forms = [f"{name}={value}" for name, values in route.query if len(values) > 1 for value in values]
    yield from filter(None, ("&".join(filter(None, (most, form))) for form in forms or [""]))


def _queries(route: ApiRoute) -> Iterator[tuple[str, str]]:
    for name in (*(name for name, _ in route.query), "unknown"):
        yield f"a long {name}", f"{name}=" + "9" * HEAD
        yield f"{name} of escapes", f"{name}=" + "%00" * (HEAD // 3)
        yield f"{name} often", f"{name}=1&" * (HEAD // (len(name) + 3))
    yield "many different parameters", "&".join(f"{number:x}=" for number in range(HEAD // 5))
    yield "signs", "&=" * (HEAD // 2)


def _with(request: Request, headers: tuple[tuple[str, str], ...]) -> Request:
    return replace(request, headers=(*request.headers, *headers))
