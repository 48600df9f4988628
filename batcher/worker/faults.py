"""Decides whether a text or the engine is at fault when the model raises.

Each text of the batch runs alone. If the engine then passes a self-test, the texts that failed again are at
fault, otherwise the engine is, as it is if batch after batch fails. A failure is final once two
workers have failed on the text.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from batcher.messages import Entry, Failure
from batcher.worker.drift import WatchedClassifier
from batcher.worker.inference import Result, check_rows
from model_store import Classifier

log = logging.getLogger(__name__)

# Texts that every working engine can classify: a short one, and one near the token limit of most models.
PROBES = ("warm", "warm words " * 250)
# This many failed batches in a row mean that the engine is at fault, whatever its self-test says.
FAILED_BATCHES = 5

Failed = list[tuple[Entry, Exception]]
T = TypeVar("T")


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
        # Drift must not be measured on the texts of the self-test.
        self._tested = classifier.unwatched if isinstance(classifier, WatchedClassifier) else classifier

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
        return done, failures

    def _self_test(self, classifies: bool) -> None:
        """Runs texts that every engine must handle. Raises whatever the engine raises."""
        texts = self._tested.tokenize(PROBES)
        if len(texts) != len(PROBES):
            raise ValueError(f"the tokenizer returned {len(texts)} results for {len(PROBES)} texts")
        if classifies:
            check_rows(self._tested.classify(texts), len(PROBES))

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
