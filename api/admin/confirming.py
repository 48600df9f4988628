"""Confirms moves of models, for the process that waits until every API process answers with a publication."""

from __future__ import annotations

import asyncio
import os
import socket
from secrets import token_hex

from api.admin.service import Console
from api.errors import Problem
from batcher.errors import MillraceError


class Confirming:
    """Writes to Redis which publications this process answers with, once there is one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._api = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._task: asyncio.Task[None] | None = None

    def confirm(self, moves: int) -> None:
        """Confirms that this process answers by the state after so many moves. Called after each sweep."""
        if moves and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._write(moves))

    async def _write(self, moves: int) -> None:
        try:
            await self._console.call(self._console.stores.publications.seen, self._api, moves)
        except (MillraceError, Problem):
            return  # the next sweep confirms it
