"""Training on labelled files with a tiny base: every recipe, resumed runs, and what is written at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from model_store import load
from model_store.checkpoint import read_checkpoint
from model_store.drift_reference import read_reference
from model_store.errors import BadTraining
from model_store.random_model import write_random
from model_store.training import run
from model_store.training.base import find_base, load_network, load_tokenizer
from model_store.training.data import Order, Source
from model_store.training.recipes import NAMES, Name, Options
from model_store.training.run import train
from model_store.training.table import Columns
from tests.lazy import Lazy, load_file, torch, transformers
from tests.unit.model_store.tiny_bert import write_bert

loops: Any = Lazy("model_store.training.loop")
heads: Any = Lazy("model_store.training.head")
learn: Any = Lazy("model_store.training.learn")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bases") / "bert")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Texts whose label is the word they contain; 60 rows of each."""
    rng = Random(1)
    rows = []
    for number in range(180):
        word = ("good", "bad", "film")[number % 3]
        others = rng.choices(["the", "is", "a", "not", "."], k=rng.randint(2, 12))
        rows.append(f"{' '.join([*others, word, 's' * (number % 7)])},{word}")
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["text,label", *rows]) + "\n")
    return path


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps, at a rate for a network of 16 dimensions."""

    def options(recipe: Name, rows: int, *, seed: int, max_tokens: int) -> Options:
        return Options(recipe, seed, epochs=3, max_tokens=max_tokens, learning_rate=0.01, average_decay=0.8)

    monkeypatch.setattr(run, "options", options)


def _order(data: Path, base: Path, out: Path, recipe: Name | None, **changes: object) -> Order:
    order = Order(Source((data,)), out, base=str(base), recipe=recipe, threads=1)
    return replace(order, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", NAMES)
@pytest.mark.usefixtures("fast")
def test_every_recipe_ends_with_a_plain_checkpoint(
    data: Path, base: Path, tmp_path: Path, recipe: Name
) -> None:
    said: list[str] = []
    out = tmp_path / "topics"
    result = train(_order(data, base, out, recipe), said.append)
    assert result.figures.accuracy > (0.5 if recipe == "full" else 0.8)
    assert {path.name for path in out.iterdir()} == {
        "README.md", "config.json", "metrics.json", "model.safetensors", "report.html", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert said[0].startswith("rows ")
    assert f"recipe               {recipe}, on " in said[-1]
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["figures"]["accuracy"] == result.figures.accuracy

    model = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    assert model.config.id2label == {0: "bad", 1: "film", 2: "good"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    logits = model(**tokenizer(["the good", "a bad ."], padding=True, return_tensors="pt")).logits
    logits.sum().backward()
    assert model.pre_classifier.weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path / "again")
    again = read_checkpoint(tmp_path / "again")
    assert (again.temperature, again.labels) == (result.temperature, ("bad", "film", "good"))


@pytest.mark.parametrize("recipe", ["contrastive", "full"])
@pytest.mark.usefixtures("fast")
def test_a_killed_run_continues_to_the_same_weights(
    data: Path, base: Path, tmp_path: Path, recipe: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(_order(data, base, tmp_path / "whole", recipe), str)

    class Killed(BaseException):
        pass

    save = loops.Loop.save

    def save_and_die(loop: Any, path: Path) -> None:
        save(loop, path)
        if loop._step == 7:
            raise Killed

    order = _order(data, base, tmp_path / "killed", recipe, checkpoint_s=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(loops.Loop, "save", save_and_die)
        with pytest.raises(Killed):
            train(order, str)
    assert not (tmp_path / "killed").exists()
    said: list[str] = []
    train(order, said.append)
    assert any(line.startswith("An interrupted run continues") for line in said)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "error", [OSError(ENOSPC, "No space left on device"), SafetensorError("No space left on device")]
)
def test_a_full_disk_is_one_sentence(error: Exception, tmp_path: Path) -> None:
    """It ended an hour of training with a traceback, and without the command that continues it."""

    class Full:
        total_steps = 2

        def steps(self) -> Iterator[int]:
            yield 1

        def save(self, _: Path) -> None:
            raise error

    with pytest.raises(
        BadTraining, match=r"cannot be written \(No space left on device\): mend that and repeat"
    ):
        learn.run(Full(), tmp_path / ".topics.part" / learn.CHECKPOINT, str, 0.0)  # type: ignore[arg-type]


@pytest.mark.usefixtures("fast")
def test_a_checkpoint_of_other_data_is_refused(data: Path, base: Path, tmp_path: Path) -> None:
    work = tmp_path / ".topics.part"
    work.mkdir()
    (work / learn.CHECKPOINT).write_bytes(b"torn")
    with pytest.raises(BadTraining, match="cannot be read"):
        train(_order(data, base, tmp_path / "topics", "full"), str)


@pytest.mark.usefixtures("fast")
def test_several_labels_a_text_get_thresholds(base: Path, tmp_path: Path) -> None:
    rng = Random(2)
    path = tmp_path / "tags.tsv"
    rows = [rng.sample(["good", "bad", "film"], rng.choice((0, 1, 1, 2))) for _ in range(260)]
    path.write_text(
        "text\tlabel\n" + "".join(f"{' '.join(row)} a {n}\t{'|'.join(row)}\n" for n, row in enumerate(rows))
    )
    source = Source((path,), Columns(separator="|"), test=path)
    order = Order(source, tmp_path / "tags", str(base), "full", threads=1)
    with pytest.raises(BadTraining, match="are in the test part"):
        train(order, str)
    result = train(replace(order, source=replace(source, test=None, test_share=0.8)), str)
    checkpoint = read_checkpoint(tmp_path / "tags")
    assert checkpoint.multi_label
    assert checkpoint.thresholds == result.thresholds
    assert result.thresholds
    assert result.figures.confusion == ()
    assert (reference := read_reference(tmp_path / "tags"))
    assert reference.texts == result.rows["test"]


@pytest.mark.usefixtures("fast")
def test_nothing_is_overwritten_by_accident(data: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "topics"
    out.mkdir()
    order = _order(data, base, out, "linear")
    with pytest.raises(BadTraining, match="exists: choose another directory"):
        train(order, str)
    with pytest.raises(BadTraining, match="is not a checkpoint, so it is not replaced"):
        train(replace(order, replace=True), str)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("b\udce9", r"b\\udce9' is not UTF-8: choose another directory"),
        ("a" * 300, "cannot be written: File name too long"),
        ("file/topics", "cannot be written: Not a directory"),
    ],
)
def test_a_model_that_could_not_be_written_is_refused_before_training(
    data: Path, base: Path, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadTraining, match=said):
        train(_order(data, base, tmp_path / name, "linear"), str)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("reference", ["nowhere", "."])
def test_a_base_that_is_none_is_refused(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadTraining, match="is not a base: write default, minilm or a directory"):
        find_base(reference)


def test_the_network_reads_the_mean_of_the_tokens(base: Path) -> None:
    from transformers import AutoModel

    network = load_network(base, ["a", "b"], multi_label=False, seed=1)
    ids = load_tokenizer(base)(["good film", "the film is not bad , the film is a film"])["input_ids"]
    assert len(ids[1]) > 8  # the tokenizer.json truncates to 8
    encoder = AutoModel.from_pretrained(base).eval()
    for row, found in zip(ids, learn.features(network, ids), strict=True):
        mean = encoder(input_ids=torch.tensor([row])).last_hidden_state[0].mean(dim=0)
        expected = (mean - mean.mean()) / mean.std(correction=0)
        assert torch.corrcoef(torch.stack([expected, found.detach()]))[0, 1] > 0.99


@pytest.mark.parametrize("labels", [3, 12])
def test_the_head_is_exact_despite_the_relu(base: Path, labels: int) -> None:
    """With more than half as many labels as the 16 features too, where it has the rank that fits."""
    names = [str(number) for number in range(labels)]
    network = load_network(base, names, multi_label=False, seed=1)
    torch.manual_seed(1)
    weights = torch.randn(labels, 8) @ torch.randn(8, 16)
    head = heads.Head(weights, torch.randn(labels))
    heads.put(head, network)
    found = torch.randn(5, 16)
    logits = network.classifier(torch.relu(network.pre_classifier(found)))
    assert np.allclose(logits.detach().numpy(), head(found), atol=1e-3)


def test_the_penalty_is_chosen_on_unseen_rows() -> None:
    torch.manual_seed(1)
    rows = torch.randn(200, 30)
    targets = heads.targets_of([("a" if row[0] + torch.randn(()) > 0 else "b",) for row in rows], ["a", "b"])
    head, (logits, numbers) = heads.fit_best(rows, targets, multi_label=False, seed=1)
    assert 0.6 < float((logits.argmax(axis=1) == targets[numbers].numpy().argmax(axis=1)).mean()) < 0.85
    weak = heads.fit(rows, targets, 0.001, multi_label=False)
    assert float(head.weights.norm()) < float(weak.weights.norm())


def test_the_report_has_no_outside_resources_and_escapes_what_the_file_says(
    base: Path, tmp_path: Path, fast: Callable[[], None]
) -> None:
    path = tmp_path / "data.csv"
    rows = [f"good {n} <script>alert(1)</script>,<b>" for n in range(20)] + [
        f"good {n},a|b" for n in range(20, 40)
    ]
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    train(_order(path, base, tmp_path / "<i>", "linear"), str)
    page = (tmp_path / "<i>" / "report.html").read_text()
    assert "<script" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "http" not in page
    assert page.count("<svg") == 2
    assert r"| a\|b |" in (tmp_path / "<i>" / "README.md").read_text()


def test_the_layer_of_the_mean_is_served_with_the_same_scores(data: Path, tmp_path: Path) -> None:
    write_random("tiny", tmp_path / "base")
    train(_order(data, tmp_path / "base", tmp_path / "topics", "linear"), str)
    texts = ["the good film is not a film", "bad"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "topics").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "topics")
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    temperature = read_checkpoint(tmp_path / "topics").temperature
    expected = (logits / temperature).softmax(dim=1).detach().numpy()
    served = load(
        str(tmp_path / "topics"), engine="openvino", precision="f32", threads=1, artefact_dir=tmp_path
    )
    assert not served.info.fallback_reason
    found = served.classify(served.tokenize(texts))
    served.close()
    assert np.abs(np.array(found) - expected).max() < 1e-3
