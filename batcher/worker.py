"""The worker: wait -> claim -> tokenise -> classify -> complete, until told to stop.

The main thread runs forward passes. An idle worker does everything else there too, in the fewest round
trips: completing and claiming share one. While a pass runs, a second thread completes the last one and
claims for the next, as late as it can, so that entries go to whichever worker is free first.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from batcher.collect import (
    Arrivals,
    Company,
    CostModel,
    Reason,
    claim_cost,
    keep_window_s,
    next_pass,
    pass_tokens,
)
from batcher.heartbeat import Heartbeat
from batcher.messages import BatchNote, Entry, Failure, Prediction, fragment
from batcher.outage import REDIS_ERRORS, Outage
from batcher.redis_queue import Claim, WorkerQueue, read_claim
from batcher.settings import WorkerSettings
from model_store import Classifier, Tokens

log = logging.getLogger(__name__)

WAIT_S = 1.0
RETRY_S = 0.2
# Time for a claim and its tokenising before the pass under way ends.
CLAIM_AHEAD_S = 0.0025
# How long results are offered to a Redis that does not answer; then their entries are left to their leases.
COMPLETE_PATIENCE_S = 30.0
# Batches that the worker's record tells of.
NOTES = 20
NOTHING = Claim([], 0, 0, 0, b"0-0")

Result = tuple[str, Prediction | Failure, bytes]
Remember = Callable[[Iterable[tuple[str, Prediction, bytes]]], None]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One forward pass, for metrics, traces and the log. Durations in seconds.

    `number` counts the passes of this worker; `queue_s` are the waits of `entries`, in order.
    """

    number: int
    entries: tuple[Entry, ...]
    size: int
    tokens: int
    computed_tokens: int
    reason: Reason
    queue_s: tuple[float, ...]
    tokenize_s: float
    model_s: float
    truncated: int
    unknown: int
    failures: int

    def log_context(self) -> dict[str, object]:
        """What a log line may say of a pass: ids and durations in ms, never a text."""
        return {
            "batch": self.number,
            "size": self.size,
            "tokens": self.tokens,
            "computed_tokens": self.computed_tokens,
            "reason": self.reason,
            "longest_wait_ms": round(max(self.queue_s) * 1000, 1),
            "tokenize_ms": round(self.tokenize_s * 1000, 2),
            "model_ms": round(self.model_s * 1000, 2),
            "failures": self.failures,
            "entries": [entry.id for entry in self.entries],
        }


@dataclass(frozen=True, slots=True)
class _Held:
    """A claimed entry, tokenised, whose pass has not begun."""

    entry: Entry
    tokens: Tokens
    tokenize_s: float
    claimed_at: float


