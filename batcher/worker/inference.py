"""One loaded model: tokenising, running batches, and what to do if that fails.

A text that makes a batch fail does not fail the others.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from batcher.messages import Entry, Failure, Prediction, Result, fragment
from batcher.worker.batching import CostModel, Reason, TokenizedEntry, ended_texts, fail_texts
from model_store import Classifier, Tokens
from model_store.rows import computed_tokens

log = logging.getLogger(__name__)
# Texts that every working engine can classify: a short one, and one near the token limit of most models.
PROBES = ("warm", "warm words " * 250)
# This many failed batches in a row mean that the engine is at fault, whatever its self-test says.
FAILED_BATCHES = 5
Failed = list[tuple[Entry, Exception]]
T = TypeVar("T")
# Approximate batch sizes, in tokens, from which the cost is learned.
SIZES = (16, 64, 128, 256, 512)
# On a card: rows, and the tokens of each, whose kernels take a tenth of a second when they are met. Most
# batches have these shapes (`model_store.engines.card`).
CARD_ROWS = [(1, tokens) for tokens in (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)]
CARD_ROWS += [(rows, tokens) for rows in (2, 3, 4, 6, 8, 12, 16, 24, 32) for tokens in (128, 192)]
CARD_ROWS += [(48, 128), (64, 128), *((rows, 256) for rows in (2, 3, 4, 6))]
# Lengths of single texts whose time is measured, until one takes so long.
LONG = (512, 1024, 2048, 4096, 8192)
LONG_S = 1.0

# A text that has run, and its scores.
Scored = tuple[Tokens, Sequence[float]]
Tokenized = tuple[list[TokenizedEntry], list[Result]]


class Faults:
    """The errors of one model. Once it is `broken`, it must not be used again.

    `suspects` are the entries it failed on when it also failed its self-test. Whether one of these texts
    broke the engine is not known yet.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.broken = False
        self.suspects: list[str] = []
        self.failed_batches = 0
        self._failed: set[str] = set()
        self._classifier = classifier

    def run_alone(
        self, runs: Sequence[tuple[Entry, Callable[[], list[T]]]], error: Exception, *, classifies: bool
    ) -> tuple[list[T], list[Result]]:
        """Runs each entry alone after `error` of all together. Returns what succeeded, and failures."""
        what = "a batch" if classifies else "tokenising"
        log.warning("%s failed; trying each text alone: %s", what, error, extra={"action": "batch.isolate"})
        done: list[T] = []
        failed: Failed = []
        for entry, run in runs:
            try:
                done += run()
            except Exception as own:
                failed.append((entry, own))
        failures = self._failures(failed, classifies)
        if not done:
            self._count(failed)
        elif classifies:
            self.failed_batches = 0
        failed.clear()  # whose errors refer to this frame, and it to all texts
        return done, failures

    def _self_test(self, classifies: bool) -> None:
        """Runs texts that every engine must handle. Raises whatever the engine raises."""
        texts = self._classifier.tokenize(PROBES)
        if len(texts) != len(PROBES):
            raise ValueError(f"the tokenizer returned {len(texts)} results for {len(PROBES)} texts")
        if classifies:
            check_rows(self._classifier.classify(texts), len(PROBES))

    def _failures(self, failed: Failed, classifies: bool) -> list[Result]:
        """Returns failures if the engine passes its self-test; otherwise these entries become suspects."""
        if not failed:
            return []
        ids = [entry.id for entry, _ in failed]
        try:
            self._self_test(classifies)
        except Exception:
            log.critical(
                "the engine failed on %d texts and on its self-test: this worker releases the entries it "
                "holds and ends; see the traceback for the cause",
                len(failed),
                exc_info=failed[0][1],
                extra={"action": "worker.broken", "entries": ids},
            )
            self.suspects += ids
            self.broken = True
            return []
        for entry, error in failed:
            context = {"action": "entry.failed", **entry.log_context()}
            log.error("the model failed on a text", exc_info=error, extra=context)
        return [(entry, Failure("inference_failed", "the model failed on this text")) for entry in ids]

    def _count(self, failed: Failed) -> None:
        """Counts a batch in which every text failed, unless it only repeats texts that failed before."""
        ids = {entry.id for entry, _ in failed}
        if self.broken or ids <= self._failed:
            return
        self._failed = ids | (self._failed if self.failed_batches else set())
        self.failed_batches += 1
        if self.failed_batches == FAILED_BATCHES:
            self.broken = True
            log.critical(
                "every text of %d batches in a row failed, although the engine passes its self-test: this "
                "worker releases the entries it holds and ends",
                FAILED_BATCHES,
                extra={"action": "worker.broken", "entries": sorted(ids)},
            )


