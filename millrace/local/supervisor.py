"""Child processes: starts them in one process group, restarts them when they die, and stops them in order."""

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
# A process that ran for this long had started properly, so its next restart is quick again.
_STABLE_S = 30.0
_REAPER = Path(__file__).with_name("reaper.py")


@dataclass(frozen=True, slots=True)
class Plan:
    """How one process is started and stopped. It has `stop_s` between SIGTERM and SIGKILL.

    `umask` is that of its files, -1 for ours. `why_it_ended` returns the reason, for a program that does not
    print it on stderr.
    """

    name: str
    command: list[str]
    stop_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    umask: int = -1
    why_it_ended: Callable[[], str] = str


class Group:
    """A process group that ends with this process, however this process ends (see `reaper`)."""

    def __init__(self) -> None:
        self._leash = -1
        self.alive = -1
        self._reaper: asyncio.subprocess.Process | None = None

    @property
    def id(self) -> int:
        """The process group that children join."""
        assert self._reaper is not None, "the group is not open"
        return self._reaper.pid

    async def open(self) -> None:
        """Starts the reaper, whose process group the children join."""
        leash, self._leash = os.pipe()
        alive, self.alive = os.pipe()
        self._reaper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_REAPER), str(leash), str(alive)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(leash, alive),
            process_group=0,
        )
        os.close(leash)
        os.close(alive)

    async def watch(self) -> None:
        """Raises CommandError if the reaper ends: without it, processes could be left running."""
        assert self._reaper is not None, "the group is not open"
        raise CommandError(f"the process reaper {_describe_exit(await self._reaper.wait())}.", status=1)

    async def close(self) -> None:
        """Lets the reaper end the remaining processes, and waits for it."""
        for pipe in (self._leash, self.alive):
            if pipe >= 0:
                os.close(pipe)
        if self._reaper is not None:
            await self._reaper.wait()


class Child:
    """One process of the service, restarted when it ends. Before `service_started`, its end stops all."""

    def __init__(self, plan: Plan, group: Group, service_started: asyncio.Event) -> None:
        self.plan = plan
        self._group = group
        self._service_started = service_started
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Starts the process in the reaper's group, where the terminal's Ctrl-C does not reach it."""
        self._process = await asyncio.create_subprocess_exec(
            *self.plan.command,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self.plan.environment},
            pass_fds=(*self.plan.pass_fds, self._group.alive),
            process_group=self._group.id,
            umask=self.plan.umask,
        )

    async def keep(self) -> None:
        """Restarts the process whenever it dies. Never returns; raises CommandError if it cannot start."""
        backoff_s = _FIRST_BACKOFF_S
        while True:
            assert self._process is not None, "call start() first"
            started = time.monotonic()
            status = await self._process.wait()
            if status == 2:  # the process has printed the reason
                raise CommandError(f"the {self.plan.name} cannot start, for the reason given above.")
            if not self._service_started.is_set():
                why = self.plan.why_it_ended()
                because = f": {why}" if why else ""
                raise CommandError(
                    f"{self.plan.name} {_describe_exit(status)} before it was ready{because}.", status=1
                )
            if time.monotonic() - started > _STABLE_S:
                backoff_s = _FIRST_BACKOFF_S
            say(f"{self.plan.name} {_describe_exit(status)}; starting it again in {backoff_s:g} s")
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
            await self.start()

    async def stop(self, hurry: asyncio.Event) -> None:
        """Sends SIGTERM, then SIGKILL once the time is over or `hurry` is set."""
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
    """Stops one stage after another; the children of a stage stop together."""
    for stage in stages:
        await asyncio.gather(*(child.stop(hurry) for child in stage))


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}"


def say(line: str, end: str = "\n") -> None:
    """Prints a line without buffering."""
    print(line, end=end, flush=True)
