"""Children are watched, come back, and leave in order; nothing stays, whatever way the supervisor ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from millrace.errors import CommandError
from millrace.local.supervisor import Child, Group, Plan, stop_in_order
from tests.service import wait_until

pytestmark = pytest.mark.e2e

SLEEP = "import time; time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({{!r}}, 'w'); {SLEEP}"


@pytest.fixture
async def group() -> AsyncIterator[Group]:
    group = Group()
    await group.open()
    yield group
    await group.close()


def child(group: Group, code: str, *, ready: bool = True, stop_s: float = 10, name: str = "child") -> Child:
    event = asyncio.Event()
    if ready:
        event.set()
    return Child(Plan(name, [sys.executable, "-c", code], stop_s), group, event)


def pid_of(made: Child) -> int:
    assert made._process is not None
    return made._process.pid


async def stubborn(group: Group, folder: Path, stop_s: float) -> Child:
    """A child that does not listen any more."""
    made = child(group, STUBBORN.format(str(folder / "deaf")), stop_s=stop_s)
    await made.start()
    await asyncio.to_thread(wait_until, (folder / "deaf").exists, "it to be deaf")
    return made


async def test_a_child_that_dies_later_comes_back(group: Group, capsys: pytest.CaptureFixture[str]) -> None:
    made = child(group, SLEEP)
    await made.start()
    first = pid_of(made)
    keeping = asyncio.create_task(made.keep())
    os.kill(first, signal.SIGKILL)
    await asyncio.to_thread(wait_until, lambda: made.running and pid_of(made) != first, "a new process")
    assert not keeping.done()
    assert capsys.readouterr().out == "child was ended by SIGKILL; starting it again in 0.25 s\n"
    keeping.cancel()
    await made.stop(asyncio.Event())


async def test_a_child_that_dies_again_and_again_is_given_more_and_more_time(
    group: Group, capsys: pytest.CaptureFixture[str]
) -> None:
    made = child(group, "raise SystemExit(7)")
    await made.start()
    keeping = asyncio.create_task(made.keep())
    lines: list[str] = []
    while len(lines) < 3:
        await asyncio.sleep(0.05)
        lines += capsys.readouterr().out.splitlines()
    assert lines == [
        f"child ended with status 7; starting it again in {pause} s" for pause in ("0.25", "0.5", "1")
    ]
    keeping.cancel()


@pytest.mark.parametrize(
    ("code", "ready", "sentence"),
    [
        ("raise SystemExit(2)", True, r"child cannot start, for the reason given above\."),
        ("raise SystemExit(3)", False, r"child ended with status 3 before it was ready\."),
    ],
)
async def test_a_child_that_cannot_start_ends_everything(
    group: Group, code: str, ready: bool, sentence: str
) -> None:
    made = child(group, code, ready=ready)
    await made.start()
    with pytest.raises(CommandError, match=sentence):
        await made.keep()


async def test_stages_stop_one_after_the_other(group: Group, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = """
        import signal, sys, time
        def leave(*_):
            time.sleep(0.2)
            open({log!r}, "a").write({name!r} + "\\n")
            sys.exit(0)
        signal.signal(signal.SIGTERM, leave)
        open({log!r}, "a").write("up\\n")
        time.sleep(60)
    """
    made = [
        child(group, textwrap.dedent(code).format(log=str(log), name=name), name=name)
        for name in ("api", "redis")
    ]
    for one in made:
        await one.start()
    await asyncio.to_thread(wait_until, lambda: log.exists() and log.read_text().count("up") == 2, "both")
    await stop_in_order([[one] for one in made], asyncio.Event())
    assert log.read_text().split()[-2:] == ["api", "redis"]


async def test_a_child_that_does_not_listen_is_killed_in_the_end(group: Group, tmp_path: Path) -> None:
    made = await stubborn(group, tmp_path, stop_s=0.3)
    await made.stop(asyncio.Event())
    assert not made.running


async def test_someone_in_a_hurry_does_not_wait(group: Group, tmp_path: Path) -> None:
    made = await stubborn(group, tmp_path, stop_s=60)
    hurry = asyncio.Event()
    hurry.set()
    began = time.monotonic()
    await made.stop(hurry)
    assert not made.running
    assert time.monotonic() - began < 40


async def test_closing_the_group_clears_what_was_forgotten() -> None:
    group = Group()
    await group.open()
    made = child(group, SLEEP)
    await made.start()
    await group.close()
    assert made._process is not None
    assert await made._process.wait() == -signal.SIGTERM


async def test_the_end_of_the_reaper_is_noticed(group: Group) -> None:
    watching = asyncio.create_task(group.watch())
    await asyncio.sleep(0)
    os.kill(group.id, signal.SIGKILL)
    with pytest.raises(CommandError, match=r"the process reaper was ended by SIGKILL\."):
        await watching


def test_nothing_is_left_when_the_supervisor_is_killed() -> None:
    code = f"""
        import asyncio, sys
        from millrace.local.supervisor import Child, Group, Plan
        async def main():
            group = Group()
            await group.open()
            plan = Plan("child", [sys.executable, "-c", {SLEEP!r}], 10)
            children = [Child(plan, group, asyncio.Event()) for _ in range(3)]
            for child in children:
                await child.start()
            print("up", flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE
    ) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline() == b"up\n"
        offspring = psutil.Process(supervisor.pid).children(recursive=True)
        assert len(offspring) == 4  # three children and the reaper
        supervisor.kill()
    wait_until(lambda: not any(process.is_running() for process in offspring), "all of them to be gone", 5)
