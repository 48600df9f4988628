"""Reads typed tables in another process, which has little memory and may crash over a hostile file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from threading import Thread
from typing import Any

from text_files.errors import BadFile
from text_files.formats import Hints

# What that process may use.
MAX_MEMORY = 512 * 1024**2
MAX_CPU_S = 120
# Its exit status if the last line of its standard error says why the file cannot be read.
REFUSED = 3
_BLOCK_BYTES = 64 * 1024
_LIBRARIES = {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}


def read_isolated(filename: str, hints: Hints, file: Iterable[bytes], *, whole: bool) -> Iterator[bytes]:
    """The table as lines of JSON: the names of its columns and their places, then number, text, cells.

    The cells are empty unless `whole`. Raises BadFile, and what reading `file` raises.
    """
    return _answer({"name": filename, "hints": asdict(hints), "whole": whole}, file, apart=False)


def label_isolated(
    filename: str, hints: Hints, file: tuple[int, Iterable[bytes]], results: Iterable[bytes], form: str
) -> Iterator[bytes]:
    """The rows of a file, given with its size, and their results, lines of JSON, in the format `form`.

    Only the rows that have a result. Raises BadFile, and what reading `results` raises.
    """
    size, blocks = file

    def sent() -> Iterator[bytes]:
        yield from blocks
        yield from results

    order = {"name": filename, "hints": asdict(hints), "whole": True, "form": form, "size": size}
    return _answer(order, sent(), apart=True)


def _answer(order: dict[str, Any], blocks: Iterable[bytes], *, apart: bool) -> Iterator[bytes]:
    """What the process makes of an order and these blocks, which `apart` are sent while it answers."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    command = [sys.executable, "-P", "-m", "text_files"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment | _LIBRARIES
    ) as process:
        assert process.stdout is not None, "it is a pipe"
        assert process.stderr is not None, "it is a pipe"
        sending = _Sending(process, json.dumps(order).encode() + b"\n", blocks)
        try:
            if apart:
                sending.start()
            else:
                sending.run()
            while not sending.failed and (block := os.read(process.stdout.fileno(), _BLOCK_BYTES)):
                yield block
            if sending.failed:
                raise sending.failed[0]
            said = process.stderr.read()
            status = process.wait()
        finally:
            process.kill()  # does nothing once it has ended
            if apart:
                sending.join()
    _check(status, said)


class _Sending(Thread):
    """Sends blocks to a process, and kills it if they cannot be read."""

    def __init__(self, process: subprocess.Popen[bytes], first: bytes, blocks: Iterable[bytes]) -> None:
        super().__init__(name="text-files", daemon=True)
        self.failed: list[BaseException] = []
        self._process, self._first, self._blocks = process, first, blocks

    def run(self) -> None:
        assert self._process.stdin
        try:
            with self._process.stdin as out:
                out.write(self._first)
                out.writelines(self._blocks)
        except BrokenPipeError:
            pass  # it has ended, and its status says why
        except BaseException as error:
            self.failed.append(error)
            self._process.kill()


def _check(status: int, said: bytes) -> None:
    if status == REFUSED:
        error = json.loads(said.splitlines()[-1])
        columns = error.pop("columns")
        raise BadFile(**error, columns=columns and tuple(columns))
    if status:
        limit = f"more than {MAX_MEMORY // 1024**2} MiB of memory or {MAX_CPU_S} s"
        raise BadFile("table_invalid", f"damaged, or reading it takes {limit}: try `millrace classify`")
