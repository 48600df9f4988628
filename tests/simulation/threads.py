"""The threads of simulated workers: greenlets, of which one runs until it waits.

A thread may be interrupted wherever it waits, sends or receives, and at some of its looks at the clock, which
the seed draws. So may real ones, and between any two instructions besides.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from batcher.worker.host import Host

# How often a look at the clock interrupts a thread, and for how long at most.
INTERRUPTED, INTERRUPTED_S = 0.05, 0.003


class Thread(greenlet):
    """A simulated thread. `waits` counts its waits, so that nothing ends a wait that is over."""

    waits = 0


class Process:
    """One simulated worker process. Everything in it ends at once when it dies, as after SIGKILL."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, random: Random) -> None:
        self.name = name
        self.dead = False
        self.on_death: list[Callable[[], None]] = []
        self._loop, self._random = loop, random
        self._main = getcurrent()
        self._threads: list[Thread] = []
        self._frozen_until = 0.0

    @property
    def host(self) -> Host:
        return Host(self.now, lambda: Event(self), lambda name: Pool(self), self._daemon, self.exit)

    @property
    def alive(self) -> bool:
        """Whether a thread of it has not ended."""
        return not self.dead and not all(thread.dead for thread in self._threads)

    def start(self, work: Callable[[], None]) -> Thread:
        """Runs `work` in a new thread."""
        thread = Thread(work, self._main)
        self._threads.append(thread)
        self._loop.call_soon(self._go_on, thread, 0, None)
        return thread

    def now(self) -> float:
        if isinstance(getcurrent(), Thread) and self._random.random() < INTERRUPTED:
            self.sleep(self._random.random() * INTERRUPTED_S)
        return self._loop.time()

    def sleep(self, seconds: float) -> None:
        self.wait(lambda resume: None, seconds)

    def wait(self, begin: Callable[[Callable[[Any], None]], object], timeout_s: float | None = None) -> Any:
        """The calling thread waits until what is passed to `begin` is called with a value, which it returns.

        None after `timeout_s`.
        """
        thread = getcurrent()
        assert isinstance(thread, Thread), "only a simulated thread may wait"
        if self.dead:
            raise GreenletExit
        thread.waits += 1
        number = thread.waits
        begin(lambda value: self._loop.call_soon(self._go_on, thread, number, value))
        timer = (
            None if timeout_s is None else self._loop.call_later(timeout_s, self._go_on, thread, number, None)
        )
        value = self._main.switch()
        if timer is not None:
            timer.cancel()
        return value

    def _go_on(self, thread: Thread, number: int, value: Any) -> None:
        if self.dead or thread.dead or thread.waits != number:
            return
        if self._loop.time() < self._frozen_until:
            self._loop.call_at(self._frozen_until, self._go_on, thread, number, value)
            return
        thread.waits += 1
        thread.switch(value) if number else thread.switch()

    def freeze(self, seconds: float) -> None:
        """No thread goes on for this long, as after SIGSTOP."""
        self._frozen_until = self._loop.time() + seconds

    def die(self) -> None:
        """Ends the process. Called in one of its threads, it does not return."""
        if not self.dead:
            self.dead = True
            for tell in self.on_death:
                tell()
            self._loop.call_soon(self._end)
        if isinstance(getcurrent(), Thread):
            raise GreenletExit

    def _end(self) -> None:
        for thread in self._threads:
            if thread:
                thread.throw(GreenletExit)

    def exit(self, status: int) -> None:
        self.die()

    def _daemon(self, name: str, work: Callable[[], None]) -> threading.Thread:
        return Daemon(self, work)


class Event(threading.Event):
    """An event for which simulated threads of one process wait."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._waiting: list[Callable[[Any], None]] = []

    def set(self) -> None:
        super().set()
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume(True)

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_set():
            self._process.wait(self._waiting.append, timeout)
        return self.is_set()


class Daemon(threading.Thread):
    """A simulated thread with the interface of a real one."""

    def __init__(self, process: Process, work: Callable[[], None]) -> None:
        super().__init__()
        self._process, self._work = process, work
        self._ended = Event(process)
        self._begun = False

    def start(self) -> None:
        self._begun = True
        self._process.start(self._run_all)

    def _run_all(self) -> None:
        self._work()
        self._ended.set()

    def is_alive(self) -> bool:
        return self._begun and not self._ended.is_set()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait(timeout)


class Result(Future[Any]):
    """A future for which a simulated thread waits."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._ready = Event(process)
        self.add_done_callback(lambda future: self._ready.set())

    def result(self, timeout: float | None = None) -> Any:
        self._ready.wait(timeout)
        return super().result(0)


class Pool(Executor):
    """An executor with one simulated thread, which ends whenever there is nothing to do."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._work: deque[tuple[Result, Callable[[], Any]]] = deque()
        self._idle = Event(process)
        self._idle.set()

    def submit(self, work: Any, /, *arguments: Any, **named: Any) -> Result:
        future = Result(self._process)
        self._work.append((future, lambda: work(*arguments, **named)))
        if self._idle.is_set():
            self._idle.clear()
            self._process.start(self._run)
        return future

    def _run(self) -> None:
        while self._work:
            future, work = self._work.popleft()
            try:
                future.set_result(work())
            except Exception as error:
                future.set_exception(error)
        self._idle.set()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if wait:
            self._idle.wait()
