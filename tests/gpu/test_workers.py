"""Workers on an NVIDIA card that are killed, or whose context is lost: every text is answered."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from batcher.messages import Prediction
from model_store import hardware
from tests.faults.conftest import HubAndWorkers
from tests.faults.conftest import service as service
from tests.gpu.full import full_card

pytestmark = [
    pytest.mark.redis,
    pytest.mark.e2e,
    pytest.mark.skipif(
        not hardware.card(), reason="needs an NVIDIA card and a torch that was built with CUDA"
    ),
]
ROOT = Path(__file__).parents[2]
PATH = {"PYTHONPATH": ":".join(filter(None, sys.path))}
# Once `broken` exists, the next batch reads beyond the table of embeddings, after which CUDA fails for good.
BREAKS = """
import pathlib, sys
sys.path.insert(0, {root!r})
from model_store.engines.card import CardPasses
_run = CardPasses.__call__
def run(self, ids, *others):
    if pathlib.Path({flag!r}).exists():
        ids[0, 0] = 1 << 30
    return _run(self, ids, *others)
CardPasses.__call__ = run
"""


@pytest.fixture
async def on_card(service: HubAndWorkers, tmp_path: Path) -> HubAndWorkers:
    """With one worker, as the others will be: an interpreter that starts anew, since CUDA dislikes forks."""
    await service.start(workers=0, model="default", engine="torch", artefact_dir=tmp_path, lease_ms=500)
    service.add_worker(environment=PATH)
    return service


async def asked(service: HubAndWorkers, name: str, count: int) -> list[Any]:
    texts = [f"{name} {number}: a story about nothing" for number in range(count)]
    requests = [service.ask(*texts[start : start + 20], budget_s=60) for start in range(0, count, 20)]
    return [outcome for outcomes in await asyncio.gather(*requests) for outcome in outcomes]


async def test_texts_of_a_killed_worker_are_answered_by_another(on_card: HubAndWorkers) -> None:
    on_card.add_worker(environment=PATH)
    await on_card.ready(2)
    asking = asyncio.create_task(asked(on_card, "killed", 4000))
    await on_card.until(on_card.in_flight, "a batch")
    on_card.workers[0].kill()
    assert all(isinstance(outcome, Prediction) for outcome in await asking)
    await on_card.empty()


async def test_a_worker_whose_context_is_lost_leaves_its_texts_to_another(
    on_card: HubAndWorkers, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BREAKS.format(root=str(ROOT), flag=str(tmp_path / "broken")))
    victim = on_card.add_worker(environment={"PYTHONPATH": f"{tmp_path}:{PATH['PYTHONPATH']}"})
    await on_card.ready(2)
    (tmp_path / "broken").touch()
    number = 0
    while victim.running:
        outcomes = await asked(on_card, f"lost {number}", 200)
        assert all(isinstance(outcome, Prediction) for outcome in outcomes)
        number += 1
    assert victim.wait() == 71
    assert "worker.broken" in victim.said()
    await on_card.empty()


async def test_texts_of_any_length_are_answered_while_another_program_fills_the_card(
    on_card: HubAndWorkers,
) -> None:
    """Rows of shapes that the worker has not met yet need memory, which no other program gives back."""
    await on_card.ready(1)
    with full_card():
        for words in (1, 40, 400, 150):
            texts = [f"{number} " + "a film that goes on " * words for number in range(0, 600, words)]
            outcomes = await on_card.ask(*texts, budget_s=60)
            assert all(isinstance(outcome, Prediction) for outcome in outcomes), on_card.logs()
        assert on_card.workers[0].running
    await on_card.empty()
