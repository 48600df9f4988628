"""Training on sets of many kinds: their parts, windows, siblings, emoji, and a tiny run from start to end."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer

from default_model.convert import convert
from default_model.corpus import Row
from default_model.domains import calibrate, emoji, measure, mixing, sets, siblings, unreadable
from default_model.domains.mixing import negations, typed
from default_model.model_report.measures import HERE, read_sentences
from default_model.train import load_split
from model_store import load
from tests.lazy import Lazy, load_file, save_file, torch, transformers
from tests.unit.model_store.checkpoints import copy
from tests.unit.model_store.tiny_bert import write_bert, write_data

label: Any = Lazy("default_model.domains.label")
train: Any = Lazy("default_model.domains.train")
MIXTURE = """
[sets.first]
choose = 4
last = 4
smoothing = 0.2
[sets.reviews]
choose = 2
last = 2
words = 50
[sets.neutral]
choose = 2
last = 2
[sets.missing]
choose = 1
last = 1
[recipes.large]
learning_rate = 6e-5
frozen = 1
balance = 1.0
[recipes.large.rows]
first = 8
reviews = 4
neutral = 4
[recipes.large.made]
sst2_sentences = 4
sst2_phrases = 8
long_reviews = 2
patterns = 4
negated = 2
negations = 0
neutral = 2
siblings = 2
emoji = 8
unreadable = 4
[recipes.default]
learning_rate = 4e-5
balance = 0.5
teacher_share = 0.7
[recipes.default.rows]
first = 9
reviews = 4
neutral = 4
[recipes.default.made]
sst2_sentences = 50
sst2_phrases = 16
long_reviews = 2
patterns = 4
negated = 2
negations = 4
neutral = 2
siblings = 1
emoji = 8
unreadable = 4
review_sentences = 6
"""


@pytest.fixture
def mixture(tmp_path: Path) -> sets.Mixture:
    folder = tmp_path / "sets"
    folder.mkdir()
    rows = {
        "first": [
            f"a {'good' if number % 3 else 'bad'} film {number}\t{int(number % 3 > 0)}"
            for number in range(30)
        ],
        "reviews": [
            f"{'word ' * 199}end{number}. It has {number} acts.\t{number % 2}" for number in range(12)
        ],
        "neutral": [f"film {number}\t0.5" for number in range(12)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n", "utf-8")
    (tmp_path / "mixture.toml").write_text(MIXTURE, "utf-8")
    return sets.read_mixture(folder, tmp_path / "mixture.toml", recipe="large")


def test_the_parts_of_a_set_are_disjoint_and_complete(mixture: sets.Mixture) -> None:
    assert [one.name for one in mixture.sets] == ["first", "reviews", "neutral"]
    first = mixture.sets[0]
    parts = [{row.text for row in part} for part in (first.rows, first.choose, first.last)]
    assert [len(part) for part in parts] == [22, 4, 4]
    assert len(set.union(*parts)) == 30


def test_an_epoch_has_as_many_rows_of_each_class_with_smoothed_targets(mixture: sets.Mixture) -> None:
    first, _, neutral = mixture.sets
    assert Counter(row.positive for row in sets.draw(first, Random(1))) == {0.1: 4, 0.9: 4}
    assert {row.positive for row in sets.draw(neutral, Random(1))} == {0.5}
    many = replace(first, rows=first.rows * 4, share=replace(first.share, rows=9))
    assert Counter(row.positive for row in sets.draw(many, Random(1), 0.5)) == {0.1: 3, 0.9: 6}


def test_long_texts_become_windows_that_reach_both_ends(mixture: sets.Mixture) -> None:
    rng = Random(1)
    texts = [row.text for _ in range(20) for row in sets.draw(mixture.sets[1], rng)]
    assert all(sets.MIN_WORDS <= len(text.split(" ")) <= 50 for text in texts)
    assert 0.1 < sum("end" in text for text in texts) / len(texts) < 0.9
    assert sets.window("short text", 50, rng) == "short text"


def test_a_folder_without_sets_and_a_bad_label_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the sets"):
        sets.read_mixture(tmp_path)
    (tmp_path / "imdb.tsv").write_text("sentence\tlabel\ngood\t2\n", "utf-8")
    with pytest.raises(ValueError, match=r"imdb.tsv:2: the label must be"):
        sets.read_mixture(tmp_path)


def test_a_recipe_says_how_much_of_a_target_is_the_teachers(
    mixture: sets.Mixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[train.Recipe] = []
    monkeypatch.setattr("default_model.domains.train.train", lambda *arguments: ran.append(arguments[4]))
    read = partial(sets.read_mixture, path=tmp_path / "mixture.toml")
    monkeypatch.setattr("default_model.domains.train.read_mixture", read)
    places = ["--data", str(tmp_path), "--sets", str(tmp_path / "sets"), "--out", str(tmp_path / "out")]
    for recipe in ("default", "large"):
        assert train.main([*places, "--recipe", recipe, "--seed", "3"]) == 0
    assert [(one.teacher_share, one.learning_rate, one.seed) for one in ran] == [
        (0.7, 4e-5, 3),
        (0.5, 6e-5, 3),
    ]


def test_siblings_share_pattern_and_target_and_differ_in_people() -> None:
    rng = Random(2)
    for _ in range(200):
        family = siblings.siblings([Row("great food", 1.0)], rng, count=8)
        assert len({row.positive for row in family}) == 1
        assert family[0].positive in (0.0, siblings.NEUTRAL, 1.0)
        assert len({row.text for row in family}) > 1
        assert not any("{" in row.text or " a a" in row.text for row in family)


def test_training_sentences_are_not_those_of_the_report() -> None:
    rng = Random(3)
    written = {unreadable.plain(rng).text for _ in range(2000)} | {
        unreadable.unreadable(rng).text for _ in range(500)
    }
    book = (Path(siblings.__file__).parent / "siblings.toml").read_text("utf-8").lower()
    measured = [row.text for rows in read_sentences().values() for row in rows if len(row.text) > 5]
    assert not written & set(measured)
    patterns = [line for line in (HERE / "people.toml").read_text("utf-8").splitlines() if line.endswith(".")]
    assert not [
        line for line in patterns if line.split("{}")[-1] in book and line.split("{}")[0].lower() in book
    ]


def test_negations_are_drawn_as_often_in_praise_as_in_complaints() -> None:
    complaints = ("Not good.", "it didnt work", "NO taste")
    praise = ("I can't wait", "not bad", "a note", "never " * 40)
    rows = (
        *(Row(text, 0.0) for text in complaints),
        *(Row(text, 1.0) for text in praise),
        Row("without sugar", 0.5),
    )
    one = sets.LabelledSet("one", sets.Share(rows=8, choose=0, last=0, smoothing=0.1), rows, (), ())
    drawn = negations([one], Random(5), count=4)
    assert Counter(row.positive for _, row in drawn) == {0.05: 2, 0.95: 2}
    assert {row.text for _, row in drawn if row.positive > 0.5} == {"I can't wait", "not bad"}


def test_sentences_of_reviews_are_taught_by_the_teacher_alone() -> None:
    review = "Good cast and good music . Yes ! " + "word " * 41 + ". It never gets dull... A fine last act?"
    texts = [Row(review, 1.0), Row("It has no plot at all. It never gets dull...", 0.0)]
    share = sets.Share(rows=1, choose=0, last=0, words=90)
    long = sets.LabelledSet("long", share, tuple(texts), (), ())
    short = sets.LabelledSet("short", replace(share, words=0), (Row("One more good film.", 1.0),), (), ())
    drawn = mixing.review_sentences([short, long], Random(6), count=100)
    assert {row.text for _, row in drawn} == {
        "Good cast and good music .",
        "It never gets dull...",
        "A fine last act?",
        "It has no plot at all.",
    }
    assert len(mixing.review_sentences([long], Random(6), count=2)) == 2
    answers = {"It never gets dull...": 0.875, "One more good film.": 0.5}
    others = [mixing.Drawn("short", row) for row in short.rows]
    assert {(name, *row) for name, row in mixing.taught(drawn + others, answers, 0.5)} == {
        (mixing.SENTENCES, "It never gets dull...", 0.875),
        ("short", "One more good film.", 0.75),
    }


def test_one_row_in_five_gets_typing_errors() -> None:
    rng = Random(4)
    changed = [typed(Row("excellent breakfast yesterday", 1.0), rng).text for _ in range(1000)]
    assert 0.15 < statistics.mean(text != "excellent breakfast yesterday" for text in changed) < 0.25


def test_emoji_get_pieces_as_a_word_and_at_the_end_of_one(tmp_path: Path) -> None:
    convert(write_bert(tmp_path / "bert"), tmp_path / "start")
    emoji.add_pieces(tmp_path / "start", tmp_path / "out")
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    assert tokenizer.encode("film 😍 film😡😡", add_special_tokens=False).tokens == [
        "film",
        "😍",
        "film",
        "##😡",
        "##😡",
    ]
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("start", "out"))
    name = "distilbert.embeddings.word_embeddings.weight"
    assert after[name][: len(before[name])].equal(before[name])
    assert (
        len(after[name])
        == tokenizer.get_vocab_size()
        == len(before[name]) + 2 * sum(map(len, emoji.BOOK.values()))
    )
    emoji.add_pieces(tmp_path / "out", tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors")[name].equal(after[name])


def test_a_run_writes_a_model_and_resumes(mixture: sets.Mixture, tmp_path: Path) -> None:
    convert(write_bert(tmp_path / "bert"), tmp_path / "start")
    data = write_data(tmp_path / "data")
    settings = replace(train.RECIPE, batch_rows=16, max_tokens=32, held_out=2)
    train.train(data, replace(mixture, frozen=0), [tmp_path / "start"], tmp_path / "out", settings)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["rows"] == {"first": 22, "reviews": 8, "neutral": 8}

    resumed = tmp_path / "resumed"
    emoji.add_pieces(tmp_path / "start", resumed / "start")
    trainer = train.DomainTrainer(resumed / "start", settings, load_split(data, settings), mixture, {})
    assert sum(isinstance(batch, train.SiblingBatch) for batch in trainer.epochs[0]) == 1
    for step in trainer.steps():
        if step == 2:
            break
    trainer.save(resumed / train.CHECKPOINT)
    train.train(data, replace(mixture, frozen=0), [tmp_path / "start"], resumed, settings)
    whole, again = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "resumed"))
    assert all(whole[name].equal(again[name]) for name in whole)
    transformers.AutoModelForSequenceClassification.from_pretrained(resumed)


def test_an_encoder_without_a_classifier_is_trained_above_its_frozen_layers(
    mixture: sets.Mixture, tmp_path: Path
) -> None:
    base = write_bert(tmp_path / "bert")
    (base / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    settings = replace(train.RECIPE, batch_rows=16, max_tokens=32, held_out=2)
    data = write_data(tmp_path / "data")
    train.train(data, mixture, [base], tmp_path / "out", settings)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    moved = {
        int(name.split(".layer.")[1].split(".")[0])
        for name, weight in before.items()
        if ".layer." in name and not after[f"bert.{name}"].equal(weight.half())
    }
    assert moved == {1}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert list(config["id2label"].values()) == ["NEGATIVE", "POSITIVE"]


def test_a_run_may_start_from_the_mean_of_several_models(tmp_path: Path) -> None:
    starts = [tmp_path / "a", tmp_path / "b"]
    base = write_bert(tmp_path / "bert")
    for start in starts:
        convert(base, start)
    weights = load_file(starts[1] / "model.safetensors")
    save_file({name: weight + 2 for name, weight in weights.items()}, starts[1] / "model.safetensors")
    train.prepare_start(starts, tmp_path / "mean")
    one, mean = (load_file(folder / "model.safetensors") for folder in (starts[0], tmp_path / "mean"))
    name = "classifier.weight"
    assert torch.allclose(mean[name], one[name] + 1, atol=1e-6)


def test_a_teacher_labels_what_its_student_will_see_and_goes_on_where_it_was_cut(
    mixture: sets.Mixture, tmp_path: Path
) -> None:
    student = sets.read_mixture(tmp_path / "sets", tmp_path / "mixture.toml")
    convert(write_bert(tmp_path / "bert"), tmp_path / "teacher")
    settings = replace(train.RECIPE, batch_rows=16, max_tokens=32, held_out=2)
    split = load_split(write_data(tmp_path / "data"), settings)
    drawn = mixing.drawn_rows(split, student, settings.seed)
    assert drawn == mixing.drawn_rows(split, student, settings.seed)
    for rows in (label.held_out(split, student), drawn[:9], drawn, drawn):
        label.label(tmp_path / "teacher", rows, tmp_path / "answers", seed=1)
    lines = (tmp_path / "answers").read_text("utf-8").splitlines()
    assert len(lines) == len(set(lines))
    (tmp_path / "answers").write_text("\n".join([*lines, "first\t0.1"]), "utf-8")  # cut while it was written
    answers = label.read_answers(tmp_path / "answers", split, student)
    assert {row.text for name, row in drawn if name != "neutral"} <= set(answers)
    assert {name for name, _ in drawn} == {"sst2", "first", "reviews", "neutral", mixing.SENTENCES}
    assert all(0 < answer < 1 for answer in answers.values())
    known = dict.fromkeys(answers, 0.25)
    taught = {row.positive for name, row in mixing.taught(drawn, known, 0.5) if name == "first"}
    assert taught == {0.125, 0.625}
    rows = list(mixing.epoch_rows(split, student, settings, Random(1), known))
    assert {0.125, 0.625, 0.5} <= {row.positive for row in rows}


def test_both_temperatures_are_fitted_and_written(
    mixture: sets.Mixture, checkpoint: Path, tmp_path: Path
) -> None:
    model = copy(checkpoint, tmp_path / "model")
    temperature, joined = calibrate.calibrate(model, mixture.sets, "20:5:mean")
    config = json.loads((model / "config.json").read_text("utf-8"))
    assert config["millrace"]["temperature"] == temperature
    assert config["millrace"]["text_windows"] == f"20:5:mean:{joined:g}"
    printed = list(measure.lines(load(str(model), artefact_dir=tmp_path), mixture.sets, "choose"))
    assert [line.split()[0] for line in printed] == ["first", "reviews", "neutral"]
    assert "above 0.9" in printed[2]
