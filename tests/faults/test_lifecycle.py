"""Starting, stopping and replacing processes under load: nothing is lost, and every stop ends in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import httpx
import pytest

from tests.dialects import PREDICT
from tests.service import Service, wait_until
from tests.signing import SIGNED, Checker, Revision

pytestmark = [pytest.mark.redis, pytest.mark.e2e]
GRACE_S = 30
# One each 50 ms: longer than any API takes to come back.
ATTEMPTS = 400

USERS = 16
# Restarts go on until this many requests were answered.
REQUESTS = int(os.environ.get("ROLLING_REQUESTS", "100"))


class Balancer:
    """Sends requests to replicas in turn. It does not look at readiness: it sends until the port closes.

    What no replica has taken goes to the next one, as load balancers do: its connection was refused, or had
    rested and was closed as the request left, without a byte of an answer (RFC 9112, 9.3.1: no server can
    spare a client that). Whatever else ends without an answer is `lost`, a new connection that is reset too.
    """

    def __init__(self, *services: Service, revisions: Sequence[str] = (SIGNED,)) -> None:
        self._checker = Checker([Revision(reference) for reference in revisions])
        self.seen: Counter[int] = Counter()
        self.models: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.resent: Counter[str] = Counter()
        self._services = services
        self._number = 0

    @contextlib.asynccontextmanager
    async def load(self, users: int) -> AsyncIterator[None]:
        """Closed-loop users for as long as the block runs."""
        stop = asyncio.Event()
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            asking = [asyncio.create_task(self._user(http, stop)) for _ in range(users)]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*asking)

    async def _user(self, http: httpx.AsyncClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._number += 1
            texts = [f"request {self._number}", f"more of {self._number}"]
            answer = await self._ask(http, texts)
            self.seen[answer.status_code] += 1
            if answer.status_code != 200:
                self.wrong.append(answer.text)
            else:
                self.models[answer.headers["x-model"]] += 1
                if wrong := self._checker.wrong(PREDICT.said(answer, texts)):
                    self.wrong.append(f"{texts}: {wrong} {answer.text}")

    async def _ask(self, http: httpx.AsyncClient, texts: list[str]) -> httpx.Response:
        number = self._number
        for attempt in range(ATTEMPTS):
            service = self._services[(number + attempt) % len(self._services)]
            steps = Steps()
            try:
                extensions = {"trace": steps.take}
                return await http.post(
                    f"{service.base_url}/predict", json={"text": texts}, extensions=extensions
                )
            except httpx.ConnectError:
                self.resent["refused"] += 1
            except httpx.TransportError as error:
                if steps.rested and isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError)):
                    self.resent["rested"] += 1
                else:
                    self.lost.append(f"{texts} at {service.port}: {error!r} after {steps.names}")
            await asyncio.sleep(0.05)
        raise AssertionError("no replica takes connections")


class Steps:
    """What became of a request, as the client reports it: `trace` of httpx."""

    def __init__(self) -> None:
        self.names: dict[str, float] = {}
        self._began = time.monotonic()

    async def take(self, name: str, _: object) -> None:
        self.names[name] = round(time.monotonic() - self._began, 3)

    @property
    def rested(self) -> bool:
        """It went over a connection that others had used before, and no answer began."""
        began = "http11.receive_response_headers.complete" in self.names
        return bool(self.names) and not began and "connection.connect_tcp.started" not in self.names


async def until(true: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(wait_until, true, what, 60)


# The limit of all tests is for the short run: 5,000 requests beside other work took longer, with none failed.
@pytest.mark.timeout(120 + REQUESTS / 10)
async def test_a_rolling_restart_of_everything_under_load_fails_no_request(
    start_service: Callable[..., Service],
) -> None:
    one = await asyncio.to_thread(
        lambda: start_service(model=SIGNED, workers=2, stub_batch_ms=10, quiet_s=0.3)
    )
    two = await asyncio.to_thread(
        lambda: start_service(model=SIGNED, workers=0, redis=one.redis, quiet_s=0.3)
    )
    await asyncio.to_thread(two.wait_ready)
    balancer = Balancer(one, two)
    async with balancer.load(USERS):
        while balancer.seen[200] < REQUESTS:
            await replace_everything(one, two)
    assert balancer.lost == []
    assert balancer.wrong == []
    assert set(balancer.seen) == {200}
    print(f"{balancer.seen[200]} answered, sent again: {dict(balancer.resent)}")


async def replace_everything(one: Service, two: Service) -> None:
    """Each worker by a new one that is ready before the old one goes, then each API."""
    for old in list(one.workers):
        live = len(one.live_workers())
        one.start_worker()
        await until(lambda live=live: len(one.live_workers()) > live, "the new worker")
        assert await asyncio.to_thread(old.stop, GRACE_S) == 0
        one.workers.remove(old)
    for made in (one, two):
        assert await asyncio.to_thread(made.api.stop, GRACE_S) == 0
        made.start_api()
        await asyncio.to_thread(made.wait_ready)


async def test_a_deploy_of_a_new_revision_stamps_every_answer_right(
    start_service: Callable[..., Service],
) -> None:
    """The old worker goes when the new one is ready; answers carry the revision that computed them."""
    references = f"{SIGNED}-old", f"{SIGNED}-new"
    made = await asyncio.to_thread(lambda: start_service(model=references[0], stub_batch_ms=5))
    old, new = (Revision(reference).name for reference in references)
    balancer = Balancer(made, revisions=references)
    async with balancer.load(4):
        await until(lambda: balancer.models[old] > 20, "answers of the old revision")
        made.start_worker(model=references[1])
        await until(lambda: len(made.live_workers()) == 2, "the new worker")
        assert await asyncio.to_thread(made.workers[0].stop, GRACE_S) == 0
        made.workers.pop(0)
        before = balancer.models[new]
        await until(lambda: balancer.models[new] > before + 20, "answers of the new revision")
        stale = balancer.models[old]
        await asyncio.sleep(0.5)
    assert balancer.lost == []
    assert balancer.wrong == []
    assert set(balancer.models) == {old, new}
    assert balancer.models[old] <= stale + 4, "the old revision goes on answering"


def test_readiness_goes_first_and_the_process_ends_within_its_grace(
    start_service: Callable[..., Service],
) -> None:
    made = start_service(stub_batch_ms=50, quiet_s=4.0)
    made.api.kill(how=15)  # type: ignore[arg-type]
    wait_until(lambda: made.http.get("/readyz").status_code == 503, "readiness to go", 30)
    assert made.http.get("/health").status_code == 200
    assert made.predict("while it is quiet").status_code == 200
    began = time.monotonic()
    assert made.api.wait(GRACE_S) == 0
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("no/such-directory-here", "no/such-directory-here"), ("default@nothing", "default")],
)
def test_a_model_that_cannot_be_loaded_is_a_failed_start_with_one_sentence(
    start_service: Callable[..., Service], model: str, sentence: str
) -> None:
    made = start_service(workers=0)
    worker = made.start_worker(model=model)
    assert worker.wait(60) == 2
    lines = [line for line in worker.said().splitlines() if '"level":"error"' in line]
    assert len(lines) == 1, worker.said()
    assert sentence in lines[0]
    assert "Traceback" not in worker.said()
    made.workers.clear()
