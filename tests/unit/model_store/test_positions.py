"""No text is longer than the table of positions, and scores that an engine has not computed are an error."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batcher.messages import Entry, Failure, Prediction
from batcher.worker.batching import TokenizedEntry
from batcher.worker.inference import Faults, Inference
from model_store import Tokens, load
from model_store import checkpoint as reading
from model_store.build import build
from model_store.checkpoint import read_checkpoint
from model_store.engines.openvino_ir import OpenVinoRunner
from model_store.errors import NotComputed
from model_store.probes import read_probes
from model_store.probing import compute_probes
from model_store.rows import RowClassifier, arrange, special_ids
from tests.lazy import inference_mode, torch, transformers
from tests.unit.model_store.checkpoints import write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

POSITIONS = 66
LONG = "a good film that we saw twice and liked " * 20
SHORT = ["A good film, we like it.", "a bad film and we left it", "never"]


def without_limit(path: Path, architecture: str, positions: int = POSITIONS) -> Path:
    """A checkpoint whose tokenizer has no model_max_length."""
    write_checkpoint(path, architecture, labels=3, max_position_embeddings=positions)
    config = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    config.pop("model_max_length", None)
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return path


@pytest.fixture(scope="module")
def camembert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return without_limit(tmp_path_factory.mktemp("camembert") / "model", "Camembert")


@inference_mode
def scores_of_transformers(path: Path, texts: list[Tokens]) -> Any:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    rows = [model(input_ids=torch.tensor([list(text.ids)])).logits.softmax(-1) for text in texts]
    return torch.cat(rows).numpy()


@pytest.fixture
def opened() -> Iterator[Callable[..., RowClassifier]]:
    classifiers: list[Any] = []

    def opened(path: Path, kept: Path, **options: Any) -> Any:
        classifiers.append(load(str(path), precision="f32", artefact_dir=kept, **options))
        return classifiers[-1]

    yield opened
    for classifier in classifiers:
        classifier.close()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("architecture", "positions", "most"), [("Camembert", 66, 64), ("Ernie", 65, 65), ("Ernie", 66, 66)]
)
def test_a_text_beyond_the_table_of_positions_is_cut_and_not_answered_as_the_one_before(
    architecture: str,
    positions: int,
    most: int,
    threads: int,
    tmp_path: Path,
    opened: Callable[..., RowClassifier],
) -> None:
    """CamemBERT read 514 tokens with 512 positions, and rows of 513 were rounded up to 528.

    On one thread, the long text and the next ones of the same shape got the scores of the text before.
    """
    path = without_limit(tmp_path / "model", architecture, positions)
    classifier = opened(path, tmp_path, engine="openvino", threads=threads)
    assert classifier.info.max_tokens == most
    texts = classifier.tokenize([SHORT[0], LONG, *SHORT[1:], "<pad> [PAD] " * 200])
    assert len(texts[1]) == most
    wanted = scores_of_transformers(path, texts)
    one_by_one = [classifier.classify([text])[0] for text in texts]
    assert np.abs(np.array(one_by_one) - wanted).max() < 1e-4
    assert np.abs(np.array(classifier.classify(texts)) - wanted).max() < 1e-4


@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_that_cannot_run_a_text_raises_and_runs_the_next_one(
    threads: int, camembert: Path, kept: Path, opened: Callable[..., RowClassifier]
) -> None:
    classifier = opened(camembert, kept, engine="openvino", threads=threads)
    good, other = classifier.tokenize(["a good film", "no bad film"])
    wanted = [classifier.classify([text]) for text in (good, other)]
    (beyond,) = arrange([Tokens([7] * 80, truncated=0, unknown=0)], "padded").inputs[:1]
    runner: Any = classifier._runner
    for _ in range(2):
        assert classifier.classify([good]) == wanted[0]
        with pytest.raises(Exception, match=r"computed no scores|out of bounds|exceed"):
            runner.run(arrange([Tokens(beyond[0].tolist(), truncated=0, unknown=0)], "padded"))
        assert classifier.classify([other]) == wanted[1], "of the same shape as the good one before"


class Skipping:
    """A request of OpenVINO that computes nothing while `skip` is set, and returns what it had before."""

    def __init__(self, inner: Any) -> None:
        self._inner, self._before, self.skip = inner, None, False

    def infer(self, *arguments: Any, **options: Any) -> Any:
        if not self.skip:
            self._before = self._inner.infer(*arguments, **options)
        return self._before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_an_engine_that_skips_a_call_ends_in_an_error_and_not_in_the_answer_of_another_text(
    precision: Any, layout: Any, checkpoint: Path, kept: Path
) -> None:
    classifier: Any = load(
        str(checkpoint), engine="openvino", precision=precision, layout=layout, threads=1, artefact_dir=kept
    )
    one, other = classifier.tokenize(["a good film", "no bad film"])
    runner: OpenVinoRunner = classifier._runner
    wanted = classifier.classify([one])
    runner._request = skipping = Skipping(runner._request)
    assert classifier.classify([one]) == wanted
    skipping.skip = True
    for batch in ([other], [other, one, other]):
        with pytest.raises(NotComputed, match="computed no scores for rows of shape"):
            classifier.classify(batch)
        runner._request = skipping
    runner._request = None
    assert classifier.classify([one]) == wanted
    classifier.close()


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_an_engine_that_returns_another_number_of_rows_is_an_error(
    rows: int,
    checkpoint: Path,
    kept: Path,
    opened: Callable[..., RowClassifier],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier: Any = opened(checkpoint, kept, engine="torch")
    texts = classifier.tokenize(["good", "bad", "never"] * 4)
    monkeypatch.setattr(classifier._runner, "run", lambda _: np.zeros((rows, 2), np.float32))
    with pytest.raises(NotComputed, match="finite scores for each of 12 texts"):
        classifier.classify(texts)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_engine_that_returns_its_last_output_again_is_an_error(
    engine: str,
    checkpoint: Path,
    kept: Path,
    opened: Callable[..., RowClassifier],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier: Any = opened(checkpoint, kept, engine=engine)
    one, other = classifier.tokenize(["a good film", "no bad film"])
    output = classifier._runner.run(arrange([one], classifier.info.layout))
    monkeypatch.setattr(classifier._runner, "run", lambda _: output)
    classifier.classify([one])
    with pytest.raises(NotComputed):
        classifier.classify([other])


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_engine_that_returns_a_copy_of_its_last_output_is_an_error(
    engine: str,
    layout: Any,
    checkpoint: Path,
    kept: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier: Any = load(
        str(checkpoint),
        engine=engine,
        layout=layout,
        threads=1,
        artefact_dir=kept,  # type: ignore[arg-type]
    )
    texts = classifier.tokenize([f"a {word} film" for word in ("good", "bad", "long", "short", "new", "old")])
    run, before, calls = classifier._runner.run, [], []

    def skips(rows: Any) -> Any:
        calls.append(rows)
        if not skipping:
            before[:] = [run(rows).copy()]
        return before[0].copy()

    monkeypatch.setattr(classifier._runner, "run", skips)
    for last, batch in itertools.product(([0], [1, 2], [3, 4, 5]), ([2], [0, 2], [5, 4, 3], [2] * 3)):
        skipping = False
        wanted = classifier.classify([texts[at] for at in last])
        assert classifier.classify([texts[at] for at in last]) == wanted
        skipping = True
        with pytest.raises(NotComputed):
            classifier.classify([texts[at] for at in batch])
    assert len(calls) > 36
    classifier.close()


def test_texts_with_the_same_logits_are_computed_once_more_and_answered(
    checkpoint: Path, kept: Path, opened: Callable[..., RowClassifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier: Any = opened(checkpoint, kept, engine="torch")
    run, calls = classifier._runner.run, []

    def same(rows: Any) -> Any:
        output = run(rows)
        calls.append(rows)
        output[: 1 if len(calls) == 4 else None] = 0.5  # the fourth also has probes
        return output

    monkeypatch.setattr(classifier._runner, "run", same)
    one, other = classifier.tokenize(["a good film", "no bad film"])
    assert classifier.classify([one]) == classifier.classify([one]) == classifier.classify([other])
    assert len(calls) == 4


FAMILIES = {
    "camembert": {}, "data2vec-text": {}, "esm": {"position_embedding_type": "absolute"}, "ibert": {},
    "longformer": {"attention_window": 8}, "luke": {"entity_vocab_size": 8, "entity_emb_size": 8},
    "markuplm": {}, "mpnet": {}, "roberta": {}, "roberta-prelayernorm": {}, "xlm-roberta": {},
    "xlm-roberta-xl": {}, "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "lilt": {"hidden_size": 48},
    "layoutlmv3": {"coordinate_size": 2, "shape_size": 4, "visual_embed": False},
    "bert": {}, "ernie": {}, "electra": {}, "gpt2": {}, "xlm": {},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_limit_is_the_last_length_that_transformers_accepts(family: str, tmp_path: Path) -> None:
    """`max_position_embeddings` has rows before the first position in these families, and not in others."""
    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": 32, "max_position_embeddings": 40, "pad_token_id": 1,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(family, **sizes | FAMILIES[family])
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    config.architectures = [type(model).__name__]
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    most = read_checkpoint(tmp_path).max_tokens
    assert most in (38, 40)
    with torch.inference_mode():
        model(input_ids=torch.full((1, most), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, most + 1), 5))


def test_every_family_that_counts_from_padding_is_among_these() -> None:
    assert FAMILIES.keys() >= {*reading._AFTER_PADDING}


def test_a_limit_that_is_too_high_for_the_family_is_found_while_building(
    camembert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_AFTER_PADDING", ())
    assert read_checkpoint(camembert).max_tokens == POSITIONS
    built = build(camembert, tmp_path / "out", name="model", engine="torch")
    assert built.max_tokens == len(read_probes(tmp_path / "out").tokens[-1]) == POSITIONS - 2


def test_probes_have_the_last_length_and_special_ids(camembert: Path) -> None:
    checkpoint = read_checkpoint(camembert)
    special = special_ids(camembert / "tokenizer.json")
    probes, _ = compute_probes(checkpoint, camembert / "tokenizer.json")
    assert len(probes.tokens[-1]) == checkpoint.max_tokens
    inside = {number for tokens in probes.tokens for number in tokens.ids[1:-1]}
    assert inside.issuperset(special)
    plain = [tokens for tokens in probes.tokens if inside.intersection(special).isdisjoint(tokens.ids[1:-1])]
    assert len(plain) > len(probes.tokens) // 3


@pytest.mark.parametrize("threads", [1, 2])
def test_texts_that_an_engine_cannot_run_fail_alone_and_the_worker_goes_on(
    threads: int, camembert: Path, kept: Path, opened: Callable[..., RowClassifier]
) -> None:
    """With two threads, each of them ended the worker: its self-test failed on the broken engine."""
    classifier = opened(camembert, kept, engine="openvino", threads=threads)
    classifier.info = replace(classifier.info, max_tokens=90)  # so that rows go beyond the table
    inference = Inference(classifier, Faults(classifier))
    texts = classifier.tokenize(["a good film", "no bad film"])
    beyond = Tokens([*texts[0].ids, *[7] * 80], truncated=0, unknown=0)
    for number in range(3):
        held = [
            TokenizedEntry(
                Entry(f"{number}-{at}", "", "interactive", 9, 0, 9000, 1), tokens, 0.0, 0.0, "idle"
            )
            for at, tokens in enumerate([texts[0], beyond, texts[1]])
        ]
        found = dict(inference.classify_entries(held, 0).results)
        assert [type(found[f"{number}-{at}"]) for at in range(3)] == [Prediction, Failure, Prediction]
        assert not inference.faults.broken
