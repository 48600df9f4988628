"""Carry out the steps of flows: `Runner` in the calling thread, `AsyncRunner` in the current task."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from threading import Event
from typing import Any, TypeVar

import httpx

from millrace_client.exchange import BLOCK_BYTES, Flow, Send, Sleep, timeout_of

T = TypeVar("T")
Sleeper = Callable[[float], None]
AsyncSleeper = Callable[[float], Awaitable[None]]
# No answer, or one that ends too early or is compressed in a way that cannot be read.
FAILURES = (httpx.TransportError, httpx.DecodingError)


class _Abandoned(Exception):
    """The results of a request are no longer wanted."""


def arguments(step: Send, most_s: float | None) -> dict[str, Any]:
    """Those of `httpx.Client.request` for a step. A body that is a file is read from its start, in blocks."""
    headers = dict(step.headers)
    content: bytes | Iterator[bytes] | None = None
    if isinstance(step.body, bytes):
        content = step.body or None
    else:
        headers["content-length"] = str(step.body.seek(0, 2))
        step.body.seek(0)
        content = iter(partial(step.body.read, BLOCK_BYTES), b"")
    return {
        "method": step.method,
        "url": step.path,
        "content": content,
        "params": step.params or None,
        "headers": headers,
        "timeout": timeout_of(step, most_s),
    }


class Runner:
    """Carries out the steps of flows, in the calling thread."""

    def __init__(
        self, make: Callable[[], httpx.Client], sleep: Sleeper | None, most_s: float | None = None
    ) -> None:
        self._make = make
        self._most_s = most_s
        self._sleep = sleep
        self._http, self._process = make(), os.getpid()

    @property
    def http(self) -> httpx.Client:
        """The connections of this process. A child that was forked would read the answers of its parent."""
        if self._process != os.getpid():
            self._http, self._process = self._make(), os.getpid()
        return self._http

    def run(self, flow: Flow[T], stop: Event | None = None) -> T:
        """Returns the result of a flow. Ends it before its next step once `stop` is set."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Sleep):
                    self._pause(step.seconds, stop)
                    step = flow.send(None)
                    continue
                if stop is not None and stop.is_set():
                    raise _Abandoned
                try:
                    response = self.http.request(**arguments(step, self._most_s))
                except FAILURES as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def _pause(self, seconds: float, stop: Event | None) -> None:
        if self._sleep is not None:
            self._sleep(seconds)
        elif stop is None:
            time.sleep(seconds)
        else:
            stop.wait(seconds)


class AsyncRunner:
    """Carries out the steps of flows, in the current task."""

    def __init__(self, http: httpx.AsyncClient, sleep: AsyncSleeper, most_s: float | None = None) -> None:
        self.http = http
        self._most_s = most_s
        self._sleep = sleep

    async def run(self, flow: Flow[T]) -> T:
        """Returns the result of a flow."""
        try:
            step = next(flow)
            while True:
                if isinstance(step, Sleep):
                    await self._sleep(step.seconds)
                    step = flow.send(None)
                    continue
                request = arguments(step, self._most_s)
                if not isinstance(step.body, bytes):
                    request["content"] = each(request["content"])
                try:
                    response = await self.http.request(**request)
                except FAILURES as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result


async def each(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
