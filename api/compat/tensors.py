"""Tensors of the Open Inference Protocol: as JSON, and as binary data behind the JSON of a body."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from api.asgi.http import MAX_DIGITS, RequestHeaders
from api.asgi.json_reader import NOT_UTF8, is_unicode
from api.compat.reading import invalid_text
from api.errors import invalid_body

HEADER_LENGTH = b"inference-header-content-length"
_length = struct.Struct("<I")


def split(headers: RequestHeaders, body: bytes) -> tuple[bytes, bytes]:
    """The JSON of a body, and the binary data behind it. Raises Problem 422."""
    given = headers.by_name.get(HEADER_LENGTH)
    if given is None:
        return body, b""
    if not given.isdigit() or len(given) > MAX_DIGITS or int(given) > len(body):
        raise invalid_body("header_length", "Inference-Header-Content-Length is not the length of the JSON")
    return body[: int(given)], body[int(given) :]


def as_element(data: bytes) -> bytes:
    """The binary data of type BYTES whose only element is `data`."""
    return _length.pack(len(data)) + data


def strings_of(data: bytes, name: str) -> list[str]:
    """The elements of binary data of type BYTES: each is its length in four bytes, then UTF-8.

    Raises Problem 422.
    """
    texts: list[str] = []
    start = 0
    while start < len(data):
        begin = start + _length.size
        size = _length.unpack_from(data, start)[0] if begin <= len(data) else 0
        start = begin + size
        if start > len(data):
            raise invalid_body("tensor", "the binary data ends within an element", name)
        text = data[begin:start].decode("utf-8", "surrogateescape")
        if not is_unicode(text):
            raise invalid_text("string_unicode", NOT_UTF8, name, len(texts))
        texts.append(text)
    return texts


def flat(data: Any) -> Iterable[Any]:
    """The elements of nested lists in row-major order, two levels deep."""
    for part in data:
        if isinstance(part, list):
            yield from part
        else:
            yield part


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output. `data` holds floats (FP32) or strings (BYTES) in row-major order."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Sequence[float] | Sequence[str]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "shape": self.shape, "datatype": self.datatype, "data": self.data}

    def as_binary(self) -> tuple[dict[str, Any], bytes]:
        """The description of the tensor, and its data."""
        if self.datatype == "FP32":
            data = struct.pack(f"<{len(self.data)}f", *self.data)
        else:
            encoded = [str(value).encode() for value in self.data]
            data = b"".join([_length.pack(len(value)) + value for value in encoded])
        described = self.as_json() | {"parameters": {"binary_data_size": len(data)}}
        del described["data"]
        return described, data
