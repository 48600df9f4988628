"""Every engine, precision and layout gives the answers of transformers, whatever shares the batch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_store import Classifier, load
from model_store.errors import EngineUnavailable
from model_store.hardware import affinity
from model_store.rows import RowClassifier
from tests.families.checkpoints import write_family
from tests.lazy import torch, transformers
from tests.unit.model_store.checkpoints import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SHORT = ["Good.", "I ran to the store", "", "not bad at all, really", "never again!", "a", "what a day"]
LONG = ["the plot goes nowhere and the actors know it " * 8, "a long, warm and funny evening, " * 13]
TEXT = "Food is very tasty, and the waiter was kind."

RUNS = [
    (engine, precision, layout)
    for engine, precision in (
        ("torch", "f32"),
        ("torch", "bf16"),
        ("openvino", "f32"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
    )
    for layout in ("packed", "padded")
]
# How far a precision may be from transformers in f32, on weights that are larger than any real model's.
ERROR = {"f32": 2e-5, "bf16": 0.1, "int8": 0.25}


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def classifier(request: pytest.FixtureRequest, checkpoint: Path, kept: Path) -> Iterator[Classifier]:
    engine, precision, layout = request.param
    loaded = load(
        str(checkpoint), engine=engine, precision=precision, layout=layout, threads=1, artefact_dir=kept
    )
    yield loaded
    loaded.close()


def scores(classifier: Classifier, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array(classifier.classify(classifier.tokenize(texts)))


@cache
def transformers_model(path: Path) -> Any:
    return transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()


def reference(path: Path, classifier: Classifier, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Logits of transformers itself, each text alone."""
    model = transformers_model(path)
    with torch.inference_mode():
        rows = [
            model(input_ids=torch.tensor([list(tokens.ids)])).logits[0]
            for tokens in classifier.tokenize(texts)
        ]
    return torch.stack(rows).double().numpy()


