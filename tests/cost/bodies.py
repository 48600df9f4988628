"""Bodies that cost the most of their size: repeats, widths, depths, one long record, many short ones."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

_PLACE = "@here@"
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
        yield "one field often", b"{" + b",".join([b'"text":"a"'] * (size // 11)) + b"}"
    elif isinstance(value, str):
        yield "a long text", b'"' + b"x" * size + b'"'
        yield "escapes", b'"' + rb"\u0000" * (size // 6) + b'"'
        yield "halves of pairs", b'"' + rb"\ud83d" * (size // 6) + b'"'
        yield "wide characters", b'"' + "\N{GRINNING FACE}".encode() * (size // 4) + b'"'
    yield "digits", b"9" * size
    yield "digits of a fraction", b"0." + b"9" * size
    yield "numbers with exponents", b"[" + b",".join([b"1e999"] * (size // 6)) + b"]"
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


# What an example of the Open Inference Protocol may also be: binary data behind its JSON, and compressed.
def binary_bodies(size: int) -> Iterator[tuple[str, bytes, int]]:
    """A name, the body, and the length of its JSON."""
    long = min(size, 19_000)
    for name, element in (("empty texts", b""), ("short texts", b"abc"), ("long texts", b"x" * long)):
        data = (struct.pack("<I", len(element)) + element) * max(size // (len(element) + 4), 1)
        count = len(data) // (len(element) + 4)
        given = {"name": "t", "shape": [count], "datatype": "BYTES"}
        head = _dumps({**_OIP, "inputs": [given | {"parameters": {"binary_data_size": len(data)}}]})
        yield f"binary: {name}", head + data, len(head)
    yield "binary: a length of 4 GiB", _dumps(_OIP) + b"\xff" * size, len(_dumps(_OIP))


def compressed_bodies(base: Any, size: int) -> Iterator[tuple[str, bytes]]:
    """Bodies in gzip whose content is eight times as large."""
    for name, content in json_bodies(base, 8 * size):
        if name.endswith(("repeats", "a long text", "unknown fields")):
            yield f"gzip: {name}", gzip.compress(content, 1)
    yield "gzip: spaces", gzip.compress(b" " * 8 * size)
    yield "gzip: empty members", gzip.compress(b"") * (size // 20)
