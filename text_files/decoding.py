"""From the bytes of a file to its lines: gzip, zstd, encodings, line ends. No I/O."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Literal

from text_files.errors import BadFile

# The longest CSV record and field in characters. It also limits the lines of NDJSON and the strings of JSON.
MAX_FIELD = 1024 * 1024
# How many bytes of a file, after decompression, are looked at to find its format.
HEAD_BYTES = 64 * 1024
Compression = Literal["", "gzip", "zstd"]
# What compressed files begin with.
MAGIC: dict[Compression, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
# Compressed bytes that are given to the decoder at once. That of zstd makes up to 32 KiB of each.
PACKED_BYTES: dict[Compression, int] = {"gzip": 16 * 1024, "zstd": 256}
# The most memory that a file or a body in zstd may ask for; levels up to 19 need 8 MiB.
MAX_WINDOW = 8 * 1024**2
# The byte order mark, once it is decoded.
MARK = "\ufeff"
_filled = re.compile(r"\S").search
HALF_PAIR = "not valid Unicode: unpaired surrogate"
NUL = "a NUL character, so this is not a text file"


def is_unicode(text: str) -> bool:
    """Whether `text` has no lone surrogate. Invalid UTF-8 and unpaired \\u escapes decode to surrogates."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def compression_of(head: bytes) -> Compression:
    """How a file that begins with `head` is compressed."""
    return next((name for name, magic in MAGIC.items() if head.startswith(magic)), "")


def unpacked_head(head: bytes, compression: Compression) -> bytes:
    """The first HEAD_BYTES of what the beginning of a compressed file contains."""
    content = b""
    try:
        for part in unpacked([head], compression):
            content += part
            if len(content) >= HEAD_BYTES:
                break
    except BadFile:  # the beginning alone ends too early
        if not content:
            raise
    if compression_of(content):
        raise BadFile("not_text", "not a text file: it is compressed twice")
    return content[:HEAD_BYTES]


def unpacked(blocks: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """Decompresses block by block, also several members or frames. Raises BadFile for a damaged file."""
    parts = _split(blocks, PACKED_BYTES[compression])
    return _unzipped(parts) if compression == "gzip" else _unzstd(parts)


def _unzipped(parts: Iterable[bytes]) -> Iterator[bytes]:
    """In parts of at most HEAD_BYTES. There may be zeros behind a member."""
    decoder = zlib.decompressobj(wbits=31)
    try:
        for rest in parts:
            while rest := rest.lstrip(b"\0") if decoder.eof else rest:
                if decoder.eof:
                    decoder = zlib.decompressobj(wbits=31)
                yield decoder.decompress(rest, HEAD_BYTES)
                rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
        yield decoder.flush()
    except zlib.error:
        raise BadFile("gzip_invalid", "damaged gzip file") from None
    if not decoder.eof:
        raise BadFile("gzip_invalid", "the gzip file ends too early")


def _unzstd(parts: Iterable[bytes]) -> Iterator[bytes]:
    import zstandard  # 20 ms, and few files need it

    frames = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    decoder = frames.decompressobj()
    try:
        for rest in parts:
            while rest:
                if decoder.eof:
                    decoder = frames.decompressobj()
                yield decoder.decompress(rest)
                rest = decoder.unused_data if decoder.eof else b""
    except zstandard.ZstdError as error:
        large = f"a zstd file that needs more than {MAX_WINDOW} bytes of memory to be read"
        again = f"{large}: compress it again, without --long or --ultra"
        raise BadFile("zstd_invalid", again if "memory" in str(error) else "damaged zstd file") from None
    if not decoder.eof:
        raise BadFile("zstd_invalid", "the zstd file ends too early")


def _split(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The decoder of gzip copies what is behind a member, which may have 21 bytes."""
    for block in blocks:
        yield from (block[at : at + size] for at in range(0, len(block), size))


def decoded(blocks: Iterable[bytes], encoding: str) -> Iterator[str]:
    """The characters without a byte order mark. Raises BadFile for bytes that are none, and for NUL."""
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    line, begun = 1, encoding in ("utf-8", "utf-16")  # these decoders remove the byte order mark
    for block, final in chain(((block, False) for block in blocks), [(b"", True)]):
        try:
            text = decoder.decode(block, final)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            raise BadFile("string_unicode", f"not valid {encoding.upper()}", line=line) from None
        if text and not begun:
            text = text.removeprefix(MARK)
            begun = True
        if (at := text.find("\0")) >= 0:
            raise BadFile("not_text", NUL, line=line + text.count("\n", 0, at))
        line += text.count("\n")
        yield text


def filled_lines(parts: Iterable[str], end: str = "\n") -> Iterator[tuple[int, str]]:
    """Numbers and lines as of `split_lines`, without blank ones, of which megabytes cost milliseconds."""
    number, rest = 1, ""
    for text in parts:
        at = 0
        while stop := text.find(end, at) + 1:
            line = rest + text[at:stop]
            at, rest = stop, ""
            if line.isspace():
                found = _filled(text, at)
                at = max(text.rfind(end, at, found.start() if found else len(text)) + 1, at)
                number += text.count(end, stop, at)
            else:
                yield number, line
            number += 1
        rest += text[at:]
        if len(rest) > MAX_FIELD:
            raise BadFile("string_too_long", f"longer than {MAX_FIELD} characters", line=number)
    if rest and not rest.isspace():
        yield number, rest


def split_lines(parts: Iterable[str], end: str = "\n") -> Iterator[str]:
    """Splits at `end` only, and keeps it: a carriage return may be part of a CSV field."""
    number = 1
    rest = ""
    for text in parts:
        *lines, tail = text.split(end)
        for line in lines:
            yield f"{rest}{line}{end}"
            number += 1
            rest = ""
        rest += tail
        if len(rest) > MAX_FIELD:
            raise BadFile("string_too_long", f"longer than {MAX_FIELD} characters", line=number)
    if rest:
        yield rest