def softmax(logits: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_answers_are_those_of_transformers(classifier: Classifier, checkpoint: Path) -> None:
    texts = [*SHORT, *LONG, TEXT]
    wanted = softmax(reference(checkpoint, classifier, texts))
    assert np.ptp(wanted[:, 0]) > 0.1, "the test model must tell texts apart"
    assert np.abs(scores(classifier, texts) - wanted).max() < ERROR[classifier.info.precision]


def test_a_text_gets_the_same_scores_whatever_its_batch_mates(classifier: Classifier) -> None:
    alone = scores(classifier, [TEXT])[0]
    for mates in ([TEXT], SHORT, LONG, SHORT * 12, [*SHORT, *LONG] * 3):
        among = scores(classifier, [*mates, TEXT, *mates])[len(mates)]
        assert np.abs(among - alone).max() <= classifier.info.tolerance, f"among {len(mates)} mates"


def test_order_is_kept_when_a_batch_fills_several_rows(classifier: Classifier) -> None:
    texts = [*LONG, *SHORT] * 8
    together = scores(classifier, texts)
    assert together.shape == (len(texts), 2)
    one_by_one = np.concatenate([scores(classifier, [text]) for text in texts[:9]])
    assert np.abs(together[-9:] - one_by_one).max() <= classifier.info.tolerance


def test_an_empty_batch_gives_nothing_and_an_empty_text_something(classifier: Classifier) -> None:
    assert classifier.classify([]) == []
    (row,) = classifier.classify(classifier.tokenize([""]))
    assert sum(row) == pytest.approx(1)


def test_texts_beyond_the_limit_are_cut_exactly_and_counted(classifier: Classifier) -> None:
    limit = classifier.info.max_tokens
    assert limit == 128
    fits, over, far_over = classifier.tokenize(["word " * (limit - 2), "word " * (limit - 1), "word " * 900])
    assert (len(fits), len(over), len(far_over)) == (limit, limit, limit)
    assert (fits.truncated, over.truncated, far_over.truncated) == (0, 1, 900 + 2 - limit)
    assert list(fits.ids) == list(over.ids) == list(far_over.ids)


def test_unknown_pieces_are_counted(classifier: Classifier) -> None:
    (tokens,) = classifier.tokenize(["good ☃ bad ☃"])
    assert tokens.unknown == 2


def test_a_closed_classifier_says_so(checkpoint: Path, kept: Path) -> None:
    loaded = load(str(checkpoint), engine="torch", precision="f32", artefact_dir=kept)
    loaded.close()
    loaded.close()
    with pytest.raises(ValueError, match="closed"):
        loaded.classify(loaded.tokenize([TEXT]))


@pytest.mark.parametrize("architecture", ["Bert", "Roberta", "SqueezeBert"])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_other_architectures_with_many_labels(architecture: str, engine: Any, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", architecture, labels=5, id2label=dict(enumerate("vwxyz")))
    loaded = load(str(path), engine=engine, precision="f32", threads=1, artefact_dir=tmp_path / "kept")
    assert isinstance(loaded, RowClassifier)
    assert loaded.info.labels == ("v", "w", "x", "y", "z")
    assert loaded.info.layout == ("padded" if architecture == "SqueezeBert" else "packed")
    texts = [*SHORT, LONG[0], TEXT]
    wanted = softmax(reference(path, loaded, texts))
    assert np.abs(scores(loaded, texts) - wanted).max() < ERROR["f32"]
    loaded.close()


def test_several_labels_at_once_and_temperature(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", labels=3, problem_type="multi_label_classification")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"millrace": {"temperature": 2.0}}), "utf-8")
    loaded = load(str(path), engine="torch", precision="f32", artefact_dir=tmp_path / "kept")
    assert loaded.info.multi_label
    wanted = 1 / (1 + np.exp(-reference(path, loaded, [TEXT, *SHORT]) / 2.0))
    assert np.abs(scores(loaded, [TEXT, *SHORT]) - wanted).max() < ERROR["f32"]
    loaded.close()


def test_token_types_go_only_to_a_model_that_takes_them(checkpoint: Path, tmp_path: Path) -> None:
    from model_store.engines.pytorch import PaddedModel, read_model

    bert = write_checkpoint(tmp_path / "bert", "Bert")
    given = [PaddedModel(read_model(path), token_types=True).token_types for path in (checkpoint, bert)]
    assert given == [False, True]


def test_what_a_decoder_would_keep_for_the_next_token_is_not_computed(tmp_path: Path) -> None:
    from model_store.engines.pytorch import PaddedModel, read_model

    model = read_model(write_family(tmp_path / "model", "qwen2"))
    ids = torch.tensor([[5, 6]])
    assert model(ids).past_key_values is not None
    assert PaddedModel(model, token_types=False).model(ids).past_key_values is None


def test_what_cannot_be_packed_says_so(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "SqueezeBert")
    with pytest.raises(EngineUnavailable, match="cannot be packed"):
        load(str(path), engine="torch", layout="packed", artefact_dir=tmp_path / "kept")


@pytest.mark.skipif(affinity() < 2, reason="one core cannot be shared")
def test_a_worker_with_some_of_the_cores_pins_none_of_its_threads(checkpoint: Path, kept: Path) -> None:
    """Else the threads of two workers on one machine would sit on the same cores while others idle."""
    script = """
import os, sys, threading
from contextlib import suppress
from pathlib import Path
from model_store import load
model = load(sys.argv[1], engine="openvino", precision="f32", threads=1, artefact_dir=Path(sys.argv[2]))
batch = model.tokenize(["some words " * 200] * 20)
passes = threading.Thread(target=lambda: [model.classify(batch) for _ in range(5)])
passes.start()
seen = set()
while passes.is_alive():
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):
            seen.add(len(os.sched_getaffinity(int(task.name))))
print(min(seen))
"""
    load(str(checkpoint), engine="openvino", precision="f32", threads=1, artefact_dir=kept).close()
    command = [sys.executable, "-c", script, str(checkpoint), str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == affinity()


SHAPES = """
import sys
from pathlib import Path
from model_store import load
from model_store.tokens import Tokens
from model_store.rows import arrange

def memory():
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) // 1024

classifier = load(sys.argv[1], engine="openvino", layout="padded", threads=1, artefact_dir=Path(sys.argv[2]))
runner = classifier._runner

def run(rows, length):
    runner.run(arrange([Tokens((2,) * length, 0, 0)] * rows, "padded"))
run(20, 16 * 20)
shapes = [(rows, 16 * steps) for rows in range(1, 21) for steps in range(1, 21)]
for shape in shapes[:100]:
    run(*shape)
before = memory()
for shape in shapes[100:]:
    run(*shape)
print(memory() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux has it")
def test_compiled_kernels_of_former_shapes_are_not_kept(checkpoint: Path, kept: Path) -> None:
    """300 shapes left 56 MiB, where 64 kernels are kept 5 MiB."""
    words = [sys.executable, "-c", SHAPES, str(checkpoint), str(kept)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert int(done.stdout) < 25


BLOCKS = {"block_size": 4, "num_random_blocks": 1}  # up to 28 tokens, attention is full
STRETCHED: dict[str, Any] = {
    "max_positions": 160, "max_position_embeddings": 160, "original_max_position_embeddings": 80,
    "rope_parameters": {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "factor": 2.0,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("big_bird", BLOCKS),
        ("bigbird_pegasus", BLOCKS),
        ("phi3", STRETCHED),
    ],
)
def test_a_long_text_had_other_scores_after_a_short_one_or_beside_it(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """BigBird skipped no blocks once it had read a short text; rotations for a long one were for all.

    A worker with such rotations did not start.
    """
    path = write_family(tmp_path / "model", family, **changes)
    texts = ["never again!", *LONG, "the plot goes nowhere " * 4]
    most = changes.get("max_positions", 96)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    wanted = []
    for text in texts:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
        given = tokenizer(text, return_tensors="pt", truncation=True, max_length=most)
        with torch.inference_mode():
            wanted.append(model(**given).logits.softmax(-1)[0].tolist())
    model = load(str(path), engine="torch", precision="f32", threads=1, artefact_dir=tmp_path / "kept")
    tokens = model.tokenize(texts)
    assert max(map(len, tokens)) == most
    assert np.abs(np.array([model.classify([one])[0] for one in tokens]) - wanted).max() < 1e-4
    assert np.abs(np.array(model.classify(tokens)) - wanted).max() < 1e-4
    model.close()
