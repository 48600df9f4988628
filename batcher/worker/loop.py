"""The worker: wait -> claim -> tokenise -> classify -> complete, until it is asked to stop.

The main thread runs forward passes; while the worker is idle, it does everything else too. While a batch
runs, a second thread completes the previous batch and claims entries for the next one. It claims as late as
possible, so that entries go to whichever worker is free first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from batcher.core.commands import Claim, Claimed
from batcher.core.outage import REDIS_ERRORS, Outage, reason
from batcher.settings import WorkerSettings
from batcher.worker.batching import CostModel, Reason, keep_window_s, next_pass
from batcher.worker.claimer import NOTHING, Claimer
from batcher.worker.heartbeat import Heartbeat
from batcher.worker.inference import Inference, Result, Tokenized, TokenizedEntry
from batcher.worker.queue import WorkerQueue
from batcher.worker.results import Remember, ResultSender, encoded
from batcher.worker.stats import BatchReport, WorkerStats, model_record
from batcher.worker.warm_up import warm_up
from model_store import Classifier
from model_store.rows import computed_tokens

log = logging.getLogger(__name__)

# How long before the running batch ends to claim: a fixed time, plus a share of the batch for tokenising.
# With a backlog the share is larger, because no other worker is free and an idle engine is most expensive.
CLAIM_AHEAD_S = 0.0025
TOKENIZE_SHARE = 0.05
TOKENIZE_SHARE_BACKLOG = 0.2


class Worker:
    """Classifies entries from the queue. Calls `observe` after each batch, `remember` to write the cache."""

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
        self._classifier = classifier
        self._inference = Inference(classifier)
        self._layout = classifier.info.layout
        self._queue = queue
        self._settings = settings
        self._observe = observe
        self._held: list[TokenizedEntry] = []
        self._unsent: list[Result] = []
        self._stats = WorkerStats()
        self._state = "starting"
        self._stop = threading.Event()
        self._second_thread = ThreadPoolExecutor(1, thread_name_prefix="beside")
        self.heartbeat = Heartbeat(
            heartbeat_queue,
            lease_ms=settings.lease_ms,
            batch_timeout_s=settings.batch_timeout_s,
            model=model_record(classifier.info),
            record=self._record,
        )
        self.claims = Claimer(
            queue, waiting_queue, self.heartbeat, self.outage, settings, self._layout, self._stop
        )
        self._sender = ResultSender(queue, self.heartbeat, self.outage, remember, self._stop)

    # -- lifecycle ---------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Measures what a forward pass costs. Raises whatever the model raises."""
        self.cost = warm_up(self._classifier)
        self._stats.rate = self.budget / max(self.cost.pass_s(self.budget), 1e-6)

    def run(self) -> None:
        """Becomes ready and works until `stop` is called or the engine breaks. Survives outages of Redis."""
        self._become_ready()
        try:
            while not self._stop.is_set():
                if not self._held:
                    self._gather()
                if self._held and not self.broken:
                    self._run_batch()
                if self.broken:
                    self.stop()
        finally:
            self._wind_up()

    def stop(self) -> None:
        """Asks `run` to finish the current batch and return. Safe to call from a signal handler."""
        self._stop.set()

    @property
    def budget(self) -> int:
        """Tokens of one batch."""
        return self._settings.batch_tokens or self.cost.best_tokens(backlog=self.claims.left > 0)

    @property
    def state(self) -> str:
        """starting, idle, busy or stopping."""
        return self._state

    @property
    def broken(self) -> bool:
        """Whether the engine has failed its self-test, so that a new process is needed."""
        return self._inference.broken

    @property
    def rate(self) -> float:
        """Recent throughput in tokens per second, in the queue's estimated tokens."""
        return self._stats.rate

    def _record(self) -> dict[str, Any]:
        return self._stats.record(self._classifier.info, self._state)

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
                self._stop.wait(self.outage.pause_s)

    def _wind_up(self) -> None:
        """Sends finished results, then releases the remaining entries; removes the worker's record last.

        Entries on which a broken engine failed are retried alone by other workers, as after a crash.
        """
        self._state = "stopping"
        self._second_thread.shutdown(wait=True)
        try:
            self._sender.send(self._unsent)
            if self._held:
                self._queue.release([held.entry.id for held in self._held])
        except REDIS_ERRORS as error:
            message = "could not release entries, their leases will expire: %s"
            log.warning(message, reason(error), extra={"action": "worker.release"})
        self.heartbeat.stop(self._inference.suspects)
        self._classifier.close()
        log.info("stopped", extra={"action": "worker.stopped", "texts": self._stats.texts})

    # -- gathering ---------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Sends finished results and claims entries; waits for them if none are known to be waiting."""
        self._state = "idle"
        results, self._unsent = self._unsent, []
        window_s = 0.0
        if self.claims.left or not (results or self.claims.idle):
            claim = self._exchange(results)
        else:
            if results:
                self.claims.idle = self._sender.complete(results, idle=True)
                if self.claims.idle:
                    self._run_aside(self._sender.sent, results)
            if self._stop.is_set() or not self.claims.idle:
                return
            typical, most_s = self._stats.typical_tokens, self._settings.window_ms / 1000
            window_s = keep_window_s(self.claims.arrivals, self.cost, typical, most_s)
            claim = self.claims.wait(window_s, self._claim_command(waits=True))
        if claim.entries:
            self._state = "busy"
        reason: Reason = "full" if claim.left else "window" if window_s > 0.0 else "idle"
        self._keep(self._tokenised(claim, reason))

    def _exchange(self, results: Sequence[Result]) -> Claimed:
        """Completes results and claims new entries in one round trip."""
        if not results:
            return self.claims.claim(self._claim_command())
        try:
            commands = [self._queue.complete_command(encoded(results)), self._claim_command()]
            completed, claimed = self._queue.run(commands)
        except REDIS_ERRORS:
            self._sender.send(results)
            return NOTHING
        self._queue.read_completed(completed)
        self._run_aside(self._sender.sent, results)
        return self.claims.taken(claimed, noted=True)

    def _claim_command(self, *, ahead: bool = False, waits: bool = False) -> Claim:
        return self.claims.command(self._held, self.cost, self.budget, ahead=ahead, waits=waits)

    def _tokenised(self, claim: Claimed, reason: Reason) -> Tokenized:
        with self.heartbeat.watched():
            return self._inference.tokenize_entries(claim.entries, reason)

    def _keep(self, tokenised: Tokenized) -> None:
        held, failed = tokenised
        self._held += held
        self._unsent += failed

    # -- running a batch ---------------------------------------------------------------------------

    def _run_batch(self) -> None:
        """Runs the next batch of the held texts."""
        self._state = "busy"
        batch = self._next_batch()
        computed = computed_tokens([len(held.tokens) for held in batch], self._layout)
        # A quarantined text may crash this process, so nothing else is claimed while it runs.
        alone = batch[0].entry.solo
        ahead = None if alone else self._look_ahead(self.cost.pass_s(computed))
        began = time.monotonic()
        with self.heartbeat.watched():
            results = self._inference.classify_entries(batch, began)
            spent = time.monotonic() - began
            self.cost = self.cost.learn(computed, spent)
            self._observe(self._stats.add(batch, results, computed, began, spent))
        if ahead is not None:
            self._keep(ahead.result())
        self._unsent += results
        if self._held:
            results, self._unsent = self._unsent, []
            self._run_aside(self._sender.send, results)

    def _next_batch(self) -> list[TokenizedEntry]:
        """Removes the next batch from the held texts and returns it."""
        chosen = next_pass([len(held.tokens) for held in self._held], self._layout, self.budget)
        batch = [self._held[index] for index in chosen]
        kept = set(chosen)
        self._held = [held for index, held in enumerate(self._held) if index not in kept]
        return batch

    def _look_ahead(self, pass_s: float) -> Future[Tokenized] | None:
        """Claims and tokenises just before the running batch ends, unless it is short or enough is held."""
        held = sum(len(held.tokens) for held in self._held)
        if held >= self.budget or (pass_s < 2 * CLAIM_AHEAD_S and not self.claims.left):
            return None
        share = TOKENIZE_SHARE_BACKLOG if self.claims.left else TOKENIZE_SHARE
        return self._second_thread.submit(self._claim_late, pass_s * (1 - share) - CLAIM_AHEAD_S)

    def _claim_late(self, delay_s: float) -> Tokenized:
        if (delay_s > 0 and self._stop.wait(delay_s)) or self._stop.is_set():
            return [], []
        claim = self.claims.claim(self._claim_command(ahead=True))
        return self._tokenised(claim, "full" if claim.left else "idle")

    def _run_aside(self, work: Callable[[Sequence[Result]], None], results: Sequence[Result]) -> None:
        """Runs `work` in the second thread and logs any error."""

        def log_error(done: Future[None]) -> None:
            if error := done.exception():
                fields = {"action": "worker.beside"}
                log.error("error in the second thread: %s", error, exc_info=error, extra=fields)

        self._second_thread.submit(work, results).add_done_callback(log_error)
