"""Decompresses bodies (gzip, deflate, zstd), up to the size that a body may have anyway."""

from __future__ import annotations

import zlib
from importlib.util import find_spec

from api.asgi.http import CLOSE, RequestHeaders, too_large
from api.errors import Problem, invalid_body

ENCODINGS = (b"gzip", b"deflate", *((b"zstd",) if find_spec("zstandard") else ()))
# The most memory that a body in zstd may ask for; clients' usual levels need up to 8 MiB.
MAX_WINDOW = 8 * 1024**2


def encoding_of(headers: RequestHeaders) -> bytes:
    """The Content-Encoding of a body; empty if it is not compressed. Raises Problem 415 for another one."""
    encoding = headers.by_name.get(b"content-encoding", b"").strip().lower().removeprefix(b"x-")
    if encoding in (b"", b"identity"):
        return b""
    if encoding not in ENCODINGS:
        accepted = b", ".join(ENCODINGS)
        detail = f"Content-Encoding must be one of {accepted.decode()}, or left out"
        raise Problem(415, detail, headers=(CLOSE, (b"accept-encoding", accepted)))
    return encoding


def decompressed(encoding: bytes, body: bytes, limit: int) -> bytes:
    """The body without its encoding, as `encoding_of` says it.

    Raises Problem 413 as soon as it is larger than `limit` bytes, and 422 for broken data.
    """
    if not encoding:
        return body
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
