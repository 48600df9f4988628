"""Decompresses bodies (gzip, deflate, zstd) block by block, whatever they become."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any

from api.errors import invalid_body
from text_files.decoding import members, zstd_frames

ENCODINGS = (b"gzip", b"deflate", *((b"zstd",) if find_spec("zstandard") else ()))


def unpacked(encoding: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields what blocks in one of ENCODINGS contain, up to 2 MiB at a time.

    Members of gzip and frames of zstd may follow each other. Raises Problem 422 for broken data.
    """
    try:
        yield from zstd_frames(blocks) if encoding == b"zstd" else members(blocks, _decoder, 1024)
    except EOFError:
        detail = f"the body ends before the end of its {encoding.decode()}"
        raise invalid_body("encoding", detail) from None
    except (zlib.error, ValueError):
        raise invalid_body("encoding", f"the body is not valid {encoding.decode()}") from None


def _decoder(packed: bytes) -> Any:
    """That of gzip or zlib by their first bytes, else deflate without a header, as some clients send it."""
    raw = packed[0] & 0x0F != 8 and not packed.startswith(b"\x1f")
    return zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
