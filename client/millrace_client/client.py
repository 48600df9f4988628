"""The client with threads: `Client.classify`, and `Client.jobs`."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from threading import Event
from typing import Any, Literal, Self, Unpack, overload

import httpx

from millrace_client import common, job_flows
from millrace_client.errors import MillraceError, RequestError, TextError
from millrace_client.jobs import Jobs
from millrace_client.options import Options, Window
from millrace_client.predict import AHEAD, Batch, Batcher, models, predict
from millrace_client.results import Model, OnProgress, Prediction, Progress, Result
from millrace_client.runners import Runner, Sleeper
from millrace_client.series import Series, progress_of


class Client:
    """A client of the service at `url`. Thread-safe; close it, or use it in a `with` statement.

    `verify` (what certificates are checked against, as in httpx), `proxy` (its URL) and `timeout` (the most
    seconds that one attempt waits for its answer) are optional. `transport` replaces the network, and `sleep`
    the pauses, e.g. in tests.
    """

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        options: Options = Options(),  # noqa: B008 - it is frozen
        transport: httpx.BaseTransport | None = None,
        sleep: Sleeper | None = None,
        **connection: Unpack[common.Connection],
    ) -> None:
        self.options = options
        url = common.checked_url(url)
        headers = common.headers_of(api_key)
        most_s = connection.pop("timeout", None)

        def connect() -> httpx.Client:
            return httpx.Client(base_url=url, headers=headers, transport=transport, **connection)

        self._runner = Runner(connect, sleep, most_s)
        self.jobs = Jobs(self._runner, options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._runner.http.close()

    def models(self) -> list[Model]:
        """The models and cascades of the service. Raises RequestError and Unavailable."""
        return self._runner.run(models(self.options))

    @overload
    def classify(
        self,
        texts: Iterable[str],
        *,
        model: str = ...,
        errors: Literal["raise"] = ...,
        progress: OnProgress | None = ...,
    ) -> Generator[Prediction, None, None]: ...

    @overload
    def classify(
        self,
        texts: Iterable[str],
        *,
        model: str = ...,
        errors: Literal["return"],
        progress: OnProgress | None = ...,
    ) -> Generator[Prediction | TextError, None, None]: ...

    def classify(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        errors: Literal["raise", "return"] = "raise",
        progress: OnProgress | None = None,
    ) -> Generator[Result, None, None]:
        """Yields the result of every text by this model, by default the first one, in order.

        Requests are sent while results are consumed.

        A text that fails raises TextError, or with errors="return" yields it in its place. Also raises
        RequestError, Unavailable and JobError. Memory is bounded, however many texts there are.
        """
        common.check_texts(texts)
        by_job = common.becomes_job(texts, self.options)
        results = (self._by_job if by_job else self._stream)(texts, model, progress)
        return results if errors == "return" else _raised(results)

    def labels(
        self,
        series: Any,
        *,
        model: str = "",
        scores: bool = False,
        errors: Literal["raise", "missing"] = "raise",
        progress: OnProgress | bool = True,
    ) -> Any:
        """The best label of each text of a series of pandas or polars. Missing texts stay missing.

        With `scores`, a frame with a column of scores for each label. Raises TextError for a text that
        fails, which is missing with errors="missing". `progress` is a bar in terminals and notebooks, False
        for none, or a function as in `classify`. Otherwise as `classify`.
        """
        texts = Series(series)
        results = self.classify(texts.known, model=model, errors="return", progress=progress_of(progress))
        return (texts.scores if scores else texts.labels)(results, errors)

    def _stream(self, texts: Iterable[str], model: str, progress: OnProgress | None) -> Generator[Result]:
        total = len(texts) if isinstance(texts, Sized) else None
        batches = _batches(texts, self.options.batch_texts)
        window, stop = Window(self.options.concurrency), Event()
        pool = ThreadPoolExecutor(self.options.concurrency, thread_name_prefix="millrace")
        waiting: deque[tuple[Batch, Future[list[Result]]]] = deque()
        try:
            while True:
                running = {found for _, found in waiting if not found.done()}
                free = len(running) < window.size and len(waiting) < AHEAD * self.options.concurrency
                if free and (batch := next(batches, None)) is not None:
                    flow = predict(self.options, batch.texts, window, model)
                    waiting.append((batch, pool.submit(self._runner.run, flow, stop)))
                    continue
                if not waiting:
                    return
                batch, results = waiting[0]
                if results.done():
                    waiting.popleft()
                    if progress is not None:
                        progress(Progress(batch.end, total))
                    yield from batch.spread(results.result())
                else:
                    wait(running, return_when=FIRST_COMPLETED)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _by_job(self, texts: Iterable[str], model: str, progress: OnProgress | None) -> Generator[Result]:
        """Classifies by a job, which is deleted afterwards, or by requests if the service refuses it."""
        try:
            job = self.jobs.create(texts, model=model)
        except RequestError as error:
            if not common.refused_as_job(error):
                raise
            yield from self._stream(texts, model, progress)
            return
        try:
            job = self.jobs.wait(job, progress=progress)
            yield from self.jobs.results(job)
            if job.status != "finished":
                raise common.job_error(job)
        finally:
            with suppress(MillraceError):
                self._runner.run(job_flows.cancel(self.options, job.id, job_flows.CLEAN_UP_S))


def _batches(texts: Iterable[str], most_texts: int) -> Iterator[Batch]:
    batcher = Batcher(most_texts)
    for text in texts:
        if (batch := batcher.add(text)) is not None:
            yield batch
    if (last := batcher.rest()) is not None:
        yield last


def _raised(results: Generator[Result]) -> Generator[Prediction]:
    with closing(results):
        for result in results:
            if isinstance(result, TextError):
                raise result
            yield result
