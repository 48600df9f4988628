"""Findings 5 and 10: workers whose engine or tokenizer stops working while the process lives on."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from batcher.errors import BudgetExceeded, EntryFailed, EntryPoisoned
from batcher.messages import Prediction, entry_id
from tests.faults.conftest import HubAndWorkers, P

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
# Every pass of such a worker fails once `broken` exists, as after a lost CUDA context; a text breaks it, too.
BREAKS = """
import pathlib, sys
sys.path.insert(0, {root!r})
from model_store.stub import StubClassifier
_classify, _tokenize, _broken = StubClassifier.classify, StubClassifier.tokenize, []
def tokenize(self, texts):
    tokens = _tokenize(self, texts)
    for text, made in zip(texts, tokens):
        if "breaks the engine" in text:
            made.ids[-1] = -99
    return tokens
def classify(self, batch):
    if pathlib.Path({flag!r}).exists() or any(tokens.ids[-1] == -99 for tokens in batch):
        _broken.append(1)
    if _broken:
        raise RuntimeError("an illegal memory access was encountered")
    return _classify(self, batch)
StubClassifier.classify, StubClassifier.tokenize = classify, tokenize
"""
# Such a worker passes its self-test and fails on every other text once `broken` exists.
PICKY = """
import pathlib, sys
sys.path.insert(0, {root!r})
from batcher.worker.inference import PROBES
from model_store.stub import StubClassifier
_classify, _tokenize = StubClassifier.classify, StubClassifier.tokenize
def tokenize(self, texts):
    tokens = _tokenize(self, texts)
    for text, made in zip(texts, tokens):
        if text not in PROBES and pathlib.Path({flag!r}).exists():
            made.ids[-1] = -99
    return tokens
def classify(self, batch):
    if any(tokens.ids[-1] == -99 for tokens in batch):
        raise RuntimeError("a shape that this engine cannot run")
    return _classify(self, batch)
StubClassifier.classify, StubClassifier.tokenize = classify, tokenize
"""
STALLS = """
import sys, time
sys.path.insert(0, {root!r})
from model_store.stub import StubClassifier
_tokenize = StubClassifier.tokenize
def tokenize(self, texts):
    if any("stalls the tokenizer" in text for text in texts):
        time.sleep(3600)
    return _tokenize(self, texts)