class Worker:
    """Classifies what waits in the queue. `observe` is told of every pass; `remember` writes the cache."""

    def __init__(
        self,
        classifier: Classifier,
        queue: WorkerQueue,
        waiting_queue: WorkerQueue,
        heartbeat_queue: WorkerQueue,
        settings: WorkerSettings,
        remember: Remember,
        observe: Callable[[BatchReport], None] = lambda report: None,
    ) -> None:
        self.cost = CostModel.start()
        self.outage = Outage()
        self.skipped = self.expired = self.recovered = 0
        self._classifier = classifier
        self._layout = classifier.info.layout
        self._queue = queue
        self._waiting_queue = waiting_queue
        self._settings = settings
        self._remember = remember
        self._observe = observe
        self._held: list[_Held] = []
        self._unsent: list[Result] = []
        self._left = 0
        self._reason: Reason = "idle"
        self._arrivals = Arrivals()
        self._company = Company()
        self._typical_tokens = 32.0
        self._rate = 0.0
        self._batches = self._texts = self._last_batch = 0
        self._notes: tuple[str, ...] = ()
        self._state = "starting"
        self._started_ms = int(time.time() * 1000)
        self._stop = threading.Event()
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self.heartbeat = Heartbeat(
            heartbeat_queue,
            lease_ms=settings.lease_ms,
            batch_timeout_s=settings.batch_timeout_s,
            model=self._model_record(),
            record=self._record,
        )

    # -- lifecycle ---------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Runs passes of growing size, which compiles what the engine compiles and teaches the cost model.

        Raises what the model raises: a model that cannot do this must not become ready.
        """
        (word,) = self._classifier.tokenize(["warm"])
        self._check(self._classifier.classify([word]), 1)
        for _ in range(2):
            cost = CostModel.start()
            for wanted in (16, 64, 128, 256, 384):
                texts = self._classifier.tokenize(["warm words " * 7] * max(1, wanted // 16))
                began = time.perf_counter()
                self._check(self._classifier.classify(texts), len(texts))
                spent = time.perf_counter() - began
                cost = cost.learn(pass_tokens([len(text) for text in texts], self._layout), spent)
        self.cost = cost
        self._rate = self.budget / max(cost.pass_s(self.budget), 1e-6)

    def run(self) -> None:
        """Becomes ready and works until `stop`. Redis may come and go meanwhile."""
        self._become_ready()
        try:
            while not self._stop.is_set():
                if not self._held:
                    self._gather()
                if self._held:
                    self._pass()
        finally:
            self._wind_up()

    def stop(self) -> None:
        """Asks `run` to finish the pass in hand and return. Safe in a signal handler."""
        self._stop.set()

    @property
    def budget(self) -> int:
        """Tokens of one pass."""
        return self._settings.batch_tokens or self.cost.best_tokens()

    @property
    def state(self) -> str:
        """starting, idle, busy or stopping."""
        return self._state

    @property
    def rate(self) -> float:
        """Tokens per second lately, by the estimate that the queue counts in."""
        return self._rate

    def _become_ready(self) -> None:
        self._state = "idle"
        while not self._stop.is_set():
            try:
                self.heartbeat.start()
                self.outage.found()
                log.info("ready", extra={"action": "worker.ready", **self._record()})
                return
            except REDIS_ERRORS as error:
                self.outage.lost(error)
                self._stop.wait(RETRY_S)

    def _wind_up(self) -> None:
        """Answers what was classified, gives back what was not, in that order; the record goes last."""
        self._state = "stopping"
        self._beside.shutdown(wait=True)
        try:
            self._send(self._unsent)
            if self._held:
                self._queue.release([held.entry.id for held in self._held])
        except REDIS_ERRORS as error:
            log.warning("left to their leases: %s", error, extra={"action": "worker.release"})
        self.heartbeat.stop()
        self._classifier.close()
        log.info("stopped", extra={"action": "worker.stopped", "texts": self._texts})

    # -- gathering ---------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Claims for an idle worker; waits for the bell when there is nothing."""
        self._state = "idle"
        claim = self._exchange()
        self._reason = "full" if claim.left else "idle"
        if claim.entries or self._stop.is_set():
            self._take(claim)
            return
        try:
            if not self._waiting_queue.wait(claim.bell, WAIT_S):
                return
        except REDIS_ERRORS as error:
            self.outage.lost(error)
            self._stop.wait(RETRY_S)
            return
        window_s = keep_window_s(
            self._arrivals, self.cost, self._typical_tokens, self._settings.window_ms / 1000
        )
        if window_s > 0.0:
            self._stop.wait(window_s)
        claim = self._exchange()
        self._reason = "full" if claim.left else "window" if window_s > 0.0 else "idle"
        self._take(claim)

    def _exchange(self) -> Claim:
        """Completes what was classified and claims anew, in one round trip."""
        results, self._unsent = self._unsent, []
        if not results:
            return self._claim()
        try:
            commands = [self._queue.complete_command((r[0], r[2]) for r in results), self._claim_command()]
            _, answer = self._queue.run(commands)
        except REDIS_ERRORS:
            self._send(results)
            return NOTHING
        self.outage.found()
        self._later(self._sent, results)
        return self._claimed(read_claim(answer))

    def _claim_command(self, ahead: bool = False) -> tuple[str, Sequence[Any]]:
        """`ahead` of the end of a pass only those are claimed who cannot wait, if there may be any."""
        tokens = sum(len(held.tokens) for held in self._held)
        cost = claim_cost(tokens, self.budget, self._layout)
        bulk = self._company.bulk_tokens(self.cost, self.budget, time.monotonic())
        if ahead and bulk < self.budget:
            bulk = 0
        return self._queue.claim_command(self._settings.batch_texts, cost, min(cost, bulk))

    def _claim(self, ahead: bool = False) -> Claim:
        try:
            (answer,) = self._queue.run([self._claim_command(ahead)])
            self.outage.found()
        except REDIS_ERRORS as error:
            self.outage.lost(error)
            self._stop.wait(RETRY_S)
            return NOTHING
        return self._claimed(read_claim(answer))

    def _claimed(self, claim: Claim) -> Claim:
        self.heartbeat.hold(entry.id for entry in claim.entries)
        now = time.monotonic()
        self._arrivals = self._arrivals.seen(len(claim.entries), now)
        callers = [entry.cost for entry in claim.entries if entry.lane == "interactive"]
        self._company = self._company.seen(callers, now)
        self._left = claim.left
        self.skipped += claim.skipped
        self.expired += claim.expired
        return claim

    def _take(self, claim: Claim) -> None:
        self._held += self._tokenised(claim.entries)

    def _tokenised(self, entries: Sequence[Entry]) -> list[_Held]:
        began = time.perf_counter()
        try:
            texts = self._classifier.tokenize([entry.text for entry in entries])
        except Exception:
            if len(entries) == 1:
                log.exception(
                    "tokenising failed", extra={"action": "entry.failed", **entries[0].log_context()}
                )
                self._unsent.append(_failed(entries[0]))
                return []
            return [held for entry in entries for held in self._tokenised([entry])]
        spent = time.perf_counter() - began
        share = spent / max(len(entries), 1)
        now = time.monotonic()
        return [_Held(entry, text, share, now) for entry, text in zip(entries, texts, strict=True)]

    # -- the pass ----------------------------------------------------------------------------------

    def _pass(self) -> None:
        """One forward pass over the next of the held texts."""
        self._state = "busy"
        lengths = [len(held.tokens) for held in self._held]
        chosen = next_pass(lengths, self._layout, self.budget)
        batch = [self._held[index] for index in chosen]
        kept = set(chosen)
        self._held = [held for index, held in enumerate(self._held) if index not in kept]
        computed = pass_tokens([len(held.tokens) for held in batch], self._layout)
        ahead = self._look_ahead(self.cost.pass_s(computed))
        began = time.monotonic()
        self.heartbeat.busy(began)
        results = self._classify(batch, began)
        self.heartbeat.busy(None)
        spent = time.monotonic() - began
        self._learn(batch, computed, spent)
        self._report(batch, computed, began, spent, results)
        if ahead is not None:
            self._take(ahead.result())
        self._unsent += results
        if self._held:
            results, self._unsent = self._unsent, []
            self._later(self._send, results)

    def _look_ahead(self, pass_s: float) -> Future[Claim] | None:
        """Claims beside the pass, just before it ends; not when enough is held, or the pass is too short."""
        held = sum(len(held.tokens) for held in self._held)
        solo = any(item.entry.solo for item in self._held)
        if held >= self.budget or solo or (pass_s < 2 * CLAIM_AHEAD_S and not self._left):
            return None
        return self._beside.submit(self._claim_late, pass_s - CLAIM_AHEAD_S)

    def _claim_late(self, delay_s: float) -> Claim:
        if (delay_s > 0 and self._stop.wait(delay_s)) or self._stop.is_set():
            return NOTHING
        claim = self._claim(ahead=True)
        self._reason = "full" if claim.left else "idle"
        return claim

    def _classify(self, batch: Sequence[_Held], began: float) -> list[Result]:
        """Results in the order of the batch. If it raises, each text runs alone and only bad ones fail."""
        try:
            rows = self._classifier.classify([held.tokens for held in batch])
            self._check(rows, len(batch))
        except Exception:
            if len(batch) > 1:
                log.warning("a pass failed, running its texts alone", extra={"action": "batch.isolate"})
                return [result for held in batch for result in self._classify([held], began)]
            log.exception("a text failed", extra={"action": "entry.failed", **batch[0].entry.log_context()})
            return [_failed(batch[0].entry)]
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
            )
            results.append((held.entry.id, prediction, prediction.encode()))
        return results

    def _check(self, rows: Sequence[Sequence[float]], expected: int) -> None:
        if len(rows) != expected or not all(math.isfinite(score) for row in rows for score in row):
            raise ValueError(
                f"the model gave {len(rows)} rows for {expected} texts, or a score that is no number"
            )

    # -- afterwards --------------------------------------------------------------------------------

    def _later(self, work: Callable[[Sequence[Result]], None], results: Sequence[Result]) -> None:
        """Does `work` beside the next pass; what goes wrong there is told."""

        def told(done: Future[None]) -> None:
            if error := done.exception():
                log.error("beside a pass: %s", error, exc_info=error, extra={"action": "worker.beside"})

        self._beside.submit(work, results).add_done_callback(told)

    def _send(self, results: Sequence[Result]) -> None:
        """Completes, with patience; a result that Redis does not take in time is left to its lease."""
        if not results:
            return
        deadline = time.monotonic() + COMPLETE_PATIENCE_S
        while True:
            try:
                self._queue.complete((result[0], result[2]) for result in results)
                self.outage.found()
                break
            except REDIS_ERRORS as error:
                self.outage.lost(error)
                if time.monotonic() > deadline or self._stop.is_set():
                    self.heartbeat.drop(result[0] for result in results)
                    return
                time.sleep(RETRY_S)
        self._sent(results)

    def _sent(self, results: Sequence[Result]) -> None:
        self.heartbeat.drop(result[0] for result in results)
        try:
            self._remember(
                (entry, result, raw) for entry, result, raw in results if isinstance(result, Prediction)
            )
        except REDIS_ERRORS as error:
            log.debug("not cached: %s", error, extra={"action": "cache.unwritten"})

    def _learn(self, batch: Sequence[_Held], computed: int, spent: float) -> None:
        self.cost = self.cost.learn(computed, spent)
        cost = sum(held.entry.cost for held in batch)
        self._rate += 0.05 * (cost / max(spent, 1e-6) - self._rate)
        self._typical_tokens += 0.05 * (computed - self._typical_tokens)
        self._batches += 1
        self._texts += len(batch)
        self._last_batch = len(batch)

    def _report(
        self, batch: Sequence[_Held], computed: int, began: float, spent: float, results: Sequence[Result]
    ) -> None:
        solo = any(held.entry.solo for held in batch)
        report = BatchReport(
            number=self._batches,
            entries=tuple(held.entry for held in batch),
            size=len(batch),
            tokens=sum(len(held.tokens) for held in batch),
            computed_tokens=computed,
            reason="solo" if solo else self._reason,
            queue_s=tuple(held.entry.waited_ms / 1000 + began - held.claimed_at for held in batch),
            tokenize_s=sum(held.tokenize_s for held in batch),
            model_s=spent,
            truncated=sum(held.tokens.truncated for held in batch),
            unknown=sum(held.tokens.unknown for held in batch),
            failures=sum(isinstance(result, Failure) for _, result, _ in results),
        )
        note = BatchNote(
            report.number,
            report.size,
            report.tokens,
            computed,
            report.reason,
            max(report.queue_s) * 1000,
            spent * 1000,
        )
        # Replaced, never changed: the heartbeat reads it.
        self._notes = (*self._notes[1 - NOTES :], note.encode())
        self._observe(report)

    def _record(self) -> dict[str, Any]:
        info = self._classifier.info
        return {
            "revision": info.revision,
            "engine": info.engine,
            "precision": info.precision,
            "state": self._state,
            "rate": round(self._rate, 1),
            "batches": self._batches,
            "texts": self._texts,
            "last_batch": self._last_batch,
            "started_ms": self._started_ms,
            "recent": ";".join(self._notes),
        }

    def _model_record(self) -> dict[str, Any]:
        info = self._classifier.info
        return {
            "name": info.name,
            "revision": info.revision,
            "labels": "\n".join(info.labels),
            "max_tokens": info.max_tokens,
            "engine": info.engine,
            "precision": info.precision,
        }


def _failed(entry: Entry) -> Result:
    failure = Failure("inference_failed", "the model failed on this text")
    return entry.id, failure, failure.encode()
