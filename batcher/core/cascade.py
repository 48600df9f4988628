"""Combines the members of a cascade into one model (decision 0018)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from typing import Literal, NamedTuple

from batcher.cascades import Cascade
from batcher.core.snapshot import ModelRecord
from batcher.messages import Prediction, fragment


class Mismatch(NamedTuple):
    """Why two models cannot be the members of a cascade: the code of the error, and a sentence."""

    code: Literal["labels_differ", "several_labels"]
    detail: str


def mismatch(cascade: Cascade, fast: ModelRecord, sure: ModelRecord) -> Mismatch | None:
    """Why the members cannot answer in place of each other; None if they can."""
    if several := [model.name for model in (fast, sure) if model.multi_label]:
        what = f"the cascade {cascade.name} needs models with one label per text"
        return Mismatch("several_labels", f"{what}, and {' and '.join(several)} may give several")
    if set(fast.labels) == set(sure.labels):
        return None
    members = "; ".join(f"{model.name} {', '.join(model.labels)}" for model in (fast, sure))
    return Mismatch(
        "labels_differ", f"the members of the cascade {cascade.name} have different labels: {members}"
    )


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
        most_tokens=min(fast.longest, sure.longest),
    )


def labels_of(answer: bytes) -> Sequence[str]:
    """The labels of an answer in JSON, in its order."""
    return [pair["label"] for pair in json.loads(answer)]


def in_order(answer: Prediction, labels: Sequence[str]) -> Prediction:
    """An answer with its labels in this order. Raises ValueError if it has others."""
    scores = {pair["label"]: pair["score"] for pair in json.loads(answer.fragment)}
    if tuple(scores) == tuple(labels):
        return answer
    if scores.keys() != set(labels):
        raise ValueError(f"the answer has the labels {', '.join(scores)}, and not {', '.join(labels)}")
    return answer._replace(fragment=fragment(labels, [scores[label] for label in labels]))
