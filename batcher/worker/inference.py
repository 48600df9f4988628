"""Tokenises texts and runs forward passes. A text that makes a batch fail does not fail the others.

After an error, a self-test decides what is at fault: the text if the engine passes, otherwise the engine. If
batch after batch fails, it is the engine, too. A failure is final once two workers have failed on the text.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from batcher.messages import Entry, Failure, Prediction, fragment
from batcher.worker.batching import Reason
from batcher.worker.drift import WatchedClassifier
from model_store import Classifier, Tokens

log = logging.getLogger(__name__)

# An entry id and its outcome.
Result = tuple[str, Prediction | Failure]
# Texts that every working engine can classify: a short one, and one near the token limit of most models.
PROBES = ("warm", "warm words " * 250)
# So many failed batches in a row mean that the engine is at fault, whatever its self-test says.
FAILED_BATCHES = 5


@dataclass(frozen=True, slots=True)
class TokenizedEntry:
    """A claimed and tokenised entry that waits for its batch. `reason` says what triggered its claim."""

    entry: Entry
    tokens: Tokens
    tokenize_s: float
    claimed_at: float
    reason: Reason


Tokenized = tuple[list[TokenizedEntry], list[Result]]


class Inference:
    """One loaded model. Once it is `broken`, it must not be used again.

    `suspects` are the entries it failed on when it also failed its self-test. Whether one of these texts
    broke the engine is not known yet.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.suspects: list[str] = []
        self._failed: set[str] = set()
        self._failed_batches = 0
        self._classifier = classifier
        # Drift must not be measured on the texts of the self-test.
        self._tested = classifier.unwatched if isinstance(classifier, WatchedClassifier) else classifier

    @property
    def broken(self) -> bool:
        """Whether a self-test or too many batches in a row have failed."""
        return bool(self.suspects) or self._failed_batches >= FAILED_BATCHES

    def tokenize_entries(self, entries: Sequence[Entry], reason: Reason) -> Tokenized:
        """Returns the tokenised entries, and failures for those on which the tokenizer raises."""
        if not entries:
            return [], []
        try:
            return self._tokenised(entries, reason), []
        except Exception as error:
            log.warning("tokenising failed, trying each text alone: %s", error, extra=_ISOLATE)
        held: list[TokenizedEntry] = []
        failed: list[tuple[Entry, Exception]] = []
        for entry in entries:
            try:
                held += self._tokenised([entry], reason)
            except Exception as error:
                failed.append((entry, error))
        results = self._failures(failed, lambda: check_tokens(self._tested.tokenize(PROBES), len(PROBES)))
        if not held:
            self._count(failed)
        return held, results

    def classify_entries(self, batch: Sequence[TokenizedEntry], began: float) -> list[Result]:
        """Runs one batch. If it raises, each text runs alone, so that only the bad ones fail."""
        try:
            results = self._classified(batch, began)
            self._failed_batches = 0
            return results
        except Exception as error:
            log.warning("a batch failed, running each of its texts alone: %s", error, extra=_ISOLATE)
        results = []
        failed: list[tuple[Entry, Exception]] = []
        for held in batch:
            try:
                results += self._classified([held], began)
            except Exception as error:
                failed.append((held.entry, error))
        failures = self._failures(failed, lambda: self_test(self._tested))
        if results:
            self._failed_batches = 0
        else:
            self._count(failed)
        return results + failures

    def _tokenised(self, entries: Sequence[Entry], reason: Reason) -> list[TokenizedEntry]:
        began = time.perf_counter()
        texts = self._classifier.tokenize([entry.text for entry in entries])
        check_tokens(texts, len(entries))
        share = (time.perf_counter() - began) / len(entries)
        now = time.monotonic()
        return [
            TokenizedEntry(entry, text, share, now, reason)
            for entry, text in zip(entries, texts, strict=True)
        ]

    def _classified(self, batch: Sequence[TokenizedEntry], began: float) -> list[Result]:
        rows = self._classifier.classify([held.tokens for held in batch])
        check_rows(rows, len(batch))
        model_ms = (time.monotonic() - began) * 1000
        info = self._classifier.info
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

    def _failures(self, failed: Sequence[tuple[Entry, Exception]], test: Callable[[], None]) -> list[Result]:
        """Returns failures if the engine passes `test` now; otherwise these entries become suspects."""
        if not failed:
            return []
        try:
            test()
        except Exception:
            log.critical(
                "the engine failed on %d texts and on its self-test: this worker releases the entries it "
                "holds and ends; see the traceback for the cause",
                len(failed),
                exc_info=failed[0][1],
                extra={"action": "worker.broken", "entries": [entry.id for entry, _ in failed]},
            )
            self.suspects += [entry.id for entry, _ in failed]
            return []
        for entry, error in failed:
            context = {"action": "entry.failed", **entry.log_context()}
            log.error("the model failed on a text", exc_info=error, extra=context)
        return [
            (entry.id, Failure("inference_failed", "the model failed on this text")) for entry, _ in failed
        ]

    def _count(self, failed: Sequence[tuple[Entry, Exception]]) -> None:
        """Counts a batch in which every text failed, unless it only repeats texts that failed before."""
        ids = {entry.id for entry, _ in failed}
        if self.suspects or ids <= self._failed:
            return
        self._failed = ids | (self._failed if self._failed_batches else set())
        self._failed_batches += 1
        if self._failed_batches == FAILED_BATCHES:
            log.critical(
                "every text of %d batches in a row failed, although the engine passes its self-test: this "
                "worker releases the entries it holds and ends",
                FAILED_BATCHES,
                extra={"action": "worker.broken", "entries": sorted(ids)},
            )


_ISOLATE = {"action": "batch.isolate"}


def self_test(classifier: Classifier) -> None:
    """Classifies texts that every engine must handle. Raises whatever the engine raises."""
    texts = classifier.tokenize(PROBES)
    check_tokens(texts, len(PROBES))
    check_rows(classifier.classify(texts), len(PROBES))


def check_tokens(texts: Sequence[Tokens], expected: int) -> None:
    """Raises ValueError unless the tokenizer returned tokens for each text."""
    if len(texts) != expected:
        raise ValueError(f"the tokenizer returned {len(texts)} results for {expected} texts")


def check_rows(rows: Sequence[Sequence[float]], expected: int) -> None:
    """Raises ValueError unless the model returned one row of finite scores for each text."""
    if len(rows) != expected or not all(math.isfinite(score) for row in rows for score in row):
        raise ValueError(
            f"the model returned {len(rows)} rows for {expected} texts, or a score that is not finite"
        )