def warm_up(classifier: Classifier) -> CostModel:
    """Runs batches of increasing size twice: the first round compiles, the second measures the cost.

    Errors of the model are not caught: a worker whose model fails here must not become ready.
    """
    (word,) = classifier.tokenize(["warm"])
    check_rows(classifier.classify([word]), 1)
    sizes = [(max(1, wanted // 16), 16) for wanted in SIZES]
    if classifier.info.device:
        sizes = sorted(CARD_ROWS, key=math.prod)
    for _ in range(2):
        cost = CostModel.start()
        for count, length in sizes:
            texts = classifier.tokenize(["warm words " * (length // 2 - 1)] * count)
            began = time.perf_counter()
            check_rows(classifier.classify(texts), len(texts))
            spent = time.perf_counter() - began
            cost = cost.learn(computed_tokens([len(text) for text in texts], classifier.info.layout), spent)
    return cost


def measure_long(classifier: Classifier) -> list[tuple[int, float]]:
    """The tokens of single long texts and the seconds that they took, shortest first, up to LONG_S.

    Empty for a model that reads none of LONG tokens at once: its texts take as long as batches do.
    """
    info = classifier.info
    found: list[tuple[int, float]] = []
    lengths = LONG if info.windows is None and info.max_tokens >= LONG[1] else ()
    for wanted in lengths:
        if wanted > info.max_tokens or (found and found[-1][1] > LONG_S):
            break
        (text,) = classifier.tokenize(["warm words " * (wanted // 2)])
        began = time.perf_counter()
        check_rows(classifier.classify([text]), 1)
        found.append((len(text), round(time.perf_counter() - began, 4)))
    return found


@dataclass(slots=True)
class FinishedBatch:
    """A batch that has run: `computed` tokens with padding, from `began` for `spent_s` (monotonic seconds).

    `sent_at` is when Redis accepted its results; 0 if it has not. `scored` are the texts that did
    not fail, each window of a long one on its own.
    """

    entries: Sequence[TokenizedEntry]
    results: list[Result]
    computed: int
    began: float
    spent_s: float
    sent_at: float = 0.0
    scored: Sequence[Scored] = ()


class Inference:
    """Runs one loaded model. Once `faults.broken` is set, it must not be used again. `now` is the clock."""

    def __init__(
        self, classifier: Classifier, faults: Faults, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.cost = CostModel.start()
        self.faults = faults
        self._classifier = classifier
        self._now = now
        # When each thread began to tokenise or classify.
        self._began: dict[int, float] = {}

    def running_s(self) -> float:
        """How long the oldest call of the model has been running; 0 if there is none."""
        return max((self._now() - began for began in self._began.copy().values()), default=0.0)

    def tokenize_entries(self, entries: Sequence[Entry], reason: Reason) -> Tokenized:
        """Returns the tokenised entries, and failures for those on which the tokenizer raises."""
        if not entries:
            return [], []
        self._began[threading.get_ident()] = self._now()
        try:
            return self._tokenised(entries, reason), []
        except Exception as error:
            runs = [(entry, partial(self._tokenised, [entry], reason)) for entry in entries]
            return self.faults.run_alone(runs, error, classifies=False)
        finally:
            del self._began[threading.get_ident()]

    def classify_entries(self, batch: Sequence[TokenizedEntry], computed: int) -> FinishedBatch:
        """Runs one batch. If it raises, each text runs alone, so that only the bad ones fail."""
        began = self._began[threading.get_ident()] = self._now()
        scored = list[Scored]()
        try:
            results = self._classified(batch, began, scored)
            self.faults.failed_batches = 0
        except Exception as error:
            runs = [(item.entry, partial(self._classified, [item], began, scored)) for item in batch]
            predictions, failures = self.faults.run_alone(runs, error, classifies=True)
            results = predictions + failures
            if self._classifier.info.windows is not None:
                results = fail_texts(batch, results)
        finally:
            del self._began[threading.get_ident()]
        return FinishedBatch(batch, results, computed, began, self._now() - began, scored=scored)

    def _tokenised(self, entries: Sequence[Entry], reason: Reason) -> list[TokenizedEntry]:
        began = self._now()
        texts = self._classifier.tokenize([entry.text for entry in entries])
        now = self._now()
        share = (now - began) / len(entries)
        return [TokenizedEntry(*pair, share, now, reason) for pair in zip(entries, texts, strict=True)]

    def _classified(
        self, batch: Sequence[TokenizedEntry], began: float, scored: list[Scored]
    ) -> list[Result]:
        """The results of a batch. Adds its texts and their scores to `scored`."""
        info = self._classifier.info
        tokens = [item.tokens for item in batch]
        rows = self._classifier.classify(tokens)
        check_rows(rows, len(batch))
        model_ms = (self._now() - began) * 1000
        results: list[Result] = []
        ended = list(zip(batch, rows, strict=True))
        if info.windows is not None:
            ended = ended_texts(ended, info)
        for item, scores in ended:
            prediction = Prediction(
                fragment=fragment(info.labels, scores),
                revision=info.revision,
                tokens=len(item.tokens.ids),
                truncated=item.tokens.truncated,
                queue_ms=item.entry.waited_ms + (began - item.claimed_at) * 1000,
                tokenize_ms=item.tokenize_s * 1000,
                model_ms=model_ms,
                batch_size=len(batch),
                model=info.name,
                foreign=item.tokens.foreign,
            )
            results.append((item.entry.id, prediction))
        scored += zip(tokens, rows, strict=True)
        return results


def check_rows(rows: Sequence[Sequence[float]], expected: int) -> None:
    """Raises ValueError unless the model returned one row of finite scores for each text."""
    if len(rows) != expected or not all(math.isfinite(score) for row in rows for score in row):
        raise ValueError(f"{len(rows)} rows of scores for {expected} texts, or a score that is not finite")