StubClassifier.tokenize = tokenize
"""


def spoilt(folder: Path, patch: str) -> dict[str, str]:
    """The environment of a worker whose stub is patched before it starts."""
    (folder / "sitecustomize.py").write_text(patch.format(root=str(ROOT), flag=str(folder / "broken")))
    return {"PYTHONPATH": str(folder)}


async def test_finding_05_a_worker_whose_engine_breaks_leaves_the_queue_to_others(
    service: HubAndWorkers, tmp_path: Path
) -> None:
    """It fails faster than others compute, so it used to claim most of what came and end it with 500."""
    await service.start(workers=1, stub_batch_ms=20, batch_texts=8)
    victim = service.add_worker(environment=spoilt(tmp_path, BREAKS))
    await service.ready(2)
    asking = [asyncio.create_task(service.check(f"before {i}", f"text {i}")) for i in range(20)]
    await asyncio.gather(*asking)
    (tmp_path / "broken").touch()
    asking = [asyncio.create_task(service.check(f"after {i}", f"one more {i}")) for i in range(40)]
    await asyncio.gather(*asking)
    assert await asyncio.to_thread(victim.wait) == 71
    assert "worker.broken" in victim.said()
    assert service.workers[0].running
    assert service.client.llen(f"{P}:dead") == 0
    await service.empty()


async def test_finding_05_a_worker_that_fails_on_everything_but_its_self_test_leaves(
    service: HubAndWorkers, tmp_path: Path
) -> None:
    await service.start(workers=1, stub_batch_ms=20, batch_texts=8)
    victim = service.add_worker(environment=spoilt(tmp_path, PICKY))
    await service.ready(2)
    await asyncio.gather(*(service.check(f"before {i}", f"text {i}") for i in range(20)))
    (tmp_path / "broken").touch()
    number = 0
    while victim.running:
        asking = [service.check(f"after {number} {i}", f"one more {number} {i}") for i in range(20)]
        await asyncio.gather(*asking)
        number += 1
    assert victim.wait() == 71
    assert victim.said().count("worker.broken") == 1
    assert service.workers[0].running
    assert service.client.llen(f"{P}:dead") == 0
    await service.empty()


async def test_finding_05_at_one_worker_alone_only_the_bad_text_fails_at_the_end_of_its_budget(
    service: HubAndWorkers,
) -> None:
    """A try that is due just before the end may come too late on a busy machine: then it is asked again."""
    await service.start(workers=1)
    numbers = itertools.count()
    for attempt in range(3):
        asking = asyncio.create_task(service.ask(f"\0raise {attempt}", budget_s=6))
        began = asyncio.get_running_loop().time()
        while not asking.done():
            number = next(numbers)
            await service.check(f"text {number}", f"another {number}")
        if not isinstance(asking.exception(), BudgetExceeded):
            break
    (outcome,) = await asking
    assert isinstance(outcome, EntryFailed)
    assert asyncio.get_running_loop().time() - began > 3
    assert service.workers[0].running
    await service.empty()


async def test_finding_05_one_worker_alone_is_started_again_and_answers(
    service: HubAndWorkers, tmp_path: Path
) -> None:
    await service.start(workers=0)
    victim = service.add_worker(environment=spoilt(tmp_path, BREAKS))
    await service.ready(1)
    (tmp_path / "broken").touch()
    asking = asyncio.create_task(service.check(*(f"text {i}" for i in range(30)), budget_s=60))
    assert await asyncio.to_thread(victim.wait) == 71
    assert not service.hub.outages
    (tmp_path / "broken").unlink()
    service.add_worker(environment=spoilt(tmp_path, BREAKS))
    await asking
    await service.empty()


async def test_finding_05_a_text_that_breaks_engines_is_refused_after_three_that_ran_it_alone(
    service: HubAndWorkers, tmp_path: Path
) -> None:
    """As a text that kills processes is: the first break was in a batch, and makes its texts suspects."""
    environment = spoilt(tmp_path, BREAKS)
    await service.start(workers=0)
    for _ in range(5):
        service.add_worker(environment=environment)
    await service.ready(5)
    asking = asyncio.create_task(service.ask("this breaks the engine", *(f"neighbour {i}" for i in range(8))))
    outcomes = await asking
    assert isinstance(outcomes[0], EntryPoisoned)
    assert [type(outcome) for outcome in outcomes[1:]] == [Prediction] * 8
    await service.until(
        lambda: sum(not worker.running for worker in service.workers) == 4, "four workers to end"
    )
    assert {worker.wait() for worker in service.workers if not worker.running} == {71}
    (dead,) = service.client.lrange(f"{P}:dead", 0, -1)
    assert dead.startswith(f"{entry_id('this breaks the engine')} poison attempts=3 ".encode())
    await service.empty()


@pytest.mark.parametrize("beside", [False, True], ids=["of an idle worker", "beside a batch"])
async def test_finding_10_a_tokenizer_that_hangs_ends_its_worker(
    service: HubAndWorkers, tmp_path: Path, beside: bool
) -> None:
    """Its leases were kept, its texts ended in 504, and the worker called itself idle."""
    await service.start(workers=0, lease_ms=1000)
    slow = {"stub_batch_ms": 700, "batch_texts": 1} if beside else {}
    victim = service.add_worker(environment=spoilt(tmp_path, STALLS), batch_timeout_s=2, **slow)
    await service.ready(1)
    texts = ["runs first"] if beside else []
    asking = asyncio.create_task(
        service.check(*texts, "stalls the tokenizer", *(f"neighbour {i}" for i in range(5)), budget_s=60)
    )
    assert await asyncio.to_thread(victim.wait) == 70
    assert "worker.hung" in victim.said()
    service.add_worker()  # its tokenizer works
    await asking
    await service.empty()
