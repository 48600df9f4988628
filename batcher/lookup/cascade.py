"""A cascade of two models: what the first is not sure of is asked of the second (decision 0018)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from batcher.cascades import Cascade
from batcher.core.snapshot import NO_SNAPSHOT, ModelRecord, Snapshot
from batcher.errors import LabelsDiffer, MillraceError, SeveralLabels
from batcher.lookup.queue import CachedPrediction, Known, Lookup, LookupRequest, LookupResult, Models, Result
from batcher.messages import Prediction, fragment


def mismatch(
    cascade: Cascade, fast: ModelRecord | None, sure: ModelRecord | None
) -> LabelsDiffer | SeveralLabels | None:
    """Why the members cannot answer in place of each other; None if they can, or are unknown."""
    if fast is None or sure is None:
        return None
    if several := [model.name for model in (fast, sure) if model.multi_label]:
        what = f"the cascade {cascade.name} needs models with one label per text"
        return SeveralLabels(f"{what}, and {' and '.join(several)} may give several")
    if set(fast.labels) == set(sure.labels):
        return None
    members = "; ".join(f"{model.name} {', '.join(model.labels)}" for model in (fast, sure))
    return LabelsDiffer(f"the members of the cascade {cascade.name} have different labels: {members}")


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
    """An answer with its labels in this order. Raises LabelsDiffer if it has others."""
    scores = {pair["label"]: pair["score"] for pair in json.loads(answer.fragment)}
    if tuple(scores) == tuple(labels):
        return answer
    if scores.keys() != set(labels):
        raise LabelsDiffer(f"the answer has the labels {', '.join(scores)}, and not {', '.join(labels)}")
    return answer._replace(fragment=fragment(labels, [scores[label] for label in labels]))


class CascadeModel:
    """The model of a cascade: a snapshot of which only the model is set, once both members have one."""

    def __init__(self, cascade: Cascade, fast: Models, sure: Models) -> None:
        self._cascade = cascade
        self._members = fast, sure

    @property
    def snapshot(self) -> Snapshot:
        fast, sure = (models.published for models in self._members)
        model = combined(self._cascade, fast, sure) if fast is not None and sure is not None else None
        return replace(NO_SNAPSHOT, model=model)

    def mismatch(self) -> MillraceError | None:
        """As the function of this name, of what the members have published."""
        return mismatch(self._cascade, *(models.published for models in self._members))


@dataclass(eq=False)
class CascadeLookup:
    """Asks the fast model, and the sure one for what is left, each with its own caches and queue.

    Nothing is cached under the revision of the cascade, so a new one of a member, or a new threshold, applies
    to the next request. `members` returns the lookups of both, or raises. `count` is called with the texts of
    which each of them has spoken. If all results must be of one revision, they are of one for each member.
    """

    _cascade: Cascade
    _members: Callable[[], tuple[Lookup, Lookup]]
    models: Models
    _count: Callable[[int, int], None] = lambda kept, passed: None
    names_models = True

    def known(self, texts: Sequence[str], client: str, tenant: str, one_revision: bool) -> Known:
        """None: what each member has said is in its own cache."""
        return None

    async def find(self, request: LookupRequest, answer: LookupResult) -> None:
        """If the sure model fails on a text, so does the cascade. Raises LabelsDiffer or SeveralLabels."""
        fast, sure = self._members()
        published = fast.models.published, sure.models.published
        if why := mismatch(self._cascade, *published):
            raise why
        await fast.find(request, answer)
        said = [answer.by_text[text] for text in request.texts if text in answer.by_text]
        unsure = {text for text, one in answer.by_text.items() if not self._cascade.trusts(one.fragment)}
        passed = [text for text in request.texts if text in unsure]
        second = LookupResult()
        if passed:
            labels = labels_of(said[0].fragment)
            try:
                await sure.find(request._replace(texts=passed), second)
            finally:
                answer.add(second, answer.cache_s + second.cache_s)
            for text in unsure:
                _order(text, answer, labels)
        one = _spoke(fast.models, published[0], said)
        other = _spoke(sure.models, published[1], list(second.by_text.values()))
        if one is not None and other is not None:
            answer.cascade = combined(self._cascade, one, other)
        self._count(len(request.texts) - len(passed), len(passed))


def _spoke(models: Models, published: ModelRecord | None, results: Sequence[Result]) -> ModelRecord | None:
    """The model of the newest result, or the `published` one without any."""
    if published is None or not results:
        return published
    revision = results[-1].revision
    # A worker may have answered before this process has seen what it published.
    return models.record(revision) or replace(published, revision=revision)


def _order(text: str, answer: LookupResult, labels: Sequence[str]) -> None:
    """Puts the labels of a result of the sure model in this order."""
    result = answer.by_text.pop(text)
    if text in answer.failed:
        return
    one = result.prediction() if isinstance(result, CachedPrediction) else result
    answer.by_text[text] = in_order(one, labels)
