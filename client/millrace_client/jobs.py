"""Jobs of a service: `Client.jobs` and `AsyncClient.jobs`."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from millrace_client import job_flows
from millrace_client.common import check_texts, id_of
from millrace_client.errors import TextError
from millrace_client.options import Options
from millrace_client.results import Job, OnProgress, Prediction
from millrace_client.runners import AsyncRunner, Runner, each


class Jobs:
    """Jobs: texts that the service classifies in the background. `Client.jobs` is one."""

    def __init__(self, runner: Runner, options: Options) -> None:
        self._runner = runner
        self._options = options

    def create(
        self,
        texts: Iterable[str],
        *,
        model: str = "",
        keep_input: bool = False,
        idempotency_key: str = "",
        webhook_url: str = "",
    ) -> Job:
        """Submits a job for a model, by default the first one.

        With the same key and texts, returns the job that exists already.

        `webhook_url` is notified of its end, if the service has webhooks.
        """
        check_texts(texts)
        job = job_flows.Submission(model, keep_input, idempotency_key, webhook_url)
        with job.file:
            for text in texts:
                job.add(text)
            return self._runner.run(job_flows.submit(self._options, job))

    def get(self, job: Job | str) -> Job:
        return self._runner.run(job_flows.get(self._options, id_of(job)))

    def wait(
        self, job: Job | str, *, timeout_s: float | None = None, progress: OnProgress | None = None
    ) -> Job:
        """Returns the job when it has ended, however it did. Raises TimeoutError after `timeout_s`."""
        job = self.get(job) if isinstance(job, str) else job
        return self._runner.run(job_flows.wait(self._options, job, timeout_s, progress))

    def results(self, job: Job | str) -> Iterator[Prediction | TextError]:
        """Yields the result of every text, in order, also while the job is running."""
        offset: int | None = 0
        while offset is not None:
            results, offset = self._runner.run(job_flows.page(self._options, id_of(job), offset))
            yield from results

    def cancel(self, job: Job | str) -> None:
        """Cancels a job, or deletes it and its results if it has ended."""
        self._runner.run(job_flows.cancel(self._options, id_of(job), self._options.budget_s))


class AsyncJobs:
    """Jobs: texts that the service classifies in the background. `AsyncClient.jobs` is one."""

    def __init__(self, runner: AsyncRunner, options: Options) -> None:
        self._runner = runner
        self._options = options

    async def create(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        model: str = "",
        keep_input: bool = False,
        idempotency_key: str = "",
        webhook_url: str = "",
    ) -> Job:
        """Submits a job for a model, by default the first one.

        With the same key and texts, returns the job that exists already.

        `webhook_url` is notified of its end, if the service has webhooks.
        """
        check_texts(texts)
        job = job_flows.Submission(model, keep_input, idempotency_key, webhook_url)
        with job.file:
            async for text in each(texts):
                job.add(text)
            return await self._runner.run(job_flows.submit(self._options, job))

    async def get(self, job: Job | str) -> Job:
        return await self._runner.run(job_flows.get(self._options, id_of(job)))

    async def wait(
        self, job: Job | str, *, timeout_s: float | None = None, progress: OnProgress | None = None
    ) -> Job:
        """Returns the job when it has ended, however it did. Raises TimeoutError after `timeout_s`."""
        job = await self.get(job) if isinstance(job, str) else job
        return await self._runner.run(job_flows.wait(self._options, job, timeout_s, progress))

    async def results(self, job: Job | str) -> AsyncIterator[Prediction | TextError]:
        """Yields the result of every text, in order, also while the job is running."""
        offset: int | None = 0
        while offset is not None:
            results, offset = await self._runner.run(job_flows.page(self._options, id_of(job), offset))
            for result in results:
                yield result

    async def cancel(self, job: Job | str) -> None:
        """Cancels a job, or deletes it and its results if it has ended."""
        await self._runner.run(job_flows.cancel(self._options, id_of(job), self._options.budget_s))
