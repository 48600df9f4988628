"""Runs commands for the operator's console over the connection of the hub."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from batcher.core.commands import Command
from batcher.core.pipeline import Pipeline

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
