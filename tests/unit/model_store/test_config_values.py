"""A config.json with values of the wrong kind or size is refused in one sentence, before a build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model_store.checkpoint import Checkpoint, read_checkpoint, with_settings
from model_store.errors import ModelUnsupported
from model_store.prepare import check_source

_CONFIG = {
    "architectures": ["DistilBertForSequenceClassification"],
    "model_type": "distilbert",
    "vocab_size": 100,
    "id2label": {"0": "bad", "1": "good"},
}


def write(path: Path, **changed: Any) -> Path:
    """A directory that looks like a checkpoint."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**_CONFIG, **changed}))
    (path / "model.safetensors").touch()
    (path / "tokenizer.json").touch()
    return path


def read(path: Path, **changed: Any) -> Checkpoint:
    return read_checkpoint(write(path, **changed))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"id2label": ["a", "b"]}, r"has id2label \['a', 'b'\]; it must name every output by its number"),
        ({"id2label": {"x": "a", "1": "b"}}, "without gaps"),
        ({"id2label": {"0": "a", "2": "b"}}, "without gaps"),
        ({"id2label": {"0": None, "1": "b"}}, "without gaps"),
        ({"id2label": {"0": "\ud800", "1": "b"}}, "without gaps"),
        ({"id2label": None, "num_labels": 10**9}, "num_labels 1000000000; it must be a whole number"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "has the label 'a' twice; rename one of them"),
        ({"problem_type": "regression"}, "the model gives numbers and no labels"),
        ({"calibration_temperature": 0}, "has calibration_temperature 0; it must be greater than 0"),
        ({"millrace": {"temperature": -1}}, r"has millrace\.temperature -1; it must be greater than 0"),
        (
            {"millrace": {"heat": 1}},
            r"has millrace \{'heat': 1\}; it must be an object with some of temperature",
        ),
        ({"millrace": [1]}, r"has millrace \[1\]; it must be an object"),
        ({"calibration_temperature": float("nan")}, "has calibration_temperature nan"),
        ({"calibration_temperature": float("inf")}, "has calibration_temperature inf"),
        ({"calibration_temperature": "hot"}, "has calibration_temperature 'hot'"),
        ({"label_thresholds": 5}, "has label_thresholds 5; it must be a list of numbers from 0 to 1"),
        ({"label_thresholds": [float("nan"), 0.5]}, "has label_thresholds"),
        ({"label_thresholds": [1.01, 0.5]}, "must be a list of numbers from 0 to 1"),
        ({"label_thresholds": [0.5, -0.01]}, "must be a list of numbers from 0 to 1"),
        ({"label_thresholds": []}, "has 0 thresholds for 2 labels"),
        ({"architectures": [5]}, "its architecture is not given"),
        ({"vocab_size": "many"}, "has vocab_size 'many'; it must be a whole number"),
        ({"n_layers": 10**9}, "has n_layers 1000000000; it must be a whole number from 1 to 1000"),
        ({"n_heads": 0}, "has n_heads 0; it must be a whole number"),
        ({"max_position_embeddings": -5}, "has max_position_embeddings -5; it must be"),
        ({"model_type": "roberta", "max_position_embeddings": 2}, "can read 0 tokens of a text"),
        ({"model_type": "roberta", "pad_token_id": None}, "has pad_token_id None; roberta numbers positions"),
        ({"layer_norm_eps": float("inf")}, "has layer_norm_eps inf; it must be a finite number"),
        ({"layer_norm_eps": float("nan")}, "has layer_norm_eps nan; it must be a finite number"),
        ({"layer_norm_eps": -1}, "has layer_norm_eps -1; it must be at least 0, such as 1e-5"),
        ({"layer_norm_epsilon": -0.5}, r"has layer_norm_epsilon -0\.5; it must be at least 0"),
        ({"text_config": {"rms_norm_eps": float("-inf")}}, r"has text_config\.rms_norm_eps -inf; it must be"),
        ({"rope_parameters": {"rope_theta": float("nan")}}, r"has rope_parameters\.rope_theta nan; it must"),
        ({"rope_parameters": [1]}, "has a value of the wrong kind"),
    ],
)
def test_a_value_that_no_model_can_have_is_refused(tmp_path: Path, changed: Any, why: str) -> None:
    """Such configs ended `locate` and workers with a traceback, took all memory, or were served."""
    with pytest.raises(ModelUnsupported, match=why):
        check_source(str(write(tmp_path / "model", **changed)), tmp_path)


