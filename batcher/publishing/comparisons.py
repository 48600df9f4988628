"""Counts how a shadow's answers differ from those of the revision that answers. Never keeps a text.

A text counts once each time that the revision that answers has computed it. Scores are compared as in
answers, in steps of SCORE_STEP, and every sum is a whole number: the order of additions has no effect.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import redis

from batcher.core.keys import prefix
from batcher.messages import Prediction

# The last digit of a score in an answer.
SCORE_STEP = 1e-7
# Models with more labels have no matrix: it would have a field for each pair of labels.
MAX_LABELS = 200
KEEP_S = 30 * 86_400
# A shadow that has not written for this long has ended, so that its last call cannot be sent again.
SHADOW_S = 600
_MATRIX = "labels:"
_TIMES = ("current_us", "candidate_us", "current_text_us", "candidate_text_us")


def compare(current: Prediction, candidate: Prediction) -> Counter[str]:
    """What one text adds to the counts. Raises ValueError if the labels differ."""
    one = _scores(current)
    other = _scores(candidate)
    if one.keys() != other.keys():
        raise ValueError("the labels differ")
    top = max(one, key=one.__getitem__)
    other_top = max(other, key=other.__getitem__)
    counts = Counter(
        texts=1,
        agree=int(top == other_top),
        scores=len(one),
        difference=sum(abs(score - other[label]) for label, score in one.items()),
        current_us=round(current.model_ms * 1000),
        candidate_us=round(candidate.model_ms * 1000),
        current_text_us=round(current.model_ms * 1000 / max(current.batch_size, 1)),
        candidate_text_us=round(candidate.model_ms * 1000 / max(candidate.batch_size, 1)),
    )
    if len(one) <= MAX_LABELS:
        counts[_MATRIX + json.dumps([top, other_top])] = 1
    return counts


def _scores(prediction: Prediction) -> dict[str, int]:
    """The scores by label, in steps of SCORE_STEP."""
    return {pair["label"]: round(pair["score"] / SCORE_STEP) for pair in json.loads(prediction.fragment)}


def label_pairs(counts: Mapping[str, int]) -> Mapping[tuple[str, str], int]:
    """How often the label of the revision that answers, the first, became that of the candidate."""
    found = {}
    for name, count in counts.items():
        if name.startswith(_MATRIX):
            current, candidate = json.loads(name.removeprefix(_MATRIX))
            found[str(current), str(candidate)] = count
    return found


def report(counts: Mapping[str, int]) -> dict[str, Any]:
    """The counts in readable form. Means are None without texts, and times in ms."""
    texts = counts.get("texts", 0)
    scores = counts.get("scores", 0)
    matrix: dict[str, dict[str, int]] = {}
    for (current, candidate), count in sorted(label_pairs(counts).items()):
        matrix.setdefault(current, {})[candidate] = count
    times = {name: counts.get(name, 0) / texts / 1000 if texts else None for name in _TIMES}
    return {
        "texts": texts,
        "agree": counts.get("agree", 0),
        "agreement": counts.get("agree", 0) / texts if texts else None,
        "mean_difference": counts.get("difference", 0) * SCORE_STEP / scores if scores else None,
        "labels": matrix,
        "batch_ms": {"current": times["current_us"], "candidate": times["candidate_us"]},
        "text_ms": {"current": times["current_text_us"], "candidate": times["candidate_text_us"]},
        "failed": counts.get("failed", 0),
        "dropped": counts.get("dropped", 0),
    }


class ComparisonStore:
    """The counts of all API processes, for each pair of revisions of a model."""

    def __init__(self, client: redis.Redis, name: str) -> None:
        self._client = client
        self._prefix = f"{prefix(name)}:compared"

    def add(self, pair: tuple[str, int, int], shadow: str, number: int, counts: Mapping[str, int]) -> None:
        """Adds what a shadow of one process has counted. Sent again with the same `number`, it adds nothing.

        `pair` is the model, the revision that answers and the candidate.
        """
        key = self._key(pair)
        last = f"{key}:{shadow}"

        def update(pipe: Any) -> None:
            known = pipe.get(last) == b"%d" % number
            pipe.multi()
            for name, count in () if known else counts.items():
                pipe.hincrby(key, name, count)
            pipe.expire(key, KEEP_S)
            pipe.set(last, number, ex=SHADOW_S)

        self._client.transaction(update, last)

    def read(self, pair: tuple[str, int, int]) -> Mapping[str, int]:
        """The sums over all processes; empty if nothing was compared."""
        raw = cast("dict[bytes, bytes]", self._client.hgetall(self._key(pair)))
        return {name.decode(): int(count) for name, count in raw.items()}

    def _key(self, pair: tuple[str, int, int]) -> str:
        model, current, candidate = pair
        return f"{self._prefix}:{model}@{current}:{candidate}"
