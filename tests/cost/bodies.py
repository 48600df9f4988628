"""Bodies that cost the most of their size: repeats, widths, depths, one long record, many short ones."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

_PLACE = "@here@"
MULTIPART = "multipart/form-data; boundary=B"
_FORM = (
    b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--B\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
_TEXTS = ["a", "b"]
_INPUTS = [{"name": "t", "shape": [2], "datatype": "BYTES", "data": _TEXTS}]
_OIP = {"inputs": _INPUTS, "outputs": [{"name": "scores", "parameters": {"classification": 151}}]}
_PREDICT = {"text": _TEXTS}
_PAUSE = {"waiting": "keep", "for_s": "none"}
_REFUSED = {"ids": ["a" * 64], "filter": None}

# A request of each route with a JSON body, which uses what its schema has.
JSON_BODIES: Mapping[str, Any] = {
    "/": {"inputs": _TEXTS, "parameters": {"top_k": 200}},
    "/models/{model:path}": {"inputs": _TEXTS},
    "/api/v1/text/contents": {"contents": _TEXTS, "detector_params": {"threshold": 0}},
    "/classify": {"model": "stub", "input": _TEXTS, "messages": None},
    "/v1/classify": {"input": _TEXTS},
    "/invocations": {"inputs": _TEXTS, "parameters": {"top_k": 200}},
    "/vertex/predict": {"instances": ["a", {"text": "b"}], "parameters": {"top_k": 200}},
    "/predict": _PREDICT,
    "/predict/": _PREDICT,
    "/models/{name:path}/predict": _PREDICT,
    "/bulk-predict": _PREDICT,
    "/project-predict": _PREDICT,
    "/project/bulk-predict": _PREDICT,
    "/tokenize": {"inputs": _TEXTS},
    "/v1/batches": {
        "input_file_id": "file-" + "0" * 32,
        "endpoint": "/v1/classify",
        "completion_window": "24h",
        "metadata": {"a": "b"},
    },
    "/v1/decisions": {
        "input": "a",
        "questions": [
            {"type": "choice", "name": "q", "choices": [{"value": "label_000"}, {"value": "label_001"}]},
            {"type": "predicate", "name": "label_000"},
        ],
    },
    "/v1/systemone": {
        "state": "a",
        "questions": {"q": {"type": "choice", "criteria": {"label_000": None, "label_001": None}}},
    },
    "/v1/models/{model}:predict": {"instances": _TEXTS},
    "/v1/moderations": {"input": _TEXTS, "model": "stub"},
    "/v2/models/{model}/infer": _OIP,
    "/v2/models/{model}/versions/{version}/infer": _OIP,
    "/admin/clients/hold": {"client": "key:none", "what": "all", "for_s": 1},
    "/admin/clients/resume": {"client": "key:none"},
    "/admin/forget": {"text": "a", "tenants": ["none"]},
    "/admin/links": {},
    "/admin/session": {},
    "/admin/models/candidate": {"model": "", "number": 9, "share": 0.1, "by": "text"},
    "/admin/models/move": {"model": "", "number": 9},
    "/admin/models/publish": {"model": "none", "reference": "a"},
    "/admin/refused/delete": _REFUSED,
    "/admin/refused/release": _REFUSED,
    "/admin/refused/retry": _REFUSED,
    "/admin/pauses/{lane}": _PAUSE,
    "/admin/pauses/models/{name:path}": _PAUSE,
}


def json_bodies(base: Any, size: int) -> Iterator[tuple[str, bytes]]:
    """Bodies of about `size` bytes: instead of each value of `base`, what its schema may and may not have."""
    yield "the field twice", _repeated_keys(base, size)
    yield "unknown fields", _dumps({**base, **{f"u{n}": n for n in range(size // 10)}})
    yield "an unknown field", _dumps({**base, "u" * size: 0})
    yield "a long unknown value", _dumps({**base, "unknown": "x" * size})
    for path, value in _places(base):
        around = _dumps(_with(base, path, _PLACE)).split(_dumps(_PLACE))
        for name, raw in _values(value, size):
            yield f"{'.'.join(map(str, path)) or 'the body'}: {name}", raw.join(around)


def _values(value: Any, size: int) -> Iterator[tuple[str, bytes]]:
    """JSON in place of a value."""
    if isinstance(value, list):
        one = _dumps(value[0])
        yield "repeats", b"[" + b",".join([one] * max(size // (len(one) + 1), 1)) + b"]"
        yield "empty texts", b"[" + b",".join([b'""'] * (size // 3)) + b"]"
        yield "short texts", _dumps([str(number) for number in range(size // 8)])
        long = min(size, 19_000)
        yield "long texts", _dumps([f"{number} {'x' * long}" for number in range(max(size // long, 1))])
        yield "empty lists", b"[" + b",".join([b"[]"] * (size // 3)) + b"]"
    elif isinstance(value, dict):
        yield "many fields", _dumps({f"u{number}": None for number in range(size // 12)})
    elif isinstance(value, str):
        yield "a long text", b'"' + b"x" * size + b'"'
        yield "escapes", b'"' + rb"\u0000" * (size // 6) + b'"'
    else:
        yield "digits", b"9" * size
    yield "depth", b"[" * (size // 2) + b"]" * (size // 2)
    yield "nested fields", b'{"a":' * (size // 6) + b"0" + b"}" * (size // 6)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _places(one, (*path, key))


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    key, *rest = path
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[key] = _with(value[key], tuple(rest), new)
    return copied


def _repeated_keys(base: Any, size: int) -> bytes:
    inside = _dumps(base)[1:-1]
    return b"{" + b",".join([inside] * max(size // (len(inside) + 1), 2)) + b"}"


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def _shuffled(count: int) -> Iterator[bytes]:
    """Names with the letters of "abab...", in other orders."""
    draw = Random(1)
    for _ in range(count):
        letters = list("ab" * 99)
        draw.shuffle(letters)
        yield "".join(letters).encode()


# Files of about so many bytes, by what is worst in them.
FILES: Mapping[str, Callable[[int], bytes]] = {
    "a wide header": lambda size: b"text," + b",".join(b"%x" % n for n in range(size // 6)) + b"\n",
    "empty names": lambda size: b"text" + b"," * size,
    "columns with long names": lambda size: b",".join(_shuffled(size // 199)),
    "wide rows": lambda size: (
        b"text"
        + (b",%d" * 16_000 % (*range(16_000),) + b"\n" + b",1" * 16_000) * 1
        + (b"\na" + b",1" * 16_000) * max((size - 120_000) // 32_000, 0)
    ),
    "one record over many lines": lambda size: b'text\n"' + b"x\n" * (size // 2) + b'"\n',
    "one wide record over many lines": lambda size: b"text\n" + b'"ab\n",' * (size // 6) + b"\n",
    "one long record": lambda size: b'text\n"' + (b"x" * 500_000 + b"\n") * (size // 500_000) + b'"\n',
    "one long line": lambda size: b'text\n"' + b"x" * size + b'"\n',
    "many short rows": lambda size: b"text\n" + b"a\n" * (size // 2),
    "blank lines": lambda size: b"text\n" + b"\n" * size + b"a",
    "wide lines of JSON": lambda size: (
        (b'{"text":"a","b":[' + b"{}," * 300_000 + b"0]}\n") * (size // 900_000)
    ),
    "deep lines of JSON": lambda size: (b"[" * 100_000 + b"\n") * (size // 100_000),
    "quotes": lambda size: b'text\n"' + b'""' * (size // 2) + b'"\n',
}
# By what it is sent as: the query and the content type.
KINDS = {
    "csv": ("?filename=a.csv", ""),
    "column": ("?filename=a.csv&column=" + "ab" * 99, ""),
    "json": ("?filename=a.json", ""),
    "ndjson": ("?filename=a.ndjson", ""),
    "txt": ("?filename=a.txt", ""),
    "body": ("", "application/json"),
    "body of lines": ("", "application/x-ndjson"),
    "body of a table": ("", "text/csv"),
}


def files(size: int) -> Iterator[tuple[str, str, str, bytes]]:
    """Bodies of POST /jobs: a name, the query, the content type and the body."""
    for kind, (query, content_type) in KINDS.items():
        for name, make in FILES.items():
            yield f"{kind}: {name}", query, content_type, make(size)


def zipped(size: int) -> tuple[bytes, str, int]:
    """A body of POST /jobs whose content has so many bytes, its content type, and that number."""
    return gzip.compress(b"\n" * size + b"a"), "", size


def forms(size: int) -> Iterator[tuple[str, bytes]]:
    """Bodies of POST /v1/files."""
    for name, make in FILES.items():
        yield name, _FORM + make(size) + b"\r\n--B--\r\n"
    yield "many parts", _FORM.replace(b"purpose", b"p") * max(size // len(_FORM), 1)
    yield (
        "two forms of a name",
        b"--B\r\nContent-Disposition: form-data; name*=x; name*1=y\r\n\r\n\r\n--B--\r\n",
    )
    yield "quotes of a header", b'--B\r\nContent-Disposition: form-data; name="' + b";" * 8000 + b"\r\n\r\n"
