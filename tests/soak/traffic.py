"""Light traffic of every kind at a steady rate, each answer with a status that its kind expects."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx

from tests.dialects import DIALECTS, PREDICT, Dialect
from tests.operators import OperatorAuth
from tests.signing import Checker
from tests.soak.requests import BAD, PAGES, batch_lines, leave, request

# What every client must expect while workers come and go.
SHED = {429, 503, 504}
KNOWN = [f"a text that comes again {number}" for number in range(100)]
KINDS = ("new", "known", "new", "dialect", "model", "new", "bad", "known", "dialect", "new", "leave", "look")
# The kinds of each outcome that the API remembers: computed, known, and failed. Of the last, it does not
# remember requests that are not predictions, so that twice as many are needed.
OUTCOMES = (({"new", "model", "dialect"}, 1), ({"known"}, 1), ({"bad", "leave"}, 2))
PATIENCE_S = 30.0
# How many requests of `Traffic.fill` are under way at a time, and how often a burst keeps workers busy.
FILLERS, BURSTS = 8, 10


class Traffic:
    """Requests at `rate` a second until `stop`. `seen` counts kinds and statuses; `wrong` has sentences.

    `report` is called with each of these sentences at once. `checker` checks the answers of dialects; without
    one, only their number is checked.
    """

    def __init__(
        self, url: str, rate: float, report: Callable[[str], None], checker: Checker | None = None
    ) -> None:
        self.stop = asyncio.Event()
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._report, self._checker = report, checker
        self._rate = rate
        self._http = httpx.AsyncClient(base_url=url, trust_env=False, timeout=PATIENCE_S, auth=OperatorAuth())
        self._numbers = itertools.count()
        self._shapes = itertools.cycle(DIALECTS.values())
        self._refused, self._pages = itertools.cycle(BAD), itertools.cycle(PAGES)
        self._job_kinds = itertools.cycle((self._json_job, self._csv_job, self._cancelled_job, self._batch))
        self._makers: dict[str, Callable[[], Awaitable[None]]] = {
            kind: getattr(self, f"_{kind}") for kind in set(KINDS)
        }

    async def run(self) -> None:
        """Requests wait for no answers of others. Those that a busy machine delays are not made up for."""
        requests: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        for kind in itertools.cycle(KINDS):
            if self.stop.is_set():
                break
            task = asyncio.create_task(self._makers[kind]())
            requests.add(task)
            task.add_done_callback(requests.discard)
            with contextlib.suppress(TimeoutError):
                due = max(due + 1 / self._rate, time.monotonic())
                await asyncio.wait_for(self.stop.wait(), due - time.monotonic())
        await asyncio.gather(*requests)
        await self._http.aclose()

    async def fill(self, count: int) -> None:
        """As many requests of each outcome, as fast as they are answered; the same kinds as in `run`.

        What the API remembers of a request takes more memory for some kinds than for others.
        """

        async def send(left: Iterator[str]) -> None:
            for kind in left:
                await self._makers[kind]()

        for outcome, times in OUTCOMES:
            kinds = itertools.cycle([kind for kind in KINDS if kind in outcome])
            left = itertools.islice(kinds, times * count)
            await asyncio.gather(*[send(left) for _ in range(FILLERS)])

    async def run_jobs(self, count: int) -> None:
        """As many jobs of one text, each to its end."""

        async def run(numbers: Iterator[int]) -> None:
            for _ in numbers:
                created = await self._call("job", "POST", "/jobs", {202}, json={"text": self._texts(1)})
                if created is not None:
                    await self._ended(created.headers["location"])
                    await self._call("job", "DELETE", created.headers["location"], {204})

        left = iter(range(count))
        await asyncio.gather(*[run(left) for _ in range(FILLERS)])

    async def burst(self) -> None:
        """Requests of the second model while every worker is busy with the first, so that batches wait."""

        async def model_after(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await self._model()

        for _ in range(BURSTS):
            busy = [self._post("new", "/predict", {"text": self._texts(16)}) for _ in range(4)]
            later = [model_after(0.003 * number) for number in range(8)]
            await asyncio.gather(*busy, *later)

    def note(self, wrong: str) -> None:
        """Keeps the sentence on an answer that was not as expected."""
        self.wrong.append(wrong)
        self._report(wrong)

    async def unfinished(self) -> None:
        """Uploads that are cut off, and a visitor of the console."""
        text = "text\r\n" + "\r\n".join(self._texts(1_000))
        for path, kind in (("/jobs", "text/csv"), ("/v1/files", "multipart/form-data; boundary=x")):
            await leave(self._http.base_url, request(path, text.encode(), kind, lacking=1_000), 0.1)
        headers = {"accept": "text/event-stream"}
        async with self._http.stream("GET", "/stats", headers=headers) as stats:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await stats.aread()

    async def job(self) -> None:
        """The next kind of job, to its end."""
        await next(self._job_kinds)()

    def _texts(self, count: int) -> list[str]:
        return [f"text {next(self._numbers):09} that was never sent before" for _ in range(count)]

    async def _new(self) -> None:
        await self._ask("new", PREDICT, self._texts(1 + next(self._numbers) % 4))

    async def _known(self) -> None:
        at = next(self._numbers) % len(KNOWN)
        await self._post("known", "/predict?order=score", {"text": KNOWN[at : at + 3]})

    async def _model(self) -> None:
        await self._post("model", "/models/topics/predict", {"text": self._texts(2)})

    async def _dialect(self) -> None:
        shape = next(self._shapes)
        await self._ask("dialect", shape, self._texts(min(shape.most, 2)))

    async def _ask(self, kind: str, shape: Dialect, texts: list[str]) -> None:
        answer = await self._post(kind, shape.path, shape.ask(texts))
        if answer is not None and answer.status_code == 200:
            said = shape.said(answer, texts)
            wrong = self._checker.wrong(said) if self._checker else len(said.rows) != len(texts)
            if wrong:
                self.note(f"{shape.path}: {wrong} {answer.text[:300]}")

    async def _bad(self) -> None:
        path, body, status = next(self._refused)
        await self._call("bad", "POST", path, {status}, content=body)

    async def _look(self) -> None:
        await self._call("look", "GET", next(self._pages), {200})

    async def _leave(self) -> None:
        """A client that does not wait for its answer."""
        body = json.dumps({"text": self._texts(4)}).encode()
        await leave(self._http.base_url, request("/predict", body), 0.003)
        self.seen["leave"] += 1

    async def _post(self, kind: str, path: str, body: Any) -> httpx.Response | None:
        return await self._call(kind, "POST", path, {200} | SHED, json=body)

    async def _call(
        self, kind: str, method: str, path: str, expected: set[int], **more: Any
    ) -> httpx.Response | None:
        """The answer. What was not expected is remembered, and None."""
        try:
            answer = await self._http.request(method, path, **more)
        except httpx.TransportError as error:
            self.note(f"{kind} {path}: {error!r}")
            return None
        self.seen[f"{kind} {answer.status_code}"] += 1
        if answer.status_code not in expected:
            self.note(f"{kind} {path}: {answer.status_code} {answer.text[:300]}")
            return None
        return answer

    async def _json_job(self) -> None:
        """Followed by its events, read as lines, and deleted."""
        texts = self._texts(150)
        created = await self._call("job", "POST", "/jobs", {202}, json={"text": texts})
        if created is None:
            return
        path = created.headers["location"]
        async with self._http.stream("GET", f"{path}/events") as events:
            async for line in events.aiter_lines():
                if line.startswith("event: end"):
                    break
        await self._read(path, len(texts))
        await self._call("job", "DELETE", path, {204})

    async def _csv_job(self) -> None:
        """With its texts kept, followed by long polls, and left until its time is over."""
        lines = "\r\n".join(["text,number", *(f'"{text}, quoted",1' for text in self._texts(100))])
        headers = {"content-type": "text/csv"}
        created = await self._call(
            "job", "POST", "/jobs?keep_input=true", {202}, content=lines, headers=headers
        )
        if created is not None:
            await self._ended(created.headers["location"])
            await self._read(created.headers["location"], 100)

    async def _cancelled_job(self) -> None:
        body = "".join(f"{json.dumps(text)}\n" for text in self._texts(400))
        headers = {"content-type": "application/x-ndjson"}
        created = await self._call("job", "POST", "/jobs", {202}, content=body, headers=headers)
        if created is not None:
            path = created.headers["location"]
            async with self._http.stream("GET", f"{path}/events"):
                pass  # the client leaves while it receives events
            await self._call("job", "DELETE", path, {200, 204})

    async def _batch(self) -> None:
        """As OpenAI's clients send it."""
        lines = "".join(batch_lines(self._texts(50)))
        form = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", lines.encode())}}
        uploaded = await self._call("batch", "POST", "/v1/files", {200}, **form)
        if uploaded is None:
            return
        batch_request = {
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/classify",
            "completion_window": "24h",
        }
        created = await self._call("batch", "POST", "/v1/batches", {200}, json=batch_request)
        if created is None:
            return
        await self._ended(f"/jobs/{created.json()['id'].removeprefix('batch_')}")
        batch = await self._call("batch", "GET", f"/v1/batches/{created.json()['id']}", {200})
        if batch is not None:
            content = f"/v1/files/{batch.json()['output_file_id']}/content"
            await self._call("batch", "GET", content, {200})
        await self._call("batch", "DELETE", f"/v1/files/{batch_request['input_file_id']}", {200})

    async def _ended(self, path: str) -> None:
        while (job := await self._call("job", "GET", f"{path}?wait=20", {200})) is not None:
            if job.json()["status"] in ("finished", "failed", "cancelled"):
                return

    async def _read(self, path: str, count: int) -> None:
        headers = {"accept": "application/x-ndjson"}
        page = await self._call("job", "GET", f"{path}/predictions?limit={count}", {200}, headers=headers)
        if page is not None and len(page.text.splitlines()) != count:
            self.note(f"{path} has {len(page.text.splitlines())} results of {count}")
