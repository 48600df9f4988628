"""Runs commands for the operator's console over the connection of the hub."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from batcher.connection.pipeline import Command, Pipeline
from batcher.core.commands import NoteRefused
from batcher.shards import shard_of

Reply = TypeVar("Reply")


class ConsoleCommands:
    """Sends commands with those of requests."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @property
    def parts(self) -> tuple[ConsoleCommands]:
        """The commands of each shard: there is one."""
        return (self,)

    def run(self, command: Command[Reply]) -> asyncio.Future[Reply]:
        """Runs a command. The future raises REDIS_ERRORS."""
        return self._pipeline.run(command)

    def send(self, command: Command[Any]) -> None:
        """Runs a command of which it does not matter whether Redis takes it."""
        self.run(command).add_done_callback(lambda done: done.cancelled() or done.exception())


class ShardedCommands:
    """Sends a command about a text to its shard, and others to the first shard, where the console counts."""

    def __init__(self, parts: Sequence[ConsoleCommands]) -> None:
        self.parts = tuple(parts)

    def run(self, command: Command[Reply]) -> asyncio.Future[Reply]:
        """Runs a command. The future raises REDIS_ERRORS."""
        return self._part(command).run(command)

    def send(self, command: Command[Any]) -> None:
        """Runs a command of which it does not matter whether Redis takes it."""
        self._part(command).send(command)

    def _part(self, command: Command[Any]) -> ConsoleCommands:
        number = shard_of(command.id, len(self.parts)) if isinstance(command, NoteRefused) else 0
        return self.parts[number]
