"""The model's part in a worker: texts are tokenised, passes run, and a text that breaks one fails alone."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from batcher.messages import Entry, Failure, Prediction, fragment
from model_store import Classifier, Tokens

log = logging.getLogger(__name__)

# Entry id, and what became of it.
Result = tuple[str, Prediction | Failure]


@dataclass(frozen=True, slots=True)
class Held:
    """A claimed entry, tokenised, whose pass has not begun."""

    entry: Entry
    tokens: Tokens
    tokenize_s: float
    claimed_at: float


Tokenised = tuple[list[Held], list[Result]]


def tokenised(classifier: Classifier, entries: Sequence[Entry]) -> Tokenised:
    """The entries, tokenised; and failures of those that the tokenizer raised on, each tried alone."""
    began = time.perf_counter()
    try:
        texts = classifier.tokenize([entry.text for entry in entries])
    except Exception:
        if len(entries) == 1:
            log.exception("tokenising failed", extra={"action": "entry.failed", **entries[0].log_context()})
            return [], [_failed(entries[0])]
        alone = [tokenised(classifier, [entry]) for entry in entries]
        return [one for held, _ in alone for one in held], [one for _, failed in alone for one in failed]
    share = (time.perf_counter() - began) / max(len(entries), 1)
    now = time.monotonic()
    return [Held(entry, text, share, now) for entry, text in zip(entries, texts, strict=True)], []


def classified(classifier: Classifier, batch: Sequence[Held], began: float) -> list[Result]:
    """Results in the order of the batch. If it raises, each text runs alone and only bad ones fail."""
    try:
        rows = classifier.classify([held.tokens for held in batch])
        check_rows(rows, len(batch))
    except Exception:
        if len(batch) > 1:
            log.warning("a pass failed, running its texts alone", extra={"action": "batch.isolate"})
            return [result for held in batch for result in classified(classifier, [held], began)]
        log.exception("a text failed", extra={"action": "entry.failed", **batch[0].entry.log_context()})
        return [_failed(batch[0].entry)]
    model_ms = (time.monotonic() - began) * 1000
    info = classifier.info
    results: list[Result] = []
    for held, scores in zip(batch, rows, strict=True):
        prediction = Prediction(
            fragment=fragment(info.labels, scores),
            revision=info.revision,
            tokens=len(held.tokens),
            truncated=held.tokens.truncated,
            queue_ms=held.entry.waited_ms + (began - held.claimed_at) * 1000,
            tokenize_ms=held.tokenize_s * 1000,
            model_ms=model_ms,
            batch_size=len(batch),
            model=info.name,
        )
        results.append((held.entry.id, prediction))
    return results


def check_rows(rows: Sequence[Sequence[float]], expected: int) -> None:
    """Raises ValueError unless the model gave a row for each text, and numbers only."""
    if len(rows) != expected or not all(math.isfinite(score) for row in rows for score in row):
        raise ValueError(
            f"the model gave {len(rows)} rows for {expected} texts, or a score that is no number"
        )


def _failed(entry: Entry) -> Result:
    return entry.id, Failure("inference_failed", "the model failed on this text")
