"""The routes of crossings: each asks about texts as a client does, and says what the answer says of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
from millrace_client import Client, Options, RequestError, TextError, Unavailable
from millrace_client.errors import JobError

from tests.crossings.record import Exchange, code_of
from tests.crossings.services import KEYS, Crossed, key_of
from tests.dialects import DIALECTS, PREDICT, Dialect
from tests.service import ForkedProcess, millrace
from tests.signing import Row, rows_of

# How long a request may take in all, and a job from its acceptance.
REQUEST_S = 60.0
JOB_S = 120.0
OPEN = ("queued", "running", "validating", "in_progress")


class Caller:
    """A client of the service, over HTTP and by commands."""

    def __init__(self, service: Crossed) -> None:
        self.service = service
        self.http = httpx.Client(base_url=service.base_url, timeout=REQUEST_S, trust_env=False)

    def close(self) -> None:
        self.http.close()

    def request(self, exchange: Exchange, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {**key_of(exchange.client), **exchange.headers, **more.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **more)

    def key_file(self, client: str) -> Path:
        path = self.service.folder / f"{client}.key"
        path.write_text(KEYS[client])
        return path


class Route(Protocol):
    """`begin` asks; `finish` waits for a job and reads it, where `begin` has made one."""

    # Whether a client can name the model, and the most texts of a request.
    names_models: bool
    most: int

    def begin(self, caller: Caller, exchange: Exchange) -> None: ...
    def finish(self, caller: Caller, exchange: Exchange) -> None: ...


# -- requests ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Live:
    """A dialect or /predict, whose answer comes with the request. `named` puts a model into path and body."""

    dialect: Dialect
    named: Callable[[str, str, dict[str, Any]], tuple[str, dict[str, Any]]] | None = None
    order: str = ""

    @property
    def names_models(self) -> bool:
        return self.named is not None

    @property
    def most(self) -> int:
        return self.dialect.most

    def begin(self, caller: Caller, exchange: Exchange) -> None:
        path, body = self.dialect.path, self.dialect.ask(exchange.texts)
        if self.named is not None and exchange.model != "stub":
            path, body = self.named(exchange.model, path, body)
        if self.order:
            path += f"?order={self.order}"
        answer = caller.request(exchange, "POST", path, json=body)
        if not exchange.note(answer):
            return
        said = self.dialect.said(answer, exchange.texts)
        native = self.dialect in (PREDICT, DIALECTS["sagemaker text"])
        order = self.order or exchange.order
        rows = rows_of(answer.json()["predictions"], order) if native else said.rows  # type: ignore[arg-type]
        exchange.says(rows, said.names, hit=said.hit)

    def finish(self, caller: Caller, exchange: Exchange) -> None:
        """There is nothing to wait for."""


def _in_path(model: str, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return path.replace("/stub", f"/{model}"), body


def _in_body(model: str, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return path, {**body, "model": model}


def _by_route(model: str, path: str, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return f"/models/{model}{path}", body


_NAMED = {
    "oip": _in_path,
    "oip binary": _in_path,
    "oip classes": _in_path,
    "kserve": _in_path,
    "vllm": _in_body,
    "sglang": _in_body,
    "openai": _in_body,
}


@dataclass(frozen=True, slots=True)
class PythonClient:
    """The client of the first model; `by_job` makes a job of every list."""

    by_job: bool = False
    names_models: bool = False
    most: int = 32

    def begin(self, caller: Caller, exchange: Exchange) -> None:
        options = Options(budget_s=REQUEST_S, job_from=1 if self.by_job else None)
        try:
            with Client(caller.service.base_url, KEYS[exchange.client], options=options) as client:
                found = list(client.classify(exchange.texts, errors="return"))
        except RequestError as error:
            exchange.status, exchange.code = error.status, error.code
        except (Unavailable, JobError) as error:
            exchange.status, exchange.code, exchange.retry_after = 503, error.code, True
        else:
            exchange.status = 200
            if failed := [one for one in found if isinstance(one, TextError)]:
                exchange.problem = f"texts failed: {failed[:2]!r}"
                return
            rows = [Row([*one.scores.values()], [*one.scores], exchange.order) for one in found]  # type: ignore[union-attr]
            exchange.says(rows, ())

    def finish(self, caller: Caller, exchange: Exchange) -> None:
        """It has waited."""


@dataclass(frozen=True, slots=True)
class Command:
    """`millrace classify` of a file, whose format the seed draws."""

    names_models: bool = False
    most: int = 32

    def begin(self, caller: Caller, exchange: Exchange) -> None:
        folder = caller.service.folder
        name = f"classify-{time.monotonic_ns()}"
        written = ("csv", "ndjson", "txt")[exchange.seed % 3]
        result = ("csv", "ndjson")[exchange.seed // 3 % 2]
        source, out = folder / f"{name}.{written}", folder / f"{name}-out.{result}"
        source.write_bytes(_file(written, exchange.texts))
        words = ("classify", str(source), "-o", str(out), "--url", caller.service.base_url)
        key = ("--api-key-file", str(caller.key_file(exchange.client)))
        process = ForkedProcess(name, millrace(*words, *key), {}, folder)
        try:
            status = process.wait(REQUEST_S + JOB_S)
        except subprocess.TimeoutExpired:
            exchange.problem = f"the command has not ended: {process.said()[-300:]}"
            process.close()
            return
        said = process.said()
        if status and "nothing listens" in said:  # it gives up soon where no process has ever answered
            exchange.problem = "ConnectError"
            return
        if status:
            found = re.search(r"the service answered (\d+)", said)
            exchange.status = int(found[1]) if found else 500
            exchange.problem, exchange.retry_after = ("" if found else said[-600:]), True
            return
        exchange.status = 200
        exchange.says(_rows_of_file(result, out.read_bytes(), exchange), ())

    def finish(self, caller: Caller, exchange: Exchange) -> None:
        """It has waited."""


# -- jobs --------------------------------------------------------------------------------------------


def _table(texts: Sequence[str], column: str = "text") -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows([["id", column], *([str(at), text] for at, text in enumerate(texts))])
    return out.getvalue().encode()


def _lines(texts: Sequence[str]) -> bytes:
    lines = (text if at % 2 else {"text": text} for at, text in enumerate(texts))
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def _file(form: str, texts: Sequence[str]) -> bytes:
    """A file of these texts."""
    if form == "csv":
        return _table(texts)
    if form == "ndjson":
        return _lines(texts)
    if form == "json":
        return json.dumps({"text": list(texts)}).encode()
    return "".join(f"{text}\n" for text in texts).encode()


def _rows_of_file(form: str, content: bytes, exchange: Exchange) -> list[Row]:
    """The rows of what the command has written. Raises ValueError if texts are missing."""
    if form == "csv":
        table = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
        _check_texts([row["text"] for row in table], exchange)
        return [_best(row) for row in table]
    found = [json.loads(line) for line in content.decode().split("\n") if line]
    _check_texts([one["text"] for one in found], exchange)
    return rows_of([one["prediction"] for one in found], exchange.order)


def _best(row: Mapping[str, str]) -> Row:
    if row["error"]:
        raise ValueError(f"a text failed: {row['error']}")
    return Row([float(row["score"])], [row["label"]], "none", best=row["label"])


def _check_texts(found: Sequence[str], exchange: Exchange) -> None:
    if list(found) != list(exchange.texts):
        raise ValueError(f"the texts of the answer are others: {found[:3]!r}")


@dataclass(frozen=True, slots=True)
class Job:
    """A job of one form of input. The seed draws the form of the results and whether texts are kept."""

    form: str
    # As a file with a name, as the page sends it; by events, as it follows one.
    file: bool = False
    events: bool = False
    by_predict: bool = False
    names_models: bool = True
    most: int = 32

    def begin(self, caller: Caller, exchange: Exchange) -> None:
        content = self._submission(exchange)
        answer = caller.request(exchange, "POST", **content)
        if exchange.note(answer):
            exchange.job = answer.headers["location"]

    def _submission(self, exchange: Exchange) -> dict[str, Any]:
        params: dict[str, Any] = {"keep_input": "true"} if exchange.seed % 2 else {}
        if exchange.model != "stub":
            params["model"] = exchange.model
        if self.by_predict:
            path = "/predict" if exchange.model == "stub" else f"/models/{exchange.model}/predict"
            body = {"text": list(exchange.texts)}
            return {"path": path, "json": body, "headers": {"prefer": "respond-async"}}
        if self.file:
            form = ("csv", "ndjson", "json", "txt")[exchange.seed // 2 % 4]
            zipped = exchange.seed // 8 % 2
            content = _file(form, exchange.texts)
            params["filename"] = f"texts.{form}" + (".gz" if zipped else "")
            content = gzip.compress(content) if zipped else content
            return {"path": "/jobs", "params": params, "content": content}
        kind = {"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}[self.form]
        content = _file(self.form, exchange.texts)
        return {"path": "/jobs", "params": params, "content": content, "headers": {"content-type": kind}}

    def finish(self, caller: Caller, exchange: Exchange) -> None:
        if self.events:
            _follow_events(caller, exchange)
        job = _ended(caller, exchange, exchange.job)
        if job is None or exchange.job_state != "finished":
            return
        kept = bool(exchange.seed % 2) and not self.by_predict
        if kept:
            texts = caller.request(exchange, "GET", f"{exchange.job}/texts")
            _check_texts([json.loads(line) for line in texts.text.split("\n") if line], exchange)
        self._read(caller, exchange, kept=kept)

    def _read(self, caller: Caller, exchange: Exchange, *, kept: bool) -> None:
        kind = ("application/json", "application/x-ndjson", "text/csv")[exchange.seed // 16 % 3]
        params = {"models": "true", **({"texts": "true"} if kept else {})}
        answer = caller.request(
            exchange, "GET", f"{exchange.job}/predictions", params=params, headers={"accept": kind}
        )
        if not exchange.note(answer):
            return
        if kind == "text/csv":
            table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
            found: list[Any] = table
            rows = [_best(row) for row in table]
        else:
            lines = [json.loads(line) for line in answer.text.split("\n") if line]
            found = lines if kind != "application/json" else lines[0]["predictions"]
            rows = rows_of([_prediction(one) for one in found], exchange.order)
        if kept:
            _check_texts([one["text"] for one in found], exchange)
        exchange.says(rows, [one["model"] for one in found])


def _prediction(result: dict[str, Any]) -> Any:
    if "error" in result:
        raise ValueError(f"a text failed: {result['error']}")
    return result["prediction"]


def _follow_events(caller: Caller, exchange: Exchange) -> None:
    """Reads the stream until its end, or until the connection ends: clients then ask for the state."""
    try:
        with caller.http.stream(
            "GET", f"{exchange.job}/events", headers=key_of(exchange.client), timeout=JOB_S
        ) as answer:
            for _ in answer.iter_lines():
                pass
    except httpx.TransportError:
        pass


def _ended(caller: Caller, exchange: Exchange, path: str) -> dict[str, Any] | None:
    """The job or batch, once it has ended; None if it does not, or is not there."""
    deadline = time.monotonic() + JOB_S
    while True:
        try:
            answer = caller.request(exchange, "GET", path)
        except httpx.TransportError as error:
            exchange.problem = repr(error)
        else:
            if answer.status_code == 404:
                exchange.job_state = "gone"
                return None
            if answer.is_success and answer.json()["status"] not in OPEN:
                exchange.problem = ""
                found: dict[str, Any] = answer.json()
                exchange.job_state = found["status"]
                return found
            if not answer.is_success:
                exchange.problem = f"{path}: {answer.status_code} {code_of(answer)}"
        if time.monotonic() > deadline:
            exchange.job_state = "open"
            return None
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of requests to one endpoint: a file, a job, a file."""

    endpoint: str
    names_models: bool = True
    most: int = 32

    def begin(self, caller: Caller, exchange: Exchange) -> None:
        asked = exchange.asked = exchange.asked or self._upload(caller, exchange)
        if asked is None:
            return
        answer = caller.request(exchange, "POST", "/v1/batches", json=asked)
        if exchange.note(answer):
            exchange.job = f"/v1/batches/{answer.json()['id']}"

    def _upload(self, caller: Caller, exchange: Exchange) -> dict[str, str] | None:
        """The body that makes a batch of a file that is sent here; None if the file is refused."""
        lines = (self._line(at, text, exchange) for at, text in enumerate(exchange.texts))
        content = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
        form: dict[str, Any] = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", content)}}
        answer = caller.request(exchange, "POST", "/v1/files", **form)
        if not exchange.note(answer):
            return None
        return {
            "input_file_id": answer.json()["id"],
            "endpoint": self.endpoint,
            "completion_window": "24h",
        }

    def _line(self, at: int, text: str, exchange: Exchange) -> dict[str, Any]:
        body = {"input": text} | ({"model": exchange.model} if exchange.model != "stub" else {})
        return {"custom_id": f"n{at}", "method": "POST", "url": self.endpoint, "body": body}

    def finish(self, caller: Caller, exchange: Exchange) -> None:
        batch = _ended(caller, exchange, exchange.job)
        if batch is None or exchange.job_state != "completed":
            return
        exchange.job_state = "finished"
        answer = caller.request(exchange, "GET", f"/v1/files/{batch['output_file_id']}/content")
        if not exchange.note(answer):
            return
        lines = [json.loads(line) for line in answer.text.split("\n") if line]
        if [one["custom_id"] for one in lines] != [f"n{at}" for at in range(len(exchange.texts))]:
            raise ValueError(f"the ids of the answer are others: {answer.text[:300]}")
        bodies = [one["response"]["body"] for one in lines]
        exchange.says([self._row(body) for body in bodies], [body["model"] for body in bodies])

    def _row(self, body: dict[str, Any]) -> Row:
        if self.endpoint == "/v1/moderations":
            scores = body["results"][0]["category_scores"]
            return Row([*scores.values()], [*scores], "none")
        one = body["data"][0]
        return Row(one["probs"], best=one["label"])


ROUTES: dict[str, Route] = {
    "predict": Live(PREDICT, _by_route),
    "predict best first": Live(PREDICT, _by_route, order="score"),
    **{name: Live(dialect, _NAMED.get(name)) for name, dialect in DIALECTS.items()},
    "deferred": Job("json", by_predict=True),
    "job json": Job("json"),
    "job ndjson": Job("ndjson"),
    "job csv": Job("csv"),
    "job file": Job("", file=True),
    "job events": Job("ndjson", events=True),
    "batch moderations": Batch("/v1/moderations"),
    "batch classify": Batch("/v1/classify"),
    "client": PythonClient(),
    "client job": PythonClient(by_job=True),
    "command": Command(),
}
# Routes whose answers are of one revision each; the others name those of all texts.
ONE_REVISION = frozenset(DIALECTS)
# Routes that give all labels of a text.
MODERATION = frozenset({"openai", "decisions", "batch moderations"})
JOBS = frozenset(name for name, route in ROUTES.items() if isinstance(route, Job | Batch))
# Routes that return once their job has ended.
WAIT_FOR_JOBS = frozenset({"client job", "command"})
