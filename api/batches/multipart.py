"""Reads multipart/form-data (RFC 7578) while it arrives: short fields, and the content of files in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser

from api.errors import Problem, invalid_body

# The number of parts, and the bytes of the headers of a part or of a field.
MAX_PARTS = 32
MAX_BYTES = 8 * 1024
# RFC 2046 allows 70 characters.
MAX_BOUNDARY = 70
# The encodings that a parameter such as filename*=UTF-8''b%C3%BCcher may have. Others are
# refused: some codecs of Python fail in unusual ways, or take more than linear time.
CHARSETS = frozenset(("utf-8", "us-ascii", "iso-8859-1"))
DISPOSITION = "content-disposition"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form. The unread rest of `content` is skipped when the next part is read."""

    name: str
    filename: str | None
    content: Iterator[bytes]

    def value(self) -> str:
        """The content of a short field. Raises Problem 422."""
        found = bytearray()
        for block in self.content:
            found += block
            if len(found) > MAX_BYTES:
                raise malformed(f"a field is longer than {MAX_BYTES} bytes")
        return found.decode("utf-8", "replace")


def boundary_of(content_type: str) -> bytes:
    """The boundary in a content type. Raises Problem 415."""
    message = Message()
    message["content-type"] = content_type
    try:
        boundary = (_parameter(message, "boundary", "content-type") or "").rstrip()
    except (ValueError, TypeError):
        boundary = ""
    if message.get_content_type() != "multipart/form-data" or not 0 < len(boundary) <= MAX_BOUNDARY:
        raise Problem(415, "the body must be multipart/form-data with a boundary")
    return boundary.encode()


def _parameter(headers: Message, name: str, header: str) -> str | None:
    """A parameter of a header. In an encoding that is not known, it stays as it is. Raises ValueError."""
    found = headers.get_param(name, header=header)
    if not isinstance(found, tuple):
        return found
    charset, _, text = found
    if (charset or "").lower() not in CHARSETS:
        return text
    return text.encode("raw-unicode-escape").decode(charset or "", "replace")


def malformed(why: str) -> Problem:
    return invalid_body("form_invalid", why)


class FormReader:
    """The parts of a form. Holds a block of its body at a time."""

    def __init__(self, blocks: Iterator[bytes], boundary: bytes) -> None:
        self._blocks = blocks
        self._delimiter = b"\r\n--" + boundary
        # A delimiter follows a line end, so the first one needs one as well.
        self._held = bytearray(b"\r\n")

    def parts(self) -> Iterator[Part]:
        """Yields the parts in order. Raises Problem 422 for a malformed form."""
        content = self._content()
        for _ in range(MAX_PARTS + 1):
            for _ in content:
                pass
            if self._until(b"\r\n", ends=b"--").startswith(b"--"):
                for _ in self._blocks:  # what follows has no meaning
                    pass
                return
            # Browsers and clients send names of files as UTF-8.
            headers = HeaderParser().parsestr(self._until(b"\r\n\r\n").decode("utf-8", "replace"))
            try:
                name, filename = (_parameter(headers, key, DISPOSITION) for key in ("name", "filename"))
            # Such as a number with thousands of digits (name*1=), or two forms of a parameter.
            except (ValueError, TypeError):
                raise malformed("the Content-Disposition of a part cannot be read") from None
            if name is None:
                raise malformed("a part of the form has no name")
            content = self._content()
            yield Part(name, filename, content)
        raise malformed(f"the form has more than {MAX_PARTS} parts")

    def _content(self) -> Iterator[bytes]:
        """Yields what comes before the next delimiter, and removes the delimiter."""
        keep = len(self._delimiter) - 1
        while (at := self._held.find(self._delimiter)) < 0:
            if len(self._held) > keep:
                block = bytes(self._held[:-keep])
                del self._held[:-keep]
                yield block
            self._fill()
        block = bytes(self._held[:at])
        del self._held[: at + len(self._delimiter)]
        yield block

    def _until(self, end: bytes, ends: bytes | None = None) -> bytes:
        """Removes `end` and returns what is before it; returns `ends` if that comes first."""
        most = MAX_BYTES + len(end)
        while (at := self._held.find(end, 0, most)) < 0:
            if ends is not None and self._held.startswith(ends):
                return ends
            if len(self._held) >= most:
                raise malformed(f"the headers of a part are longer than {MAX_BYTES} bytes")
            self._fill()
        found = bytes(self._held[:at])
        del self._held[: at + len(end)]
        return found

    def _fill(self) -> None:
        block = next(self._blocks, None)
        if block is None:
            raise malformed("the form ends before its last boundary")
        self._held += block
