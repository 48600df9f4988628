"""Checkpoints as they are when something went wrong: each is refused with what is wrong, and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_store import load
from model_store.checkpoint import read_checkpoint
from model_store.errors import ModelUnsupported
from tests.families.checkpoints import write_family
from tests.lazy import load_file, save_file, torch, transformers

pytestmark = pytest.mark.filterwarnings("ignore")

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
_DISTILBERT = "DistilBertForSequenceClassification"
Edit = Callable[[Path], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("roberta") / "model", "roberta", max_positions=32)


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edited(name: str, **values: Any) -> Edit:
    def edit(path: Path) -> None:
        file = path / name
        file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")

    return edit


def reweighted(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Edit:
    def edit(path: Path) -> None:
        file = path / "model.safetensors"
        tensors = load_file(file)
        save_file(tensors | {name: change(tensors[name])}, file, metadata={"format": "pt"})

    return edit


def without(prefix: str) -> Edit:
    def edit(path: Path) -> None:
        file = path / "model.safetensors"
        kept = {name: one for name, one in load_file(file).items() if not name.startswith(prefix)}
        save_file(kept, file, metadata={"format": "pt"})

    return edit


def as_adapter(path: Path) -> None:
    """What PEFT saves: no config.json, and a file of weights with another name."""
    (path / "config.json").unlink()
    (path / "model.safetensors").rename(path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text('{"peft_type": "LORA", "task_type": "SEQ_CLS"}', "utf-8")


@pytest.mark.parametrize("limit", ["32", True, 0, -1, [32], float("nan")])
def test_a_limit_of_the_tokenizer_that_is_none_was_put_down_to_config_json(path: Path, limit: object) -> None:
    edited("tokenizer_config.json", model_max_length=limit)(path)
    with pytest.raises(ModelUnsupported, match=r"tokenizer_config.json has model_max_length .* from 1 on"):
        read_checkpoint(path)


@pytest.mark.parametrize(("limit", "most"), [(None, 94), (1e30, 94), (10**30, 94), (32.0, 32), (500, 94)])
def test_a_limit_of_the_tokenizer_may_mean_none(path: Path, limit: object, most: int) -> None:
    edited("tokenizer_config.json", model_max_length=limit)(path)
    assert read_checkpoint(path).max_tokens == most


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({"max_len": 20}, 20),
        ({"max_len": 20, "model_max_length": 30}, 30),
        ({"max_len": 20, "model_max_length": None}, 94),
    ],
)
def test_the_former_name_of_the_limit_of_a_tokenizer_was_not_read(
    path: Path, given: dict[str, Any], most: int
) -> None:
    """transformers cuts texts there, and this read on to the last position."""
    file = path / "tokenizer_config.json"
    others = json.loads(file.read_text("utf-8"))
    del others["model_max_length"]
    file.write_text(json.dumps(others | given), "utf-8")
    limit = transformers.AutoTokenizer.from_pretrained(path).model_max_length
    assert read_checkpoint(path).max_tokens == min(limit, 94) == most


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_a_file_that_git_lfs_has_not_fetched_was_not_json(path: Path, name: str) -> None:
    (path / name).write_text(POINTER, "utf-8")
    with pytest.raises(ModelUnsupported, match=rf"{name} is a pointer of Git LFS .* `git lfs pull`"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (edited("config.json", quantization_config={"quant_method": "gptq"}), r"is quantized \('gptq'\)"),
        (edited("config.json", pad_token_id=None), "has pad_token_id None; roberta numbers positions"),
        (edited("config.json", pad_token_id=-1), "has pad_token_id -1; roberta numbers positions"),
        (edited("config.json", max_position_embeddings=1), "can read -1 tokens of a text"),
        (
            edited("config.json", hidden_act="nope"),
            r"model of .*/config.json \(it does not know 'nope' as hidden_act\)",
        ),
        (
            edited("config.json", model_type="distilbert", activation="nope", architectures=[_DISTILBERT]),
            r"model of .*/config.json \(it does not know 'nope' as activation\)",
        ),
        (
            edited("config.json", hidden_size=50),
            r"cannot construct the model of .*/config.json \(ValueError: The hidden size \(50\)",
        ),
        (
            edited("config.json", hidden_dropout_prob="half"),
            r"cannot construct the model of .*/config.json \(TypeError: .*hidden_dropout_prob.*half",
        ),
        (
            edited("config.json", model_type="nope"),
            r"cannot construct the model of .*/config.json \(ValueError: .* model type `nope`",
        ),
        (
            edited("config.json", id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1}),
            r"classifier.out_proj.\w+ have the shape \[3.*\], and by config.json it is \[2.*correct id2label",
        ),
        (
            reweighted("classifier.out_proj.weight", lambda one: (one * 10).to(torch.int8)),
            "stores classifier.out_proj.weight as I8",
        ),
        (
            without("classifier."),
            r"lacks 4 of .*, such as classifier.dense.bias: save the whole",
        ),
        (
            lambda path: (path / "adapter_config.json").write_text("{}", "utf-8"),
            r"model has an adapter of PEFT .*: merge it into its base with merge_and_unload",
        ),
        (as_adapter, r"model has an adapter of PEFT .*: merge it into its base with merge_and_unload"),
    ],
    ids=[
        "quantized",
        "padding",
        "none",
        "positions",
        "activation",
        "function",
        "size",
        "kind",
        "family",
        "labels",
        "integers",
        "head",
        "beside",
        "adapter",
    ],
)
def test_it_was_refused_for_another_reason(path: Path, tmp_path: Path, edit: Edit, said: str) -> None:
    """In the words of the library that failed first, such as that a package must be installed."""
    edit(path)
    with pytest.raises(ModelUnsupported, match=said) as refused:
        load(str(path), precision="f32", threads=1, artefact_dir=tmp_path / "kept")
    assert "\n" not in str(refused.value)
