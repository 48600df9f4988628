"""What the members of a cascade are together (decision 0018)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256

from batcher.cascades import Cascade
from batcher.core.snapshot import ModelRecord
from batcher.messages import Prediction, fragment


def difference(cascade: Cascade, fast: ModelRecord, sure: ModelRecord) -> str:
    """Why the members cannot answer in place of each other, in a sentence; "" if they can."""
    if set(fast.labels) == set(sure.labels):
        return ""
    members = "; ".join(f"{model.name} {', '.join(model.labels)}" for model in (fast, sure))
    return f"the members of the cascade {cascade.name} have different labels: {members}"


@lru_cache(64)
def combined(cascade: Cascade, fast: ModelRecord, sure: ModelRecord) -> ModelRecord:
    """The cascade as a model. Its revision changes with that of each member, and with the threshold."""
    parts = f"{fast.revision} {sure.revision} {cascade.threshold!r}"
    return replace(
        sure,
        name=cascade.name,
        revision=sha256(parts.encode()).hexdigest(),
        labels=fast.labels,
        max_tokens=min(fast.max_tokens, sure.max_tokens),
    )


def in_order(answer: Prediction, labels: Sequence[str]) -> Prediction:
    """An answer with its labels in this order. Raises ValueError if it has others."""
    scores = {pair["label"]: pair["score"] for pair in json.loads(answer.fragment)}
    if tuple(scores) == tuple(labels):
        return answer
    if scores.keys() != set(labels):
        raise ValueError(f"the answer has the labels {', '.join(scores)}, and not {', '.join(labels)}")
    return answer._replace(fragment=fragment(labels, [scores[label] for label in labels]))
