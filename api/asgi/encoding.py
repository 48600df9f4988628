"""Decompresses bodies (gzip, deflate, zstd) block by block, whatever they become."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import NamedTuple, Protocol

from api.errors import invalid_body
from text_files.decoding import MAX_WINDOW

ENCODINGS = (b"gzip", b"deflate", *((b"zstd",) if find_spec("zstandard") else ()))


class _Reader(Protocol):
    """Decompresses one member of gzip or one frame of zstd; `unused_data` is what follows its end."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


class _Format(NamedTuple):
    """`begin` makes the reader of what begins with these bytes. `packed_bytes` become at most 2 MiB."""

    begin: Callable[[bytes], _Reader]
    packed_bytes: int
    error: type[Exception]


def unpacked(encoding: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields what blocks in one of ENCODINGS contain, up to 2 MiB at a time.

    Members of gzip and frames of zstd may follow each other. Raises Problem 422 for broken data.
    """
    form = _format(encoding)
    reader: _Reader | None = None
    try:
        for block in blocks:
            for at in range(0, len(block), form.packed_bytes):
                packed = block[at : at + form.packed_bytes]
                while packed:
                    reader = reader or form.begin(packed)
                    if content := reader.decompress(packed):
                        yield content
                    packed, reader = (reader.unused_data, None) if reader.eof else (b"", reader)
    except form.error:
        raise invalid_body("encoding", f"the body is not valid {encoding.decode()}") from None
    if reader is not None:
        raise invalid_body("encoding", f"the body ends before the end of its {encoding.decode()}")


def _format(encoding: bytes) -> _Format:
    if encoding == b"zstd":
        import zstandard  # 20 ms, and few clients need it

        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        # A block of zstd may have 4 bytes, and become 128 KiB.
        return _Format(lambda _: decompressor.decompressobj(), 64, zstandard.ZstdError)
    return _Format(lambda packed: zlib.decompressobj(_wbits(packed)), 1024, zlib.error)


def _wbits(packed: bytes) -> int:
    """gzip or zlib by their first bytes, else deflate without a header, as some clients send it."""
    raw = packed[0] & 0x0F != 8 and not packed.startswith(b"\x1f")
    return -zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32
