"""Bodies that cost the most of their size: repeats, widths, depths, one long record, many short ones."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import zstandard

Write = Callable[[int], bytes]
Chosen = Callable[[str], bool]
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
    "/models/{model:model}": {"inputs": _TEXTS},
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
    "/v1/models/{model:model}:predict": {"instances": _TEXTS},
    "/v1/moderations": {"input": _TEXTS, "model": "stub"},
    "/v2/models/{model:model}/infer": _OIP,
    "/v2/models/{model:model}/versions/{version}/infer": _OIP,
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


def json_bodies(base: Any, size: int, wanted: Chosen = bool) -> Iterator[tuple[str, bytes]]:
    """Bodies of about `size` bytes: instead of each value of `base`, what its schema may and may not have."""
    for name, write in _WHOLE.items():
        if wanted(name):
            yield name, write(base, size)
    for path, value in _places(base):
        around = _dumps(_with(base, path, _PLACE)).split(_dumps(_PLACE))
        for kind, write in _values(value).items():
            name = f"{'.'.join(map(str, path)) or 'the body'}: {kind}"
            if wanted(name):
                yield name, write(size).join(around)


_WHOLE: Mapping[str, Callable[[Any, int], bytes]] = {
    "the field twice": lambda base, size: _often(_dumps(base)[1:-1], size, b"{}"),
    "unknown fields": lambda base, size: _dumps({**base, **{f"{n:x}": 0 for n in range(size // 10)}}),
    "an unknown field": lambda base, size: _dumps({**base, "u" * size: 0}),
    "a long unknown value": lambda base, size: _dumps({**base, "unknown": "x" * size}),
}
_ANY: Mapping[str, Write] = {
    "digits": lambda size: b"9" * size,
    "digits of a fraction": lambda size: b"0." + b"9" * size,
    "numbers with exponents": lambda size: _often(b"1e999", size),
    "depth": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "nested fields": lambda size: b'{"a":' * (size // 6) + b"0" + b"}" * (size // 6),
}
_TEXT: Mapping[str, Write] = {
    "a long text": lambda size: b'"' + b"x" * size + b'"',
    "escaped letters": lambda size: b'"' + rb"\u0061" * (size // 6) + b'"',
    "escapes": lambda size: b'"' + rb"\u0000" * (size // 6) + b'"',
    "halves of pairs": lambda size: b'"' + rb"\ud83d" * (size // 6) + b'"',
    "wide characters": lambda size: b'"' + "\N{GRINNING FACE}".encode() * (size // 4) + b'"',
}
_LIST: Mapping[str, Write] = {
    "empty texts": lambda size: _often(b'""', size),
    "short texts": lambda size: _dumps([str(number) for number in range(size // 8)]),
    "long texts": lambda size: _dumps(
        [f"{number} {'x' * min(size, 19_000)}" for number in range(max(size // 19_000, 1))]
    ),
    "empty lists": lambda size: _often(b"[]", size),
}
_OBJECT: Mapping[str, Write] = {
    "many fields": lambda size: _dumps({f"u{number}": None for number in range(size // 12)}),
    "one field often": lambda size: _often(b'"text":"a"', size, b"{}"),
}


def _values(value: Any) -> Mapping[str, Write]:
    """JSON of about so many bytes in place of a value."""
    if isinstance(value, list):
        one = _dumps(value[0])
        repeats: Mapping[str, Write] = {
            "repeats": lambda size: _often(one, size),
            # As many as one request may have.
            "a thousand": lambda size: _often(one, min(size, 1000 * (len(one) + 1))),
        }
        return {**repeats, **_LIST, **_ANY}
    kinds = _OBJECT if isinstance(value, dict) else _TEXT if isinstance(value, str) else {}
    return {**kinds, **_ANY}


def _often(part: bytes, size: int, around: bytes = b"[]") -> bytes:
    return around[:1] + b",".join([part] * max(size // (len(part) + 1), 2)) + around[1:]


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


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def binary_bodies(size: int) -> Iterator[tuple[str, bytes, int]]:
    """Binary data behind the JSON of OIP: a name, the body, and the length of its JSON."""
    long = min(size, 19_000)
    for name, element in (("empty texts", b""), ("short texts", b"abc"), ("long texts", b"x" * long)):
        data = (struct.pack("<I", len(element)) + element) * max(size // (len(element) + 4), 1)
        count = len(data) // (len(element) + 4)
        given = {"name": "t", "shape": [count], "datatype": "BYTES"}
        head = _dumps({**_OIP, "inputs": [given | {"parameters": {"binary_data_size": len(data)}}]})
        yield f"binary: {name}", head + data, len(head)
    yield "binary: a length of 4 GiB", _dumps(_OIP) + b"\xff" * size, len(_dumps(_OIP))


_COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, compresslevel=1),
    "deflate": partial(zlib.compress, level=1),
    "zstd": zstandard.compress,
}
MAX_SPACES = 64 * 1024**2


class Compressed(NamedTuple):
    """A body with a Content-Encoding. `content` is the size that it may cost as, if not its own."""

    name: str
    encoding: str
    body: bytes
    content: int = 0


def compressed_bodies(base: Any, size: int, wanted: Chosen = bool) -> Iterator[Compressed]:
    """Compressed bodies whose content is eight times as large, or more than a body may have."""
    large = ("repeats", "a long text", "unknown fields")
    contents = json_bodies(base, 8 * size, lambda name: name.endswith(large) and wanted(f"gzip: {name}"))
    for name, content in contents:
        yield Compressed(f"gzip: {name}", "gzip", gzip.compress(content, 1), 8 * size)
    for encoding in _COMPRESS:
        if wanted(name := f"{encoding}: spaces"):
            yield Compressed(name, encoding, spaces(encoding, 8 * size), 8 * size)
        if wanted(name := f"{encoding}: more than a body may have"):
            yield Compressed(name, encoding, spaces(encoding, min(1000 * size, MAX_SPACES)))
    if wanted(name := "gzip: empty members"):
        yield Compressed(name, "gzip", gzip.compress(b"") * (size // 20), 8 * size)
    for encoding in ("gzip", "gzip, gzip"):
        if wanted(name := f"{encoding}: layers"):
            layers = gzip.compress(spaces("gzip", min(1000 * size, MAX_SPACES)))
            yield Compressed(name, encoding, layers)


@lru_cache(16)
def spaces(encoding: str, size: int) -> bytes:
    """So many spaces, compressed."""
    return _COMPRESS[encoding](b" " * size)


def in_chunks_of_a_byte(body: bytes) -> bytes:
    """A body in the chunked coding, which makes six bytes of each."""
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
