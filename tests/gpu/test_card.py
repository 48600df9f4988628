"""The torch engine on an NVIDIA card. Where there is one: python -m pytest tests/gpu"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batcher import logs
from batcher.__main__ import EXIT_BROKEN, main
from batcher.settings import WorkerSettings
from model_store import Classifier, hardware, load
from model_store.errors import EngineUnavailable
from tests.gpu.full import full_card
from tests.lazy import require_modules, torch

require_modules("torch")
pytestmark = [
    pytest.mark.skipif(
        not hardware.card(), reason="needs an NVIDIA card and a torch that was built with CUDA"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

SHORT = ["Good.", "I ran to the store", "", "not bad at all, really", "never again!", "a", "what a day"]
LONG = ["the plot goes nowhere and the actors know it " * 8, "a long, warm and funny evening, " * 13]
TEXT = "Food is very tasty, and the waiter was kind."
PACKED = ("DistilBert", "Bert", "Roberta", "Electra", "Albert", "MPNet", "ModernBert", "DebertaV2")


def scores(classifier: Classifier, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(classifier.classify(classifier.tokenize(texts)))


def transformers_scores(path: Path, classifier: Classifier, texts: list[str]) -> Any:
    """Those of transformers in f32 on the processor, each text alone."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        alone = [
            model(input_ids=torch.tensor([list(one.ids)])).logits[0] for one in classifier.tokenize(texts)
        ]
    return torch.stack(alone).double().softmax(-1).numpy()


@pytest.fixture(scope="module", params=[*PACKED, "SqueezeBert"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.unit.model_store.checkpoints import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"), request.param)


@pytest.mark.parametrize(("precision", "error"), [("f32", 1e-4), ("bf16", 0.1)])
def test_answers_are_those_of_transformers_whatever_the_batch(
    checkpoint: Path, tmp_path: Path, precision: Any, error: float
) -> None:
    classifier = load(str(checkpoint), engine="torch", precision=precision, artefact_dir=tmp_path)
    assert classifier.info.device == hardware.card()
    assert classifier.info.arithmetic == precision, classifier.info.fallback_reason
    texts = [*SHORT, *LONG, TEXT]
    right = transformers_scores(checkpoint, classifier, texts)
    assert np.ptp(right[:, 0]) > 0.1, "the test model must tell texts apart"
    for times in (1, 7, 80):  # the last one is too large for a recording
        assert np.abs(scores(classifier, texts * times) - np.tile(right, (times, 1))).max() < error
    for text, answer in zip(texts, right, strict=True):
        assert np.abs(scores(classifier, [text])[0] - answer).max() < error
    classifier.close()


def test_auto_computes_in_bf16_on_the_card(tmp_path: Path) -> None:
    info = load("default", artefact_dir=tmp_path).info
    assert (info.engine, info.device, info.arithmetic) == ("torch", hardware.card(), "bf16")
    assert info.proof
    assert info.proof.reason == info.fallback_reason == ""
    (choice,) = (tmp_path / "choices").iterdir()
    assert "NVIDIA" in choice.name


def test_a_model_that_a_full_card_cannot_hold_is_no_failed_proof(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The worker ended with the status of one that can never start, and `millrace up` with it."""
    monkeypatch.setattr(logs, "setup", lambda *_: None)
    settings = WorkerSettings(model="default", engine="torch", artefact_dir=tmp_path)
    with full_card():
        with pytest.raises(EngineUnavailable, match="out of memory"):
            load("default", engine="torch", artefact_dir=tmp_path)
        assert main(settings) == EXIT_BROKEN
    assert "out of memory" in caplog.text
