"""Unmodified clients in a loop, by turns at two API processes, while the workers move to another revision."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from millrace.settings_loader import free_port
from tests.service import Service, millrace, wait_until
from tests.signing import SIGNED, Checker, Revision, Row, Said, rows_of

np = pytest.importorskip("numpy", reason="numpy is not installed")
hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (compat-tests)")
openai = pytest.importorskip("openai", reason="openai is not installed (compat-tests)")
triton = pytest.importorskip(
    "tritonclient.http", reason="tritonclient[http] is not installed (compat-tests)", exc_type=ImportError
)

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(300)]
# The second has the labels of the first in another order.
OLD, NEW = (Revision(f"{SIGNED}-{name}") for name in (23, 39))
TEXTS = 5
ANSWERS = 6
Answered = tuple[list[Row], list[str]]


def by_triton(url: str, stack: ExitStack) -> Callable[[Sequence[str]], Answered]:
    client = triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=60)
    stack.callback(client.close)

    def ask(texts: Sequence[str]) -> Answered:
        given = triton.InferInput("text", [len(texts)], "BYTES")
        given.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=np.object_))
        found = client.infer("stub", [given])
        said = found.get_response()
        best = [one.decode() for one in found.as_numpy("label")]
        rows = [Row([*map(float, row)], best=best[at]) for at, row in enumerate(found.as_numpy("scores"))]
        return rows, [f"{said['model_name']}@{said['model_version']}"]

    return ask


def by_openai(url: str, stack: ExitStack) -> Callable[[Sequence[str]], Answered]:
    client = stack.enter_context(openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0))

    def ask(texts: Sequence[str]) -> Answered:
        raw = client.moderations.with_raw_response.create(input=list(texts))
        results = raw.parse().results
        scores = [one.category_scores.model_dump(by_alias=True) for one in results]
        return [Row([*one.values()], [*one], "none") for one in scores], [raw.headers["x-model"]]

    return ask


def by_huggingface(url: str, stack: ExitStack) -> Callable[[Sequence[str]], Answered]:
    client = stack.enter_context(hub.InferenceClient(base_url=url, token="unused", timeout=60))

    def ask(texts: Sequence[str]) -> Answered:
        found = client.text_classification(texts[0])
        return rows_of([[{"label": one.label, "score": one.score} for one in found]], "score"), []

    return ask


CLIENTS = {"tritonclient": by_triton, "openai": by_openai, "huggingface_hub": by_huggingface}


class Loop:
    """One thread for each client, which asks the processes in turn."""

    def __init__(self, urls: Sequence[str], checker: Checker) -> None:
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._checker, self._lock, self._stop = checker, threading.Lock(), threading.Event()
        self._stack = ExitStack()
        self._threads = [
            threading.Thread(target=self._run, args=(name, [make(url, self._stack) for url in urls]))
            for name, make in CLIENTS.items()
        ]

    def __enter__(self) -> Loop:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._stack.close()

    def answers(self, what: str) -> None:
        """Returns after some further answers of every client."""
        enough = {name: self.answered[name] + ANSWERS for name in CLIENTS}
        wait_until(lambda: self.wrong or all(self.answered[one] >= enough[one] for one in enough), what, 120)
        assert self.wrong == []

    def _run(self, name: str, asks: Sequence[Callable[[Sequence[str]], Answered]]) -> None:
        for number, ask in enumerate(itertools.cycle(asks)):
            if self._stop.wait(0.02):
                return
            texts = [f"{name} {number} {at}" for at in range(TEXTS)]
            asked_at = time.monotonic()
            try:
                rows, names = ask(texts)
            except Exception as error:
                if "503" not in repr(error):  # the budget ended, or a revision that is not known yet
                    self.wrong.append(f"{name}: {error!r}")
                continue
            with self._lock:
                wrong = self._checker.wrong(Said(texts[: len(rows)], rows, names, asked_at=asked_at))
            self.wrong += [f"{name}: {wrong} {names} {rows}"] if wrong else []
            self.answered[name] += 1


def test_clients_during_a_rolling_update(start_service: Callable[..., Service]) -> None:
    made = start_service(model=OLD.reference, workers=2, stub_batch_ms=3, batch_texts=2, default_budget_s=30)
    port = free_port()
    environment = made.environment_of("api") | {"MILLRACE_PORT": str(port)}
    made.processes.append(made.process_type("second-api", millrace("api"), environment, made.folder))
    urls = [made.base_url, f"http://127.0.0.1:{port}"]
    wait_until(lambda: _is_ready(made, urls[1]), "the second API process", 90)
    checker = Checker([OLD, NEW])
    with Loop(urls, checker) as loop:
        loop.answers("answers before")
        for old in list(made.workers):
            made.start_worker(model=NEW.reference)
            wait_until(lambda: len(made.live_workers()) == 3, "the new worker", 60)
            loop.answers("answers of both revisions")
            assert old.stop() == 0
            made.workers.remove(old)
        wait_until(lambda: all(_answers(made, url, NEW.name) for url in urls), "the move", 60)
        checker.settled(OLD.reference, at=time.monotonic())
        loop.answers("answers after the move")
    assert loop.wrong == []
    print(dict(loop.answered))


def _is_ready(service: Service, url: str) -> bool:
    try:
        return bool(service.http.get(f"{url}/readyz").status_code == 200)
    except Exception:
        return False


def _answers(service: Service, url: str, name: str) -> bool:
    """Whether a text that was not sent before is answered by this revision."""
    found = service.http.post(f"{url}/predict", json={"text": [f"{time.monotonic_ns()}"]})
    return bool(found.headers["x-model"] == name)
