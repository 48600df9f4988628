"""Decompresses bodies (gzip, deflate, zstd), up to the size that a body may have anyway."""

from __future__ import annotations

import zlib
from importlib.util import find_spec

from api.asgi.http import too_large
from api.errors import invalid_body
from text_files.decoding import MAX_WINDOW

ENCODINGS = (b"gzip", b"deflate", *((b"zstd",) if find_spec("zstandard") else ()))


def decompressed(encoding: bytes, body: bytes, limit: int) -> bytes:
    """The body without its encoding, which is one of ENCODINGS.

    Raises Problem 413 as soon as it is larger than `limit` bytes, and 422 for broken data.
    """
    try:
        content = _unzstd(body, limit + 1) if encoding == b"zstd" else _unzip(body, limit + 1)
    except (zlib.error, EOFError):
        raise invalid_body("encoding", f"the body is not valid {encoding.decode()}") from None
    if len(content) > limit:
        raise too_large(limit)
    return content


def _unzip(body: bytes, most: int) -> bytes:
    """gzip, or either format of deflate. Raises EOFError for data that ends early, or that more follows."""
    raw = bool(body) and body[0] & 0x0F != 8 and not body.startswith(b"\x1f\x8b")
    reader = zlib.decompressobj(wbits=-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
    content = reader.decompress(body, most)
    if len(content) < most and (not reader.eof or reader.unused_data):
        raise EOFError
    return content


def _unzstd(body: bytes, most: int) -> bytes:
    """As `_unzip`, except that data which ends early is returned as far as it goes."""
    import zstandard  # 20 ms, and few clients need it

    reader = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    try:
        return reader.stream_reader(body, read_across_frames=True).read(most)
    except zstandard.ZstdError as error:
        raise EOFError from error
