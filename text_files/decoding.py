"""From the bytes of a file to its lines: gzip, zstd, encodings, line ends. No I/O."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from os import PathLike, fsencode
from typing import Any, Literal

from text_files.errors import BadFile, EndsEarly, OtherEncoding

# The longest CSV record and field in characters. It also limits the lines of NDJSON and the strings of JSON.
MAX_FIELD = 1024 * 1024
# How many bytes of a file, after decompression, are looked at to find its format.
HEAD_BYTES = 64 * 1024
Compression = Literal["", "gzip", "zstd"]
# What compressed files begin with, and the frames without content with which pzstd begins.
MAGIC: dict[Compression, bytes] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_skippable = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18").match
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


def readable(name: str | PathLike[str]) -> str:
    """The name of a file, as a message or a report in UTF-8 can have it."""
    return fsencode(name).decode("utf-8", "backslashreplace")


def compression_of(head: bytes) -> Compression:
    """How a file that begins with `head` is compressed."""
    if _skippable(head):
        return "zstd"
    return next((name for name, magic in MAGIC.items() if head.startswith(magic)), "")


def unpacked_head(head: bytes, compression: Compression) -> bytes:
    """The first HEAD_BYTES of what the beginning of a compressed file contains."""
    content = b""
    try:
        for part in unpacked([head], compression):
            content += part
            if len(content) >= HEAD_BYTES:
                break
    except BadFile as error:  # the beginning alone ends too early
        if not content and isinstance(error, EndsEarly) and len(head) >= HEAD_BYTES:
            found = f"the first {HEAD_BYTES} bytes of the {compression} file are only headers, such as a name"
            raise BadFile(f"{compression}_invalid", f"{found}: compress it again") from None
        if not content:
            raise
    if compression_of(content):
        raise BadFile("not_text", "not a text file: it is compressed twice")
    return content[:HEAD_BYTES]


def unpacked(blocks: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """Decompresses block by block, also several members or frames. Raises BadFile for a damaged file."""
    try:
        if compression == "zstd":
            yield from zstd_frames(blocks)
        else:  # there may be zeros behind a member
            yield from members(blocks, _gzip, 16 * 1024, HEAD_BYTES, padding=b"\0")
    except EOFError:
        raise EndsEarly(f"{compression}_invalid", f"the {compression} file ends too early") from None
    except zlib.error:
        raise BadFile("gzip_invalid", "damaged gzip file") from None
    except ValueError as error:
        large = f"a zstd file that needs more than {MAX_WINDOW} bytes of memory to be read"
        again = f"{large}: compress it again, without --long or --ultra"
        raise BadFile("zstd_invalid", again if "memory" in str(error) else "damaged zstd file") from None


def _gzip(_: bytes) -> Any:
    return zlib.decompressobj(wbits=31)


def zstd_frames(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """What frames of zstd contain. Raises EOFError if the last is cut off, and ValueError for broken data."""
    import zstandard  # 20 ms, and few files and bodies need it

    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
    try:
        # A block of zstd may have 4 bytes, and become 128 KiB.
        yield from members(blocks, lambda _: decompressor.decompressobj(), 64)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def members(
    blocks: Iterable[bytes], begin: Callable[[bytes], Any], most: int, *limit: int, padding: bytes = b""
) -> Iterator[bytes]:
    """What members or frames contain that follow each other, from blocks of any size.

    `begin` makes the decoder of what begins with these bytes. It gets `most` of them at once, because it
    copies what is behind a member, which may have 21 bytes; zlib's gives at most `limit` back. There may be
    `padding` between members. Raises EOFError if the last one is cut off, and what the decoder raises.
    """
    decoder: Any = None
    for rest in (block[at : at + most] for block in blocks for at in range(0, len(block), most)):
        while rest := rest.lstrip(padding) if decoder is None else rest:
            decoder = decoder or begin(rest)
            if content := decoder.decompress(rest, *limit):
                yield content
            rest, decoder = (decoder.unused_data, None) if decoder.eof else (decoder.unconsumed_tail, decoder)
    if decoder is not None:
        yield decoder.flush()
        if not decoder.eof:
            raise EOFError


def decoded(blocks: Iterable[bytes], encoding: str, end: str = "\n") -> Iterator[str]:
    """The characters without a byte order mark. Raises BadFile for bytes that are none, and for NUL.

    It names the line, of those that have this `end`.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
    line, begun = 1, encoding in ("utf-8", "utf-16", "utf-32")  # these decoders remove the byte order mark
    for block, final in chain(((block, False) for block in blocks), [(b"", True)]):
        try:
            text = decoder.decode(block, final)
        except UnicodeDecodeError as error:
            kept = len(error.object) - len(block)  # of earlier blocks, less than a character
            line += decoder.decode(block[: max(error.start - kept, 0)]).count(end)
            raise OtherEncoding("string_unicode", f"not valid {encoding.upper()}", line=line) from None
        if text and not begun:
            text = text.removeprefix(MARK)
            begun = True
        if (at := text.find("\0")) >= 0:
            raise BadFile("not_text", NUL, line=line + text.count(end, 0, at))
        line += text.count(end)
        yield text


def _check_length(line: str, number: int) -> None:
    if len(line) > MAX_FIELD:
        raise BadFile("string_too_long", f"longer than {MAX_FIELD} characters", line=number)


def filled_lines(parts: Iterable[str], end: str = "\n") -> Iterator[tuple[int, str]]:
    """Numbers and lines as of `split_lines`, without blank ones, of which megabytes cost milliseconds."""
    number, rest = 1, ""
    for text in parts:
        at = 0
        while stop := text.find(end, at) + 1:
            line = rest + text[at:stop]
            at, rest = stop, ""
            _check_length(line, number)
            if line.isspace():
                found = _filled(text, at)
                at = max(text.rfind(end, at, found.start() if found else len(text)) + 1, at)
                number += text.count(end, stop, at)
            else:
                yield number, line
            number += 1
        rest += text[at:]
        _check_length(rest, number)
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
        _check_length(rest, number)
    if rest:
        yield rest
