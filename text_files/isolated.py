"""Reads typed tables in another process, which has little memory and may crash over a hostile file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterable
from dataclasses import asdict
from itertools import chain
from select import POLLIN, poll
from threading import Thread
from typing import Any

from text_files.errors import BadFile
from text_files.formats import Hints

# What that process may use: memory, and processor time, the longest whatever the size of the file.
MAX_MEMORY = 512 * 1024**2
CPU_S, MIB_CPU_S, MAX_CPU_S = 10, 8, 120
# Its exit status if the last line of its standard error says why the file cannot be read.
REFUSED = 3
_BLOCK_BYTES = 64 * 1024
# After a pause of so long, an empty block is read.
_PAUSE_MS = 100
# What that process sees of the environment, and no password in the URL of a service.
_NEEDED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "TMPDIR", "LANG")
_LIBRARIES = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}


def read_isolated(filename: str, hints: Hints, file: Iterable[bytes], *, whole: bool) -> Generator[bytes]:
    """The table as lines of JSON: the names of its columns and their places, then number, text, cells.

    The cells are empty unless `whole`. A block is empty if there was nothing for a while, so that its reader
    can end. Raises BadFile, and what reading `file` raises.
    """
    return _answer({"name": filename, "hints": asdict(hints), "whole": whole}, file, apart=False)


def label_isolated(
    filename: str, hints: Hints, file: tuple[int, Iterable[bytes]], results: Iterable[bytes], form: str
) -> Generator[bytes]:
    """The rows of a file, given with its size, and their results, lines of JSON, in the format `form`.

    Only the rows that have a result; blocks may be empty, too. Raises BadFile, and what reading `results`
    raises.
    """
    size, blocks = file
    order = {"name": filename, "hints": asdict(hints), "whole": True, "form": form, "size": size}
    return _answer(order, chain(blocks, results), apart=True)


def _answer(order: dict[str, Any], blocks: Iterable[bytes], *, apart: bool) -> Generator[bytes]:
    """What the process makes of an order and these blocks, which `apart` are sent while it answers."""
    given = os.environ.items()
    environment = {name: value for name, value in given if name in _NEEDED or name.startswith("LC_")}
    command = [sys.executable, "-P", "-m", "text_files"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment | _LIBRARIES
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        assert process.stderr is not None, "it is a pipe"
        ready = poll()
        ready.register(process.stdout, POLLIN)
        failed: list[BaseException] = []
        parts = chain([json.dumps(order).encode() + b"\n"], blocks)
        sending = Thread(target=_send, args=(process, parts, failed), name="text-files", daemon=True)
        try:
            (sending.start if apart else sending.run)()
            while not failed:
                if not ready.poll(_PAUSE_MS):
                    yield b""
                elif block := os.read(process.stdout.fileno(), _BLOCK_BYTES):
                    yield block
                else:
                    break
            if failed:
                raise failed.pop()  # in a cycle with the list, it would keep the file
            said = process.stderr.read()
            status = process.wait()
        finally:
            process.kill()  # does nothing once it has ended
            if apart:
                sending.join()
    _check(status, said)


def _send(process: subprocess.Popen[bytes], parts: Iterable[bytes], failed: list[BaseException]) -> None:
    """Sends a process what it reads, and kills it if that cannot be read, which is put into `failed`."""
    assert process.stdin
    try:
        with process.stdin as out:
            out.writelines(parts)
    except BrokenPipeError:
        pass  # it has ended, and its status says why
    except BaseException as error:
        failed.append(error)
        process.kill()


def _check(status: int, said: bytes) -> None:
    if status == REFUSED:
        raise BadFile(**json.loads(said.splitlines()[-1]))
    if status:
        time = f"{CPU_S} s of processor time and {MIB_CPU_S} s for each MiB"
        limits = f"{MAX_MEMORY // 1024**2} MiB of memory or {time}: try `millrace classify`"
        raise BadFile("table_invalid", f"damaged, or reading it takes more than {limits}")
