"""The worker: wait -> claim -> tokenise -> classify -> complete, until it is asked to stop.

The main thread runs forward passes; while the worker is idle, it does everything else too. While a batch
runs, a second thread completes the previous batch and claims entries for the next one. It claims as late as
possible, so that entries go to whichever worker is free first. A third thread follows up
on a batch once its results are sent: no answer waits for metrics, traces or statistics.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from batcher.connection.outage import REDIS_ERRORS, reason
from batcher.core.commands import Claim, Claimed
from batcher.core.snapshot import needs_s
from batcher.messages import Prediction, Result
from batcher.settings import WorkerSettings
from batcher.worker.batching import ClaimedTexts, Reason, keep_window_s
from batcher.worker.exchange import Exchange
from batcher.worker.heartbeat import HeartbeatQueue, Heartbeats, Records
from batcher.worker.host import Host
from batcher.worker.inference import Faults, FinishedBatch, Inference, Tokenized, measure_long, warm_up
from batcher.worker.queue import Queues
from batcher.worker.stats import FOLLOW_UP_S, BatchReport, FollowUp, Remember, WorkerStats, model_record
from batcher.worker.turns import Turns
from model_store import Classifier
from model_store.rows import computed_tokens

# A batch of bulk entries only waits for its turn as if it took this many times as long.
BULK_WEIGHT = 8

log = logging.getLogger(__name__)

# How long before the running batch ends to claim: a fixed time, plus a share of the batch for tokenising.
# With a backlog the share is larger, because no other worker is free and an idle engine is most expensive.
CLAIM_AHEAD_S = 0.0025
TOKENIZE_SHARE = 0.05
TOKENIZE_SHARE_BACKLOG = 0.2


class Worker:
    """Classifies entries from the queue. Calls `observe` after each batch, `remember` to write the cache.

    It runs a batch only when it has the turn, if it shares the processor with others.
    """

    turns: Turns | None = None
    _has_turn = False

    def __init__(
        self,
        classifier: Classifier,
        queues: Queues[HeartbeatQueue],
        settings: WorkerSettings,
        remember: Remember,
        observe: Callable[[BatchReport], None] = lambda report: None,
        host: Host = Host(),  # noqa: B008  # immutable
    ) -> None:
        self._host = host
        self._stop = host.event()
        # Set when the running batch ends. The thread that takes the lock first decides on the next claim.
        self._over = host.event()
        self._turn = threading.Lock()
        # starting, idle, busy or stopping
        self.state = "starting"
        self._classifier = classifier
        self._layout = classifier.info.layout
        self.queues = queues
        self.inference = Inference(classifier, Faults(classifier), host.now)
        self._settings = settings
        self._pool = ClaimedTexts(self._layout, windows=classifier.info.windows is not None)
        self._unsent: list[Result] = []
        self._finished: FinishedBatch | None = None
        self.stats = WorkerStats()
        self._long_s: list[tuple[int, float]] = []
        self._second_thread = host.thread("beside")
        self._third_thread = host.thread("follow-up")
        self._remember = remember
        self.follow_up = FollowUp(self.stats, self.inference, self._cache, observe)
        queues.heartbeat.recall = self.follow_up.recent.find
        self.heartbeat = Heartbeats(queues, settings, self.inference.running_s, self._records, host)
        self.exchange = Exchange(queues, settings, self._layout, self.heartbeat, self._stop, host)

    # -- lifecycle ---------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Measures what a forward pass costs. Raises whatever the model raises."""
        self.inference.cost = cost = warm_up(self._classifier)
        budget = self.budget()
        self.stats.rate = budget / max(cost.batch_s(budget), 1e-6)
        self._measure_long(self._settings.batch_timeout_s)

    def _measure_long(self, timeout_s: float) -> None:
        """Measures long texts. Says so if one of them would take longer than a batch may."""
        self._long_s = measure_long(self._classifier)
        most = self._classifier.info.max_tokens
        if (seconds := needs_s(most, self._long_s)) > timeout_s:
            message = (
                "a text of %d tokens would take about %.0f s, and this worker ends after a batch of %g s: "
            )
            message += "lower MILLRACE_MAX_TOKENS, or read long texts in windows (MILLRACE_TEXT_WINDOWS)"
            log.warning(message, most, seconds, timeout_s, extra={"action": "model.slow"})

    def run(self) -> None:
        """Becomes ready and works until `stop` is called or the engine breaks. Survives outages of Redis."""
        self._become_ready()
        try:
            while not self._stop.is_set():
                if not self._pool.texts:
                    self._gather()
                if self._pool.texts and not self.broken:
                    self._run_batch()
                if self.broken:
                    self.stop()
        finally:
            self._wind_up()

    def stop(self) -> None:
        """Asks `run` to finish the current batch and return. Safe to call from a signal handler."""
        self._stop.set()
        self.heartbeat.end_wait()

    def budget(self) -> int:
        """Tokens of one batch, by what a forward pass costs."""
        full = self._classifier.info.full_tokens
        return self._settings.batch_tokens or self.inference.cost.best_tokens(
            backlog=self.exchange.left > 0, least=full // 2, most=full
        )

    @property
    def broken(self) -> bool:
        """Whether the engine is at fault, so that a new process is needed."""
        return self.inference.faults.broken

    def _records(self) -> Records:
        info = self._classifier.info
        return self.stats.record(info, self.state), model_record(info, self._long_s)

    def _become_ready(self) -> None:
        self.state = "idle"
        while not self._stop.is_set():
            try:
                self.heartbeat.start()
                self.exchange.here.outage.found()
                log.info("ready", extra={"action": "worker.ready", **self._records()[0]})
                return
            except REDIS_ERRORS as error:
                self.exchange.here.outage.lost(error)
                self._stop.wait(self.exchange.here.outage.pause_s)

    def _wind_up(self) -> None:
        """Sends finished results, then releases the remaining entries; removes the worker's record last.

        Entries on which a broken engine failed are retried alone by other workers, as after a crash.
        """
        self.state = "stopping"
        self._second_thread.shutdown(wait=True)
        try:
            self._deliver(*self._take_unsent())
            if self._pool.texts:
                suspects = self.inference.faults.suspects
                self.exchange.release([entry for entry in self._pool.ids if entry not in suspects])
        except REDIS_ERRORS as error:
            message = "could not release entries, whose leases will expire: %s"
            log.warning(message, reason(error), extra={"action": "worker.release"})
        self.exchange.finish()
        self._third_thread.shutdown(wait=True)
        self.heartbeat.stop(self.inference.faults.suspects)
        self._classifier.close()
        log.info("stopped", extra={"action": "worker.stopped", "texts": self.stats.texts})

    # -- gathering ---------------------------------------------------------------------------------

    def _gather(self) -> None:
        """Sends finished results and claims entries; waits for them if none are known to be waiting."""
        self.state = "idle"
        results, finished = self._take_unsent()
        window_s = 0.0
        if self.exchange.left or not (results or self.exchange.here.idle):
            sent, claim = self.exchange.swap(results, self._claim_command(self.budget()))
            self._book(finished, sent)
        else:
            typical = self.stats.typical_tokens
            most_s = self._settings.window_ms / 1000
            window_s = keep_window_s(self.exchange.here.arrivals, self.inference.cost, typical, most_s)
            if results and window_s <= 0.0 and not self._stop.is_set():
                command = self._claim_command(self.budget(), waits=True)
                claim = self.exchange.send_and_wait(results, command, partial(self._book, finished))
            else:
                self._deliver(results, finished, idle=True)
                if self._stop.is_set() or not self.exchange.here.idle:
                    return
                claim = self.exchange.wait(window_s, self._claim_command(self.budget(), waits=True))
        self._keep(self._tokenise(claim, "window" if window_s > 0.0 else "idle"))

    def _claim_command(self, budget: int, *, ahead: bool = False, waits: bool = False) -> Claim:
        return self.exchange.claim_command(self._pool, self.inference.cost, budget, ahead=ahead, waits=waits)

    def _tokenise(self, claim: Claimed, reason: Reason) -> Tokenized:
        """Tokenises what was claimed, for `reason` unless there was more than a batch."""
        return self.inference.tokenize_entries(claim.entries, "full" if claim.left else reason)

    def _keep(self, tokenised: Tokenized) -> None:
        self._pool.add(tokenised[0])
        self._unsent += tokenised[1]

    # -- running a batch ---------------------------------------------------------------------------

    def _run_batch(self) -> None:
        """Runs the next batch of the held texts, once it is this worker's turn."""
        if self.turns is None:
            self._run_held()
            return
        cost = self.inference.cost
        budget = self.budget()
        only_bulk = self._pool.only_bulk
        if only_bulk:
            budget = self.exchange.here.bulk_budget(cost, budget)
        cost_s = cost.batch_s(min(self._pool.tokens, budget))
        self.turns.take(cost_s * (BULK_WEIGHT if only_bulk else 1), self._claim_more)
        self._has_turn = True
        try:
            self._run_held()
        finally:
            self._end_turn()

    def _run_held(self) -> None:
        self.state = "busy"
        budget = self.budget()
        cost = self.inference.cost
        batch = self._pool.next_batch(budget, lambda: self.exchange.here.bulk_budget(cost, budget))
        computed = computed_tokens([*map(len, batch)], self._layout)
        # A quarantined text may crash this process, so nothing else is claimed while it or its windows run.
        batch_s = cost.batch_s(computed)
        ahead = None if batch[0].entry.solo else self._look_ahead(batch_s, budget)
        try:
            self._finished = self.inference.classify_entries(batch, computed)
        finally:
            self._end_turn()
        self._unsent += self._finished.results
        if self._pool.texts:
            self._pool.forget_failed()
        if ahead is not None:
            self._over.set()
            if not self._turn.acquire(blocking=False):
                if not (self._pool.texts or ahead.done()):
                    self._deliver(*self._take_unsent())
                self._keep(ahead.result())
        elif self._pool.gives_way and not (batch[0].entry.solo or self._stop.is_set()):
            self._claim_beside(budget)
        if self._pool.texts:
            self._second_thread.submit(self._logged, self._deliver, *self._take_unsent())

    def _claim_beside(self, budget: int) -> None:
        """Sends results and claims, although texts are held: those that arrive go before them."""
        results, finished = self._take_unsent()
        sent, claim = self.exchange.swap(results, self._claim_command(budget, ahead=True))
        self._book(finished, sent)
        self._keep(self._tokenise(claim, "idle"))

    def _look_ahead(self, batch_s: float, budget: int) -> Future[Tokenized] | None:
        """Claims and tokenises just before the running batch ends, unless it is short or enough is held.

        Texts that arrive until it ends go before what gives way, so that the claim is then made at its end.
        """
        backlog = self.exchange.left > 0
        pool = self._pool
        enough = (pool.texts and pool.tokens >= budget) or (batch_s < 2 * CLAIM_AHEAD_S and not backlog)
        if enough or (pool.texts and pool.gives_way):
            return None
        share = TOKENIZE_SHARE_BACKLOG if backlog else TOKENIZE_SHARE
        delay_s = batch_s * (1 - share) - CLAIM_AHEAD_S
        self._over = self._host.event()
        self._turn = threading.Lock()
        return self._second_thread.submit(self._claim_late, delay_s, budget, self._over, self._turn)

    def _claim_late(
        self, delay_s: float, budget: int, over: threading.Event, turn: threading.Lock
    ) -> Tokenized:
        """Claims nothing if the batch ends before `delay_s` has passed: its results then go first."""
        if (delay_s > 0 and over.wait(delay_s)) or self._stop.is_set() or not turn.acquire(blocking=False):
            return [], []
        return self._tokenise(self.exchange.claim(self._claim_command(budget, ahead=True)), "idle")

    def _take_unsent(self) -> tuple[list[Result], FinishedBatch | None]:
        taken = (self._unsent, self._finished)
        self._unsent = []
        self._finished = None
        return taken

    def _deliver(self, results: list[Result], finished: FinishedBatch | None, idle: bool = False) -> None:
        self._book(finished, self.exchange.send(results, idle=idle))

    def _book(self, finished: FinishedBatch | None, sent: bool) -> None:
        if finished is not None:
            finished.sent_at = self._host.now() if sent else 0.0
            self.follow_up.finished.append(finished)
            if not self.follow_up.due:
                self.follow_up.due = True
                self._third_thread.submit(self._stop.wait, FOLLOW_UP_S)
                self._third_thread.submit(self.follow_up.run)

    def _cache(self, finished: FinishedBatch) -> None:
        """Caches the predictions of a batch, unless sending them did."""
        if not self.exchange.remembers:
            found = ((entry, one) for entry, one in finished.results if isinstance(one, Prediction))
            self._remember(found, min(item.claimed_at for item in finished.entries))

    def _logged(self, work: Callable[..., None], *arguments: Any) -> None:
        """Runs `work` in another thread, where errors would get lost."""
        try:
            work(*arguments)
        except Exception as error:
            log.exception("error in another thread: %s", error, extra={"action": "worker.beside"})

    # -- turns -------------------------------------------------------------------------------------

    def _end_turn(self) -> None:
        if self._has_turn and self.turns is not None:
            self._has_turn = False
            self.turns.end()

    def _claim_more(self) -> None:
        """Claims what has arrived while other models ran: one batch instead of two."""
        if not self._pool.only_solo:
            self._keep(self._second_thread.submit(self._more).result())

    def _more(self) -> Tokenized:
        command = self._claim_command(self.budget())
        if self._stop.is_set() or not command.cost:
            return [], []
        return self._tokenise(self.exchange.claim(command), "window")
