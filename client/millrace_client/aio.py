"""The client for asyncio: `AsyncClient.classify`, and `AsyncClient.jobs`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sized
from contextlib import aclosing, suppress
from typing import Any, Literal, Self, Unpack, overload

import httpx

from millrace_client import common, job_flows
from millrace_client.errors import MillraceError, RequestError, TextError
from millrace_client.jobs import AsyncJobs
from millrace_client.options import Options, Window
from millrace_client.predict import AHEAD, Batch, Batcher, models, predict
from millrace_client.results import Model, OnProgress, Prediction, Progress, Result
from millrace_client.runners import AsyncRunner, AsyncSleeper, each
from millrace_client.series import Series, progress_of

Texts = Iterable[str] | AsyncIterable[str]


class AsyncClient:
    """A client of the service at `url`. Close it, or use it in an `async with` statement.

    `verify`, `proxy` and `timeout` are as in `Client`. `transport` replaces the network, and `sleep` the
    pauses, e.g. in tests.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        options: Options = Options(),  # noqa: B008 - it is frozen
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: AsyncSleeper = asyncio.sleep,
        **connection: Unpack[common.Connection],
    ) -> None:
        self.options = options
        url = common.checked_url(url)
        headers = common.headers_of(api_key)
        most_s = connection.pop("timeout", None)
        http = httpx.AsyncClient(base_url=url, headers=headers, transport=transport, **connection)
        self._runner = AsyncRunner(http, sleep, most_s)
        self.jobs = AsyncJobs(self._runner, options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._runner.http.aclose()

    async def models(self) -> list[Model]:
        """The models and cascades of the service. Raises RequestError and Unavailable."""
        return await self._runner.run(models(self.options))

    @overload
    def classify(
        self,
        texts: Texts,
        *,
        model: str = ...,
        errors: Literal["raise"] = ...,
        progress: OnProgress | None = ...,
    ) -> AsyncGenerator[Prediction, None]: ...

    @overload
    def classify(
        self, texts: Texts, *, model: str = ..., errors: Literal["return"], progress: OnProgress | None = ...
    ) -> AsyncGenerator[Prediction | TextError, None]: ...

    def classify(
        self,
        texts: Texts,
        *,
        model: str = "",
        errors: Literal["raise", "return"] = "raise",
        progress: OnProgress | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Yields the result of every text by this model, by default the first one, in order.

        Requests are sent while results are consumed.

        A text that fails raises TextError, or with errors="return" yields it in its place. Also raises
        RequestError, Unavailable and JobError. Memory is bounded, however many texts there are.
        """
        common.check_texts(texts)
        by_job = common.becomes_job(texts, self.options)
        results = (self._by_job if by_job else self._stream)(texts, model, progress)
        return results if errors == "return" else _raised(results)

    async def labels(
        self,
        series: Any,
        *,
        model: str = "",
        scores: bool = False,
        errors: Literal["raise", "missing"] = "raise",
        progress: OnProgress | bool = True,
    ) -> Any:
        """As `Client.labels`."""
        texts = Series(series)
        found = self.classify(texts.known, model=model, errors="return", progress=progress_of(progress))
        results = [result async for result in found]
        return (texts.scores if scores else texts.labels)(results, errors)

    async def _stream(self, texts: Texts, model: str, progress: OnProgress | None) -> AsyncGenerator[Result]:
        total = len(texts) if isinstance(texts, Sized) else None
        batches = _batches(texts, self.options.batch_texts)
        window = Window(self.options.concurrency)
        waiting: deque[tuple[Batch, asyncio.Task[list[Result]]]] = deque()
        try:
            while True:
                running = {found for _, found in waiting if not found.done()}
                free = len(running) < window.size and len(waiting) < AHEAD * self.options.concurrency
                if free and (batch := await anext(batches, None)) is not None:
                    flow = predict(self.options, batch.texts, window, model)
                    waiting.append((batch, asyncio.create_task(self._runner.run(flow))))
                    continue
                if not waiting:
                    return
                batch, results = waiting[0]
                if results.done():
                    waiting.popleft()
                    if progress is not None:
                        progress(Progress(batch.end, total))
                    for result in batch.spread(results.result()):
                        yield result
                else:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for _, task in waiting:
                task.cancel()
            await asyncio.gather(*(task for _, task in waiting), return_exceptions=True)

    async def _by_job(self, texts: Texts, model: str, progress: OnProgress | None) -> AsyncGenerator[Result]:
        """Classifies by a job, which is deleted afterwards, or by requests if the service refuses it."""
        try:
            job = await self.jobs.create(texts, model=model)
        except RequestError as error:
            if not common.refused_as_job(error):
                raise
            async for result in self._stream(texts, model, progress):
                yield result
            return
        try:
            job = await self.jobs.wait(job, progress=progress)
            async for result in self.jobs.results(job):
                yield result
            if job.status != "finished":
                raise common.job_error(job)
        finally:
            with suppress(MillraceError):
                await self._runner.run(job_flows.cancel(self.options, job.id, job_flows.CLEAN_UP_S))


async def _batches(texts: Texts, most_texts: int) -> AsyncIterator[Batch]:
    batcher = Batcher(most_texts)
    async for text in each(texts):
        if (batch := batcher.add(text)) is not None:
            yield batch
    if (last := batcher.rest()) is not None:
        yield last


async def _raised(results: AsyncGenerator[Result]) -> AsyncGenerator[Prediction]:
    async with aclosing(results):
        async for result in results:
            if isinstance(result, TextError):
                raise result
            yield result
