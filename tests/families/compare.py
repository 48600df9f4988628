"""Compares what is served with what transformers' pipeline answers, for one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from model_store import load
from model_store.errors import ModelError
from model_store.proof import INT8_GATE, Limits, limits
from model_store.rows import RowClassifier
from tests.lazy import transformers

# Scores of float weights in f32 may differ by this.
LIMIT = 1e-4
Precision = Literal["f32", "bf16", "int8"]
_LONG = "it begins well, " + "and goes on and on, " * 40 + "but the end is bad."
TEXTS = (
    "A good film, we like it.", "I hate the film!", "a", "A", "", " ", "  two  spaces ", "never again",
    "don't  STOP\r\n\tnow", "ÉCOLE élève naïve", "e\u0301\u200b\u00ad",
    "日本語とEnglish", "👩‍👩‍👧 ok", "\x00 nul",
    "a <pad> b <pad> c </s> film", "I </s> hate </s> you", "<s> a </s>", "[PAD] a [SEP] b [CLS] c",
    "[MASK] <mask> a",
    "a <|end|> b <|pad|> c <|pad|>", "<|end|>", "<cls> a <sep> b <unk> [UNK]", "x " * 37, _LONG,
)  # fmt: skip
# For a model that reads 8,192 tokens: 8,190 of them with those around a text, and more than it reads.
LONG_TEXTS = ("a b c d " * 2047, "A good film, we like it.", "d c b a " * 2500, "a")


@dataclass(frozen=True)
class Comparison:
    """`how` it is served, or why it is `refused`; the largest difference of a score `alone` and in a `batch`,
    and `spread`, the largest difference between the logarithms of the scores of two texts.

    `precision` is what was asked for and `served` what is used instead if it is not the same. `limit` is what
    the proof, or for int8 weights the check of their build, allows for that, `apart` the largest difference
    between alone and in the batch, of which it allows `batched`, and `flipped` are the texts whose label has
    changed although it was clear.
    """

    family: str
    how: str = ""
    refused: str = ""
    alone: float = 0.0
    batch: float = 0.0
    spread: float = 0.0
    labels: bool = True
    fallback: str = ""
    precision: Precision = "f32"
    served: str = "f32"
    limit: float = LIMIT
    apart: float = 0.0
    batched: float = LIMIT
    flipped: int = 0

    @property
    def right(self) -> bool:
        near = max(self.alone, self.batch) <= self.limit and self.apart <= self.batched
        return self.labels and (bool(self.refused) or (near and not self.flipped))


def compare(
    path: Path,
    kept: Path,
    family: str,
    precision: Precision = "f32",
    asked: Sequence[str] = TEXTS,
    **options: Any,
) -> Comparison:
    """Serve the checkpoint at `path` and ask both for each text."""
    settings: dict[str, Any] = {"precision": precision, "threads": 1, "artefact_dir": kept, **options}
    try:
        classifier = load(str(path), **settings)
    except ModelError as error:
        return Comparison(family, refused=str(error).replace(str(path), "MODEL"), precision=precision)
    assert isinstance(classifier, RowClassifier)
    info = classifier.info
    try:
        wanted, answered = reference(path, info.labels, info.max_tokens, asked)
        texts = classifier.tokenize([text for text, known in zip(asked, answered, strict=True) if known])
        alone = np.array([classifier.classify([text])[0] for text in texts])
        batch = np.array(classifier.classify(texts))
    finally:
        classifier.close()
    allowed = _limits(classifier)
    engine = f"{info.engine} on {info.device}" if info.device else info.engine
    shares = {"any": "", "equal": ", equally long", "none": ", alone"}[classifier._inputs.sharing]
    return Comparison(
        family,
        how=f"{engine}, {info.layout}{shares}",
        alone=float(np.abs(alone - wanted).max()),
        batch=float(np.abs(batch - wanted).max()),
        spread=float(np.ptp(np.log(wanted), axis=0).max()),
        labels=info.labels == tuple(labels_of(path)),
        fallback=info.fallback_reason.replace(str(path), "MODEL"),
        precision=precision,
        served=info.precision,
        limit=allowed.answers,
        apart=float(np.abs(alone - batch).max()),
        batched=allowed.batched,
        flipped=sum(_flipped(scores, wanted, allowed.margin) for scores in (alone, batch)),
    )


def _limits(classifier: RowClassifier) -> Limits:
    """What this setting may differ from the checkpoint: int8 weights as in the check of their build."""
    info = classifier.info
    weights: Literal["int8", "float"] = "int8" if info.precision == "int8" else "float"
    allowed = limits(weights, info.arithmetic, classifier.probes.rounding)
    return replace(INT8_GATE, batched=allowed.batched) if weights == "int8" else allowed


def _flipped(scores: Any, wanted: Any, margin: float) -> int:
    """How many texts have another label, although the best two scores are more than `margin` apart."""
    best = np.sort(wanted, axis=1)
    clear = best[:, -1] - best[:, -2] > margin
    return int((clear & (scores.argmax(axis=1) != wanted.argmax(axis=1))).sum())


def labels_of(path: Path) -> list[str]:
    """The labels in the order of transformers."""
    return list(transformers.AutoConfig.from_pretrained(path).id2label.values())


def reference(path: Path, labels: tuple[str, ...], most: int, asked: Sequence[str]) -> tuple[Any, list[bool]]:
    """Scores of the pipeline (texts, labels), each text alone, and which of them it answers at all."""
    pipeline = transformers.pipeline("text-classification", model=str(path), device="cpu", top_k=None)
    rows, answered = [], []
    for text in asked:
        try:
            (scores,) = pipeline(text, truncation=True, max_length=most)
            found = {one["label"]: one["score"] for one in scores}
        except Exception:
            answered.append(False)  # a text without a token
            continue
        answered.append(True)
        rows.append([found[label] for label in labels])
    return np.array(rows), answered
