"""Runs commands for the operator's console over the connections of the hub."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from batcher.connection.pipeline import Pipeline
from batcher.core.commands import Command, NoteRefused
from batcher.shards import shard_of

Reply = TypeVar("Reply")


class ConsoleCommands:
    """Sends a command about a text to its shard, and others to the first shard, where the console counts.

    `parts`: the pipeline of each shard, which also carries the commands of requests.
    """

    def __init__(self, parts: Sequence[Pipeline]) -> None:
        self.parts = tuple(parts)

    def run(self, command: Command[Reply]) -> asyncio.Future[Reply]:
        """Runs a command. The future raises REDIS_ERRORS."""
        number = shard_of(command.id, len(self.parts)) if isinstance(command, NoteRefused) else 0
        return self.parts[number].run(command)

    def send(self, command: Command[Any]) -> None:
        """Runs a command of which it does not matter whether Redis takes it."""
        _send(self.run(command))

    def send_to_all(self, command: Command[Any]) -> None:
        """Sends a command to every shard in the same way."""
        for part in self.parts:
            _send(part.run(command))


def _send(reply: asyncio.Future[Any]) -> None:
    reply.add_done_callback(lambda done: done.cancelled() or done.exception())
