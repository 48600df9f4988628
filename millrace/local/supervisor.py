"""Child processes: started in one guarded group, watched, started again when they die, stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from millrace.errors import CommandError

_FIRST_BACKOFF_S = 0.25
_LONGEST_BACKOFF_S = 10.0
# A process that lived this long had started well: its next restart is quick again.
_SOUND_S = 30.0
_GUARD = Path(__file__).with_name("reaper.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """How one process is started and stopped. It has `stop_s` between SIGTERM and SIGKILL.

    `last_words` tells why it ended, for a program that does not say so on stderr itself.
    """

    name: str
    command: list[str]
    stop_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    last_words: Callable[[], str] = str


class Group:
    """The process group that ends with this process, however that ends (see `guard`)."""

    def __init__(self) -> None:
        self._leash = -1
        self.alive = -1
        self._guard: asyncio.subprocess.Process | None = None

    @property
    def id(self) -> int:
        """The process group that children join."""
        assert self._guard is not None, "the group is not open"
        return self._guard.pid

    async def open(self) -> None:
        """Starts the guard."""
        leash, self._leash = os.pipe()
        alive, self.alive = os.pipe()
        self._guard = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_GUARD), str(leash), str(alive)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(leash, alive),
            process_group=0,
        )
        os.close(leash)
        os.close(alive)

    async def watch(self) -> None:
        """Raises CommandError should the guard end: without it processes could be left behind."""
        assert self._guard is not None, "the group is not open"
        raise CommandError(f"the guard of the processes {told(await self._guard.wait())}.", status=1)

    async def close(self) -> None:
        """Lets the guard clear whatever is left, and waits for it."""
        for pipe in (self._leash, self.alive):
            if pipe >= 0:
                os.close(pipe)
        if self._guard is not None:
            await self._guard.wait()


class Child:
    """One process of the mill. Until `settled` is set its end is the end of all; then it comes back."""

    def __init__(self, plan: Plan, group: Group, settled: asyncio.Event) -> None:
        self.plan = plan
        self._group = group
        self._settled = settled
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts the process in the guarded group, out of reach of the terminal's Ctrl-C."""
        self._process = await asyncio.create_subprocess_exec(
            *self.plan.command,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self.plan.environment},
            pass_fds=(*self.plan.pass_fds, self._group.alive),
            process_group=self._group.id,
        )

    async def keep(self) -> None:
        """Starts the process again whenever it dies. Returns never; raises CommandError if that is no use."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            assert self._process is not None, "start() comes first"
            started = time.monotonic()
            status = await self._process.wait()
            if status == 2:  # the process has said why
                raise CommandError(f"{self.plan.name} cannot start.")
            if not self._settled.is_set():
                why = self.plan.last_words()
                told_why = f": {why}" if why else ""
                raise CommandError(
                    f"{self.plan.name} {told(status)} before it was ready{told_why}.", status=1
                )
            if time.monotonic() - started > _SOUND_S:
                backoff_s = _FIRST_BACKOFF_S
            say(f"{self.plan.name} {told(status)}; starting it again in {backoff_s:g} s")
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            await self.start()

    async def stop(self, hurry: asyncio.Event) -> None:
        """SIGTERM, and SIGKILL when its time is over or someone is in a hurry."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        ended, hurried = asyncio.ensure_future(process.wait()), asyncio.ensure_future(hurry.wait())
        await asyncio.wait({ended, hurried}, timeout=self.plan.stop_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not ended.done():
            say(f"{self.plan.name} {'was' if hurry.is_set() else 'did not stop in time and was'} killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await ended


async def stop_in_order(stages: Iterable[list[Child]], hurry: asyncio.Event) -> None:
    """Stops one stage after the other; the children of a stage together."""
    for stage in stages:
        await asyncio.gather(*(child.stop(hurry) for child in stage))


def told(status: int) -> str:
    """What an exit status means, in words."""
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


def say(line: str) -> None:
    """One line to the person at the terminal, at once."""
    print(line, flush=True)
