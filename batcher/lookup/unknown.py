"""Refuses the texts of which a model does not know more than half of the pieces, where this is set."""

from __future__ import annotations

from batcher.errors import TextUnknown
from batcher.lookup.queue import LookupResult

ADVICE = (
    "the model does not know more than half of the pieces of the text, which may be of another language: "
    "send it to a model for that language"
)


def refuse_unknown(answer: LookupResult) -> None:
    """Turns the results of such texts into errors."""
    for text in [text for text, result in answer.by_text.items() if result.foreign]:
        del answer.by_text[text]
        answer.computed.pop(text, None)
        answer.failed[text] = TextUnknown(ADVICE)
