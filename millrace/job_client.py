"""The /jobs routes as a client uses them: hand in, follow, fetch, delete. Patient while a service is away."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from millrace.errors import CommandError
from millrace.text_files import TextFile

Job = dict[str, Any]

# A service that does not answer for this long has gone; one that has never answered is not there.
PATIENCE_S = 60.0
FIRST_PATIENCE_S = 5.0
PAUSE_S = 0.5
WAIT_S = 10
TIMEOUT_S = 60.0
_LINES = 1000


class JobClient:
    """One service. Raises CommandError for what cannot be done, in a sentence."""

    def __init__(self, url: str, api_key: str = "", transport: httpx.BaseTransport | None = None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        try:
            timeout = httpx.Timeout(TIMEOUT_S, connect=FIRST_PATIENCE_S)
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)
        except (httpx.InvalidURL, ValueError) as error:
            raise CommandError(f"--url {url}: {error}.") from None
        self._console = Console(stderr=True)
        self._answered = self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def submit(self, source: TextFile) -> Job:
        """The job of this file: a new one, or the one that an interrupted run has left."""
        key = _digest(source)
        job = self._post(source, key)
        if job["status"] in ("failed", "cancelled"):
            self.delete(job)
            job = self._post(source, key)
        return job

    def follow(self, job: Job) -> Job:
        """Shows progress until the job has ended."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            bar = progress.add_task(_doing(job), total=job["total"], completed=job["done"], rate="")
            while job["status"] in ("queued", "running"):
                job = self._ask("GET", f"/jobs/{job['id']}", params={"wait": WAIT_S}).json()
                rate = f"{job['rate']:,.0f}/s" if job["rate"] else ""
                progress.update(bar, description=_doing(job), completed=job["done"], rate=rate)
        return job

    def results(self, job: Job) -> Iterator[Any]:
        """The result of every text, in order; goes on where a broken connection has ended."""
        done = 0
        while done < job["total"]:
            before = done
            for result in self._page(job, done):
                done += 1
                yield result
            if done == before:
                raise CommandError("the results of the job are gone.")

    def delete(self, job: Job) -> None:
        """Removes a job that has ended."""
        self._ask("DELETE", f"/jobs/{job['id']}")

    def _post(self, source: TextFile, key: str) -> Job:
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        job: Job = self._ask("POST", "/jobs", headers=headers, body=lambda: _body(source)).json()
        return job

    def _page(self, job: Job, offset: int) -> Iterator[Any]:
        params, headers = {"offset": offset, "limit": job["total"]}, {"accept": "application/x-ndjson"}
        began = time.monotonic()
        while True:
            try:
                with self._http.stream(
                    "GET", f"/jobs/{job['id']}/predictions", params=params, headers=headers
                ) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        raise _refused(answer)
                    for line in answer.iter_lines():
                        offset += 1
                        yield json.loads(line)
                return
            except httpx.TransportError as error:
                if offset > params["offset"]:
                    return  # some came: the caller asks for the rest
                self._pause(began, error, PAUSE_S)

    def _ask(
        self, method: str, path: str, *, body: Callable[[], Iterator[bytes]] | None = None, **options: Any
    ) -> httpx.Response:
        """The answer, asked for again while the service is away or asks for patience."""
        began = time.monotonic()
        while True:
            try:
                answer = self._http.request(method, path, content=body() if body else None, **options)
            except httpx.TransportError as error:
                self._pause(began, error, PAUSE_S)
                continue
            self._answered = True
            if answer.status_code in (429, 503):
                wait_s = float(answer.headers.get("retry-after", PAUSE_S))
                # 429 is about others' jobs, which end some time: that is no outage.
                self._pause(began if answer.status_code == 503 else None, _refused(answer), wait_s)
                continue
            self._told = False
            if answer.status_code >= 400:
                raise _refused(answer)
            return answer

    def _pause(self, began: float | None, error: Exception, seconds: float) -> None:
        """Waits before the next try. Says why, once an outage; gives up when that lasts too long."""
        said = str(error) if isinstance(error, CommandError) else f"{self._url} does not answer: {error}"
        patience_s = PATIENCE_S if self._answered else FIRST_PATIENCE_S
        if began is not None and time.monotonic() + seconds > began + patience_s:
            raise CommandError(said) from None
        if not self._told:
            self._console.print(f"Waiting: {said}", markup=False, highlight=False, soft_wrap=True)
            self._told = True
        time.sleep(seconds)


def _doing(job: Job) -> str:
    position = f" at {job['position']}" if job["position"] else ""
    return f"{job['status']}{position}"


def _refused(answer: httpx.Response) -> CommandError:
    try:
        said = answer.json()["detail"]
        detail = said if isinstance(said, str) else said[0]["msg"]
    except (ValueError, LookupError, TypeError):
        detail = answer.reason_phrase
    hint = (
        "; MILLRACE_MAX_JOB_BODY_BYTES sets the limit, or split the file" if answer.status_code == 413 else ""
    )
    return CommandError(f"the service answered {answer.status_code}: {detail}{hint}.")


def _body(source: TextFile) -> Iterator[bytes]:
    """The texts as NDJSON, in blocks of lines."""
    texts = source.texts()
    while lines := [json.dumps(text) for text in islice(texts, _LINES)]:
        yield ("\n".join(lines) + "\n").encode()


def _digest(source: TextFile) -> str:
    """The same for the same texts, and so the Idempotency-Key of their job."""
    digest = hashlib.sha256()
    for block in _body(source):
        digest.update(block)
    return f"millrace-classify-{digest.hexdigest()}"
