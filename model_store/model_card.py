"""What the card of a model says beside its figures: the example texts that the hub offers to try it with."""

from __future__ import annotations

import json
import re
from pathlib import Path

CARD = "README.md"
# Most examples, and characters of one.
MAX_EXAMPLES = 5
MAX_CHARS = 300
_WIDGET = re.compile(r"^widget:[ \t]*\n((?:[ \t-].*\n)*)", re.MULTILINE)
# One line; another key, another example or the end follows it.
_TEXT = re.compile(r"^[ \t-]*text:[ \t]*(\S.*)\n(?=[ \t]*(?:-[ \t]|\w+:)|\Z)", re.MULTILINE)


def examples(source: Path) -> tuple[str, ...]:
    """Texts of `widget` in the front matter of the card. What is not one short line is left out."""
    try:
        card = (source / CARD).read_text("utf-8-sig")
    except (OSError, ValueError):
        return ()
    front = card.partition("\n---")[0] + "\n" if card.startswith("---\n") else ""
    found = _WIDGET.search(front)
    texts = [_scalar(raw.rstrip()) for raw in _TEXT.findall(found[1])] if found else []
    return tuple(text for text in texts if len(text) <= MAX_CHARS and _is_line(text))[:MAX_EXAMPLES]


def _is_line(text: str) -> bool:
    """Whether a text is one line, and UTF-8 can encode it: half of a surrogate pair it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return text.splitlines() == [text] and "\0" not in text and not text.isspace()


def _scalar(raw: str) -> str:
    """A string of YAML on one line; "" if it is written in a way that needs a parser of YAML."""
    if raw[0] == '"':
        try:
            return str(json.loads(raw))
        except ValueError:
            return ""
    if raw[0] == "'":
        return raw[1:-1].replace("''", "'") if re.fullmatch("'(?:[^']|'')*'", raw) else ""
    return "" if raw[0] in "|>&*!{[%@`#" or re.search(": | #", raw) else raw
