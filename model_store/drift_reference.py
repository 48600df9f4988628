"""The distribution of texts and predictions when a model was evaluated, and the distance from it.

The reference is plain data (`reference.json` in an artefact): a histogram of each feature, and no texts. The
distance is the population stability index: the sum over bins of (a - e) ln(a / e), where a and e are the
actual and the expected share. Below 0.1 the distributions are alike, above 0.2 they differ (Siddiqi, Credit
Risk Scorecards, 2006).
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pydantic import TypeAdapter

from model_store.errors import ModelCorrupt, invalid

if TYPE_CHECKING:
    from model_store.tokens import Tokens

REFERENCE = "reference.json"
FORMAT = 1
Feature = Literal["label", "confidence", "entropy", "tokens", "truncated", "unknown"]
FEATURES: tuple[Feature, ...] = get_args(Feature)
# Fewer texts than this are too few to compare distributions.
MIN_TEXTS = 200

_BINS = 10
# Minimum width of bins, so that another precision of the same model does not look like drift.
_MIN_WIDTH = {"confidence": 0.01, "entropy": 0.01, "tokens": 1.0}
# The share of unknown pieces is mostly 0, so quantiles would all be equal.
_UNKNOWN_EDGES = (0.0, 0.05, 0.1, 0.2)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values up to each edge and above the last one, so there is one more count than edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DriftReference:
    """The histograms of `texts` texts under one revision.

    `shipped` is that of the default model: a user's own texts are not expected to be like those.
    """

    revision: str
    texts: int
    features: dict[Feature, Histogram]
    shipped: bool = False


_REFERENCE = TypeAdapter(DriftReference)


def measure(tokens: Tokens, scores: Sequence[float], *, multi_label: bool) -> tuple[float, ...]:
    """The value of each of FEATURES for one text and its scores.

    label: index of the highest score; confidence: that score; entropy: of the scores, 0 to 1 (the mean over
    labels when `multi_label`); tokens: count; truncated: 0 or 1; unknown: share of the pieces.
    """
    confidence = max(scores)
    if multi_label:
        entropy = sum(_bits(score) + _bits(1.0 - score) for score in scores) / len(scores)
    else:
        entropy = sum(map(_bits, scores)) / math.log2(len(scores)) if len(scores) > 1 else 0.0
    length = len(tokens)
    unknown = tokens.unknown / max(length - 2, 1)
    return (scores.index(confidence), confidence, entropy, length, float(tokens.truncated > 0), unknown)


def _bits(share: float) -> float:
    return -share * math.log2(share) if share > 0.0 else 0.0


def build_reference(revision: str, labels: int, measured: Iterable[tuple[float, ...]]) -> DriftReference:
    """Builds a reference from results of `measure`. Raises ValueError for fewer than MIN_TEXTS texts."""
    columns = list(zip(*measured, strict=True))
    texts = len(columns[0]) if columns else 0
    if texts < MIN_TEXTS:
        raise ValueError(f"a reference needs at least {MIN_TEXTS} texts, not {texts}")
    features: dict[Feature, Histogram] = {}
    for feature, values in zip(FEATURES, columns, strict=True):
        edges = _edges(feature, labels, values)
        counts = [0] * (len(edges) + 1)
        for value in values:
            counts[bisect_left(edges, value)] += 1
        features[feature] = Histogram(edges, tuple(counts))
    return DriftReference(revision, texts, features)


def _edges(feature: Feature, labels: int, values: Sequence[float]) -> tuple[float, ...]:
    if feature == "label":
        return tuple(map(float, range(labels - 1)))
    if feature == "truncated":
        return (0.0,)
    if feature == "unknown":
        return _UNKNOWN_EDGES
    ordered = sorted(values)
    edges: list[float] = []
    for part in range(1, _BINS):
        decile = float(ordered[len(ordered) * part // _BINS])
        if decile < ordered[-1] and (not edges or decile - edges[-1] >= _MIN_WIDTH[feature]):
            edges.append(decile)
    return tuple(edges)


def psi(expected: Sequence[float], seen: Sequence[float]) -> float:
    """The index of two histograms with the same bins; adds half a text to each bin, so that none is empty."""
    whole_e, whole_s = sum(expected) + 0.5 * len(expected), sum(seen) + 0.5 * len(seen)
    index = 0.0
    for was, now in zip(expected, seen, strict=True):
        share_e, share_s = (was + 0.5) / whole_e, (now + 0.5) / whole_s
        index += (share_s - share_e) * math.log(share_s / share_e)
    return index


def encode_reference(reference: DriftReference) -> str:
    return json.dumps({"format": FORMAT, **asdict(reference)}, indent=1) + "\n"


def read_reference(directory: Path) -> DriftReference | None:
    """The reference of an artefact; None if it has none. Raises ModelCorrupt."""
    path = directory / REFERENCE
    if not path.is_file():
        return None
    try:
        raw = path.read_bytes()
        if json.loads(raw)["format"] != FORMAT:
            return None
        reference = _REFERENCE.validate_json(raw)
        for name in FEATURES:
            edges, counts = reference.features[name].edges, reference.features[name].counts
            if len(counts) != len(edges) + 1 or list(edges) != sorted(edges):
                raise ValueError(f"bins of {name}")
        return reference
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelCorrupt(f"{path} cannot be read: {invalid(error)}.") from error
