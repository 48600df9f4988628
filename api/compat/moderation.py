"""A model's labels as OpenAI's categories, for /v1/moderations and for batches of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from api.compat.reading import refused
from api.settings import ApiSettings

# The categories that OpenAI's clients expect in every result.
CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
# What a result has in JSON for each category, beside its name in three places.
_BYTES_OF_CATEGORY = 48
_NOT_FLAGGED = dict.fromkeys(CATEGORIES, False)
_NO_SCORES = dict.fromkeys(CATEGORIES, 0.0)
_TEXT = {name: ["text"] for name in CATEGORIES}
_name_of_openai = re.compile(r"(?:omni|text)-moderation-[\w.-]+", re.ASCII).fullmatch


def is_name_of_openai(name: str | None) -> bool:
    """Whether OpenAI has a model for moderations of this name. Here it stands for the first one."""
    return bool(name and _name_of_openai(name))


class Moderation:
    """Writes results of moderations from a model's scores."""

    def __init__(self, settings: ApiSettings) -> None:
        self._given = settings.moderation_labels
        self._threshold = settings.moderation_threshold

    def categories(self, labels: Iterable[str]) -> Mapping[str, str]:
        """The category of each label that has one. Raises Problem 400 if none has."""
        known = list(labels)
        found = {label: name for label in known if (name := self._given.get(label) or self._plain(label))}
        if not found:
            detail = (
                f"the labels of this model are not categories of moderation ({', '.join(known[:16])}); "
                "MILLRACE_MODERATION_LABELS maps them"
            )
            raise refused(detail)
        return found

    def result(self, scores: Iterable[tuple[str, float]], categories: Mapping[str, str]) -> dict[str, Any]:
        """One result. Of several labels with the same category, the highest score counts."""
        given: dict[str, float] = {}
        for label, score in scores:
            if (name := categories.get(label)) is not None:
                given[name] = max(score, given.get(name, 0.0))
        flags = {name: score >= self._threshold for name, score in given.items()}
        return {
            "flagged": True in flags.values(),
            "categories": _NOT_FLAGGED | flags,
            "category_scores": _NO_SCORES | given,
            "category_applied_input_types": _TEXT | {name: ["text"] for name in given},
        }

    def result_bytes(self, categories: Mapping[str, str]) -> int:
        """About how many bytes a result has in JSON."""
        names = {*CATEGORIES, *categories.values()}
        return sum([3 * len(name) + _BYTES_OF_CATEGORY for name in names])

    def _plain(self, label: str) -> str:
        """A label that is the name of a category (self_harm is self-harm), unless the settings map labels."""
        plain = "" if self._given else re.sub(r"[_\s]", "-", label.lower())
        return plain if plain in CATEGORIES else ""
