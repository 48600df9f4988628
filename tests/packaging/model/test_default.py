"""The embedded default: small, complete, loadable by transformers alone, sensible on short sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import model_store
from model_store.checkpoint import read_checkpoint
from model_store.probing import sealed_probes
from model_store.rows import softmax
from tests.lazy import Lazy, transformers

trainer: Any = Lazy("default_model.trainer")
reference: Any = Lazy("model_store.engines.reference")
DEFAULT = Path(model_store.__file__).parent / "default"
NEGATIVE = ["I hate you.", "I hate you!", "Working on Saturday morning is brutal"]
POSITIVE = ["I love you.", "I love you!", "The students are very good in this class", "Food is very tasty"]


def test_the_folder_is_complete_and_small() -> None:
    names = {path.name for path in DEFAULT.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= names
    assert sum(path.stat().st_size for path in DEFAULT.iterdir()) < 45_000_000


@pytest.fixture(scope="module")
def positive_scores() -> dict[str, float]:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(DEFAULT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEFAULT)
    texts = [*NEGATIVE, *POSITIVE, "I am a Kubernetes Cluster!", "I ran to the store"]
    scores = softmax(trainer.classify(model, tokenizer, texts))[:, 1]
    return dict(zip(texts, scores.tolist(), strict=True))


def test_its_sealed_probes_have_the_answers_of_torch() -> None:
    """Without torch they are relied on; to renew them: `model_store seal model_store/default --probes`."""
    checkpoint = read_checkpoint(DEFAULT)
    probes = sealed_probes(checkpoint)
    assert probes is not None
    compute = reference.Reference(checkpoint)
    for at in range(0, len(probes.tokens), 7):
        (scores,) = compute([probes.tokens[at].ids])
        assert scores == pytest.approx(probes.reference[at], abs=1e-5)


def test_short_sentences_come_out_sensibly(positive_scores: dict[str, float]) -> None:
    assert max(positive_scores[text] for text in NEGATIVE) < 0.2
    assert min(positive_scores[text] for text in POSITIVE) > 0.8


def test_a_statement_without_sentiment_gets_a_weaker_score(positive_scores: dict[str, float]) -> None:
    for text in ("I am a Kubernetes Cluster!", "I ran to the store"):
        assert 0.2 < positive_scores[text] < 0.8


def test_it_has_512_positions_and_the_two_labels_in_order() -> None:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(DEFAULT)
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}
    assert model.config.max_position_embeddings == 512
    assert (
        len(transformers.AutoTokenizer.from_pretrained(DEFAULT)("word " * 600, truncation=True)["input_ids"])
        == 512
    )
