"""A client of the /jobs routes: submit, follow, fetch, delete. Retries while the service is unavailable."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice, zip_longest
from typing import Any, Self

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from millrace.errors import CommandError
from millrace.service_client import (
    ServiceClient,
    add_client_arguments,
    add_model_argument,
    api_address,
    no_answer,
    read_key,
    refusal,
)
from text_files.source import TextFile, add_options

Job = dict[str, Any]

# How long to retry while the service does not answer; shorter if it has never answered.
PATIENCE_S = 60.0
FIRST_PATIENCE_S = 5.0
PAUSE_S = 0.5
# Operators can end what they had said would last for days.
MAX_PAUSE_S = 60.0
# Overload, and outages as the service and proxies report them.
_AGAIN = frozenset((429, 502, 503, 504))
WAIT_S = 10
LINE_S = 30.0
_LINES = 1000
# The digest of no texts.
_NOTHING = hashlib.sha256().hexdigest()
# Results that are asked for at a time, and how often they may be gone.
PAGE = 1_000_000
AGAIN = 5
_is_id = re.compile(r"[0-9a-f]{32}").fullmatch
GONE = "the results of the job no longer exist: it has expired or was deleted."


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """The address of the service, the model, how a file is read, and the file of the key."""
    add_client_arguments(parser, JobClient)
    add_model_argument(parser)
    add_options(parser)


class JobClient(ServiceClient):
    """A client of the jobs of one service, for the model of this name; "": the first one."""

    timeout_s = 60.0

    def __init__(
        self, url: str, key: str = "", transport: httpx.BaseTransport | None = None, model: str = ""
    ) -> None:
        super().__init__(url, key, transport)
        self._name = model
        self._console = Console(stderr=True)
        self._answered = self._outage_reported = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> Self:
        """Connects to the service of `add_job_arguments`."""
        return cls(args.url or api_address(), read_key(args.api_key_file), model=args.model)

    def submit(self, source: TextFile) -> Job:
        """Submits a file. Returns a new job, or the one that an interrupted run of this command has left.

        A job that another model has answered is left alone, and the texts get a new one.
        """
        models = self._models()
        if (digest := _digest(source)) == _NOTHING:
            raise CommandError(f"{source.name} has no texts.")
        key = f"{digest} {self._name}"
        while True:
            try:
                job = self._post(source, f"millrace-classify-{hashlib.sha256(key.encode()).hexdigest()}")
            except OtherJob as error:  # for what this name was then
                key += f" {error.job}"
                continue
            if job["status"] in ("failed", "cancelled"):
                self.delete(job)
            elif _answered_by(job, models):
                return job
            else:
                key += f" {job['id']}"

    def follow(self, job: Job, source: TextFile | None = None) -> Job:
        """Shows the progress of a job to its end: a bar in a terminal, else a line every LINE_S seconds.

        Submits `source` again if the job is gone.
        """
        times = TimeElapsedColumn(), TimeRemainingColumn()
        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}", *times)
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            bar = progress.add_task(_doing(job), total=job["total"], completed=job["done"], rate="")
            printed_at = time.monotonic()
            while job["status"] in ("queued", "running"):
                try:
                    job = self._job("GET", f"/jobs/{job['id']}", params={"wait": WAIT_S})
                except JobGone:
                    if source is None:
                        raise
                    job = self.submit(source)
                rate = f"{job['rate']:,.0f}/s" if job["rate"] else ""
                progress.update(bar, description=_doing(job), completed=job["done"], rate=rate)
                if progress.disable and time.monotonic() - printed_at >= LINE_S:
                    printed_at = time.monotonic()
                    self._print(f"{_doing(job)}: {job['done']:,} of {job['total']:,} texts")
        return job

    def results(self, job: Job, source: TextFile | None = None) -> Iterator[Any]:
        """Yields the result of every text, in order, and resumes after a broken connection.

        If the job is gone, which another run with the same texts has deleted, submits `source` again.
        """
        done = again = 0
        while done < job["total"]:
            before = done
            try:
                for result in self._page(job, done):
                    done += 1
                    yield result
                if done == before:
                    raise JobGone(GONE)
            except JobGone:
                again += 1
                if source is None or again > AGAIN:
                    raise
                models, job = job["models"], self.follow(self.submit(source), source)
                if job["status"] != "finished" or (done and job["models"] != models):
                    raise

    def find(self, number: str) -> Job:
        """The job with this id. Raises CommandError, also if it is not an id."""
        if not _is_id(number):
            raise CommandError(f"{number!r} is not the id of a job, which has 32 hexadecimal digits.")
        return self._job("GET", f"/jobs/{number}")

    def texts(self, job: Job) -> Iterator[str]:
        """The texts of a job that keeps them."""
        path = f"/jobs/{job['id']}/texts"
        return (self._item(path, line) for line in self._request("GET", path).content.splitlines())

    def delete(self, job: Job) -> None:
        """Deletes a job that has ended, unless it is gone already."""
        with suppress(JobGone):
            self._request("DELETE", f"/jobs/{job['id']}")

    def _models(self) -> set[str]:
        """The models that answer now, two of a cascade, as `NAME@REVISION`. None of an unknown revision."""
        answer = self._request("GET", "/models")
        try:
            body = answer.json()
            every = {model["name"]: model for model in body["models"]}
            names = {self._name or next((name for name, model in every.items() if model["first"]), "")}
            for cascade in body.get("cascades") or ():
                if cascade["name"] == self._name:
                    names = {cascade["fast"], cascade["sure"]}
            revisions = {name: every.get(name, {}).get("revision") for name in names}
            return {f"{name}@{revision[:12]}" for name, revision in revisions.items() if revision}
        except (ValueError, LookupError, TypeError):
            raise CommandError(
                f"{self.url}/models did not answer with models: is this a Millrace API?"
            ) from None

    def _post(self, source: TextFile, key: str) -> Job:
        headers = {"content-type": "application/x-ndjson", "idempotency-key": key}
        params = {"model": self._name} if self._name else {}
        return self._job("POST", "/jobs", params=params, headers=headers, body=lambda: _body(source))

    def _job(self, method: str, path: str, **options: Any) -> Job:
        answer = self._request(method, path, **options)
        try:
            job = answer.json()
        except ValueError:
            job = None
        if isinstance(job, dict) and {"id", "status"} <= job.keys():
            return job
        raise CommandError(f"{self.url}{path} did not answer with a job: is this a Millrace API?")

    def _page(self, job: Job, offset: int) -> Iterator[Any]:
        path, limit = f"/jobs/{job['id']}/predictions", min(job["total"] - offset, PAGE)
        params, headers = {"offset": offset, "limit": limit}, {"accept": "application/x-ndjson"}
        began = time.monotonic()
        while True:
            try:
                with self._http.stream("GET", path, params=params, headers=headers) as answer:
                    if answer.status_code >= 400:
                        answer.read()
                        self._pause_or_raise(began, answer)
                        continue
                    for line in answer.iter_lines():
                        offset += 1
                        yield self._item(path, line)
                return
            except httpx.TransportError as error:
                if offset > params["offset"]:
                    return  # some results arrived: the caller requests the rest
                self._pause(began, error, PAUSE_S)

    def _item(self, path: str, line: str | bytes) -> Any:
        try:
            return json.loads(line)
        except ValueError:
            raise CommandError(f"{self.url}{path} did not answer with lines of JSON.") from None

    def _request(
        self, method: str, path: str, *, body: Callable[[], Iterator[bytes]] | None = None, **options: Any
    ) -> httpx.Response:
        """Sends a request, and retries it while the service is unavailable or asks for a later retry."""
        began = time.monotonic()
        while True:
            try:
                answer = self._http.request(method, path, content=body() if body else None, **options)
            except httpx.TransportError as error:
                self._pause(began, error, PAUSE_S)
                continue
            self._answered = True
            if answer.status_code >= 400:
                self._pause_or_raise(began, answer)
                continue
            self._outage_reported = False
            return answer

    def _pause_or_raise(self, began: float, answer: httpx.Response) -> None:
        """Waits before a refused request is sent again. Raises CommandError if it would be refused again."""
        if answer.status_code not in _AGAIN or refusal(answer)[1] == "quota_exceeded":
            raise _refused(answer)
        # Any other 429 lasts until other jobs end, which is not an outage, so it has no deadline.
        since = None if answer.status_code == 429 else began
        self._pause(since, _refused(answer), _retry_after_s(answer))

    def _pause(self, began: float | None, error: Exception, seconds: float) -> None:
        """Waits before a retry. Prints the reason once per outage; gives up if the outage lasts too long."""
        reason = str(error) if isinstance(error, CommandError) else f"{no_answer(self.url, error)}."
        patience_s = PATIENCE_S if self._answered else FIRST_PATIENCE_S
        if began is not None and time.monotonic() + seconds > began + patience_s:
            raise CommandError(reason) from None
        if not self._outage_reported:
            self._print(f"Waiting: {reason}")
            self._outage_reported = True
        time.sleep(seconds)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def together(texts: Iterable[Any], results: Iterable[Any], name: str) -> Iterator[tuple[Any, Any]]:
    """Yields each text with its result. Raises CommandError if there are more of the one or the other."""
    missing = object()
    for text, result in zip_longest(texts, results, fillvalue=missing):
        if text is missing or result is missing:
            raise CommandError(f"{name} changed while being classified: repeat the command.")
        yield text, result


def _retry_after_s(answer: httpx.Response) -> float:
    """Seconds of Retry-After, at most MAX_PAUSE_S; PAUSE_S without one, or if a proxy has sent a date."""
    try:
        seconds = float(answer.headers.get("retry-after", PAUSE_S))
    except ValueError:
        return PAUSE_S
    return min(seconds, MAX_PAUSE_S) if 0 <= seconds < math.inf else PAUSE_S


def _doing(job: Job) -> str:
    position = f" at {job['position']}" if job["position"] else ""
    return f"{job['status']}{position}"


def _refused(answer: httpx.Response) -> CommandError:
    detail, code = refusal(answer)
    if answer.status_code == 404 and code == "not_found":
        return JobGone(f"the job no longer exists: {detail}.")
    if code == "idempotency_conflict":
        return OtherJob(f"{detail}.", answer.json()["job"])
    advice = _ADVICE.get(code, _ADVICE.get(answer.status_code, ""))
    said = detail or answer.reason_phrase
    return CommandError(f"the service answered {answer.status_code}: {said}{advice}.")


class JobGone(CommandError):
    """The job does not exist any more: it has expired, or another run of this command has deleted it."""


class OtherJob(CommandError):
    """The Idempotency-Key belongs to another job, with the id `job`."""

    def __init__(self, message: str, job: str) -> None:
        super().__init__(message)
        self.job = job


# By code, or else by status.
_ADVICE: dict[str | int, str] = {
    401: "; name the file that holds it with --api-key-file",
    413: "; split the file, or raise MILLRACE_MAX_JOB_BODY_BYTES of the API",
    "job_too_large": "; split the file",
    "quota_exceeded": ". Repeat the command then",
}


def _body(source: TextFile) -> Iterator[bytes]:
    """Yields the texts as NDJSON, in blocks of lines."""
    texts = source.texts()
    while lines := [json.dumps(text) for text in islice(texts, _LINES)]:
        yield ("\n".join(lines) + "\n").encode()


def _answered_by(job: Job, models: set[str]) -> bool:
    """Whether a job has answers of these models alone. One that still runs may have others of a candidate."""
    found = set(job["models"])
    return not found or (found <= models if job["status"] == "finished" else bool(found & models))


def _digest(source: TextFile) -> str:
    """The part of the Idempotency-Key by which the same texts find the same job."""
    digest = hashlib.sha256()
    for block in _body(source):
        digest.update(block)
    return digest.hexdigest()