def test_a_number_too_large_for_a_float_is_infinite_and_an_infinite_limit_in_a_list_is_fine(
    tmp_path: Path,
) -> None:
    """Scores with `layer_norm_eps` 1e400 were the same for every text, which was put down to the weights."""
    file = write(tmp_path / "model", time_step_limit=[0.0, float("inf")]) / "config.json"
    read_checkpoint(file.parent)
    file.write_text(file.read_text().replace("{", '{"layer_norm_eps": 1e400, ', 1))
    with pytest.raises(ModelUnsupported, match="has layer_norm_eps inf; it must be a finite number"):
        read_checkpoint(file.parent)


def test_the_least_of_each_size_is_fine(tmp_path: Path) -> None:
    ones = dict.fromkeys(("n_layers", "n_heads", "dim", "vocab_size", "max_position_embeddings"), 1)
    ones |= dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size", "embedding_size"), 1)
    ones |= dict.fromkeys(("num_hidden_groups", "inner_group_num", "num_labels"), 1)
    others = {"type_vocab_size": 0, "pad_token_id": -1, "conv_kernel_size": 0}
    assert read(tmp_path / "model", **ones, **others).max_tokens == 1


def test_thresholds_may_be_none_or_all(tmp_path: Path) -> None:
    assert read(tmp_path / "model").thresholds is None
    assert read(tmp_path / "model", label_thresholds=[0, 1]).thresholds == (0.0, 1.0)


def test_labels_of_any_language_and_number_are_fine(tmp_path: Path) -> None:
    names = ["да", "👨‍👩‍👧", "a\nb", "", *map(str, range(5000))]
    found = read(tmp_path / "model", id2label=dict(enumerate(names)))
    assert found.labels == tuple(names)
    assert read(tmp_path / "model", id2label={"1": "b", "0": "a"}).labels == ("a", "b")
    assert read(tmp_path / "model", id2label=None).labels == ("LABEL_0", "LABEL_1")


def test_options_of_text_generation_divided_the_logits(tmp_path: Path) -> None:
    """A classifier that is fine-tuned from a chat model has `temperature` in its config."""
    assert read(tmp_path / "model", temperature=0.6, top_p=0.9, do_sample=True).temperature == 1
    former = {"calibration_temperature": 1.25, "text_windows": "24:6"}
    assert read(tmp_path / "model", temperature=0.6, **former).temperature == 1.25
    own = read(tmp_path / "model", millrace={"temperature": 2}, **former)
    assert (own.temperature, own.text_windows) == (2, "24:6")
    written = with_settings(own.config, temperature=3, text_windows=None)
    assert written["millrace"] == {"temperature": 3}
    assert written.keys().isdisjoint(former)


@pytest.mark.parametrize("kind", [None, "multi_label_classification"])
def test_one_label_has_a_score_of_its_own_as_transformers_gives_it(tmp_path: Path, kind: str | None) -> None:
    """A model with one output was refused as if its score were always 1; the pipeline takes a sigmoid."""
    found = read(tmp_path / "model", id2label={"0": "spam"}, problem_type=kind)
    assert (found.labels, found.multi_label) == (("spam",), True)


def test_json_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model")
    (path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ModelUnsupported, match="cannot be read as JSON"):
        read_checkpoint(path)


def test_only_the_names_of_epsilons_end_so(tmp_path: Path) -> None:
    path = write(tmp_path / "model", max_steps=-1, task_specific_params={"any": {"warmup_steps": -1}})
    assert read_checkpoint(path).max_tokens > 0


@pytest.mark.parametrize("stated", [131_072, 10**9])
def test_what_no_processor_reads_is_not_probed(tmp_path: Path, stated: int) -> None:
    """A Qwen states 131,072 positions, and its build tried every length up to that in steps of 64."""
    path = write(
        tmp_path / "model",
        architectures=["Qwen2ForSequenceClassification"],
        model_type="qwen2",
        max_position_embeddings=stated,
    )
    (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}))
    assert read_checkpoint(path).max_tokens == 8192
    (path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 300}))
    assert read_checkpoint(path).max_tokens == 300
