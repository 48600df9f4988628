"""Reads a Hugging Face directory: the files of the model, and its config.

Refuses values of config.json with which no model can answer, in errors that name the file, the key and its
value. Standard library only.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_store.artefact import inside
from model_store.errors import ModelNotFound, ModelUnsupported, shown, wrong_value
from model_store.windows import MAX_TOKENS

CONFIG = "config.json"
# The key of config.json with settings of this package, which others neither write nor read, and its keys.
SETTINGS = "millrace"
TEMPERATURE, THRESHOLDS, TEXT_WINDOWS = "temperature", "thresholds", "text_windows"
# Their former names at the top of config.json. `temperature` there is an option of text generation.
_FORMER = {
    TEMPERATURE: "calibration_temperature",
    THRESHOLDS: "label_thresholds",
    TEXT_WINDOWS: "text_windows",
}
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Files with a vocabulary, of which every tokenizer has one.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spm.model",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# Files that tokenizers and transformers may need to create a tokenizer.
TOKENIZER_FILES = (
    *VOCABULARIES,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "word_shape.json",
    "word_pronunciation.json",
    "entity_vocab.json",
)
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER = "adapter_config.json"

# Families and activations that `engines/graph.py` and `engines/encoder.py` know.
_PACKABLE = (
    "DistilBert",
    "Bert",
    "Roberta",
    "XLMRoberta",
    "Electra",
    "Albert",
    "MPNet",
    "ModernBert",
    "DebertaV2",
)
_ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
# Families that count positions from the one after that of padding, and give padding no other (see
# `create_position_ids_from_input_ids` in transformers). Their tables have so many rows more.
_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
# What families call the number of their positions.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_NO_LIMIT = 1_000_000
# What a file begins with that Git has instead of a large one.
_POINTER = b"version https://git-lfs"
_DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A Hugging Face directory of a sequence classifier, not loaded yet.

    `thresholds` are the scores from which a multi-label model chooses each label, if its config has them.
    `text_windows` is how it wants long texts to be read (see `model_store.windows`), "" if it does not say.
    `vocabulary` is the number of token ids that the model accepts, if its config states it. `packable` says
    whether its architecture runs in packed rows, and is built without torch. `unnumbered` is the id of
    padding if tokens with this id have no position of their own, although they are in the text.
    """

    path: Path
    architecture: str
    model_type: str
    labels: tuple[str, ...]
    multi_label: bool
    max_tokens: int
    temperature: float
    thresholds: tuple[float, ...] | None
    text_windows: str
    vocabulary: int | None
    packable: bool
    unnumbered: int | None
    config: dict[str, Any]

    @property
    def special_ids(self) -> set[int]:
        """The ids that its config names, which its code may look for in a text."""
        named = [value for key, value in self.config.items() if key.endswith("_token_id")]
        return {one for one in named if type(one) is int}

    def files(self) -> list[Path]:
        """Every file that affects the model's answers, sorted by name."""
        return sorted([self.path / CONFIG, *self.tokenizer_files(), *weight_files(self.path)])

    def tokenizer_files(self) -> list[Path]:
        """The files of its tokenizer."""
        return [self.path / name for name in TOKENIZER_FILES if (self.path / name).is_file()]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint at `path`.

    Raises ModelNotFound if there is no config.json, and ModelUnsupported for pickled weights, a model
    without a classification head, an adapter, which transformers would apply to the weights of another
    directory, or an invalid config.
    """
    if (path / ADAPTER).is_file():
        raise ModelUnsupported(
            f"{path} has an adapter of PEFT ({ADAPTER}), and only whole models are served: merge it into its "
            "base with merge_and_unload(), and save that in another directory, with the tokenizer."
        )
    if not (path / CONFIG).is_file():
        raise ModelNotFound(f"{path} does not contain a model: it has neither manifest.json nor {CONFIG}.")
    named = (CONFIG, WEIGHTS, WEIGHTS_INDEX, *TOKENIZER_FILES)
    _refuse_pointers(path / name for name in named if (path / name).is_file())
    config = read_json(path / CONFIG)
    _refuse_pointers(file for file in weight_files(path) if file.is_file())
    architecture = _architecture(config)
    if not architecture.endswith("ForSequenceClassification"):
        raise ModelUnsupported(
            f"{path} is not a text classifier: its architecture is {architecture or 'not given'}, "
            "and only ...ForSequenceClassification can be served."
        )
    try:
        return _checkpoint(path, architecture, config)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ModelUnsupported(f"{path / CONFIG} has a value of the wrong kind: {error}.") from error


def _refuse_pointers(files: Iterable[Path]) -> None:
    """Raises ModelUnsupported for a file that Git LFS has not fetched."""
    for file in files:
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise ModelUnsupported(
                    f"{file} is a pointer of Git LFS and not the file itself: run `git lfs pull` in its "
                    "directory, or fetch the model with `python -m model_store pull`."
                )


def _architecture(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    first = next(iter(named), "") if isinstance(named, list) else ""
    return first if isinstance(first, str) else ""


def _checkpoint(path: Path, architecture: str, config: dict[str, Any]) -> Checkpoint:
    file = path / CONFIG
    check_sizes(config, file)
    _check_numbers(config, file)
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise ModelUnsupported(
            f"{path} is quantized ({shown(method or quantized)}), and only float weights are read: serve the "
            "checkpoint that it was made from, with precision int8 if it is to be small."
        )
    settings = read_settings(config, SETTINGS, _FORMER, file)
    labels = read_labels(config, file)
    check_labels(labels, config, file)
    return Checkpoint(
        path=path,
        architecture=architecture,
        model_type=str(config.get("model_type", "")),
        labels=labels,
        multi_label=config.get("problem_type") == MULTI_LABEL or len(labels) == 1,
        max_tokens=_max_tokens(config, path),
        temperature=read_temperature(settings[TEMPERATURE], file),
        thresholds=read_thresholds(settings[THRESHOLDS], len(labels), file),
        text_windows=str(settings[TEXT_WINDOWS][1] or ""),
        vocabulary=config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size"),
        packable=_is_packable(architecture, config),
        unnumbered=unnumbered(config),
        config=config,
    )


def with_settings(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A config.json with these settings under `SETTINGS`, and without former names; None removes one."""
    known = read_settings(config, SETTINGS, _FORMER, Path(CONFIG))
    settings = {key: value for key, (_, value) in known.items()} | changes
    others = {key: value for key, value in config.items() if key not in _FORMER.values()}
    return others | {SETTINGS: {key: value for key, value in settings.items() if value is not None}}


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a directory, with their index if they are sharded.

    If there is only a pickle, raises ModelUnsupported with the command that converts it.
    """
    if (path / WEIGHTS).is_file():
        return [path / WEIGHTS]
    if (path / WEIGHTS_INDEX).is_file():
        return [path / WEIGHTS_INDEX, *shards(path / WEIGHTS_INDEX)]
    if any((path / name).exists() for name in PICKLES):
        raise ModelUnsupported(
            f"{path} has only a pickle checkpoint, which can run code when it is loaded; convert it with: "
            f"python -m model_store convert-pickle {path}"
        )
    raise ModelNotFound(f"{path} has a {CONFIG} but no {WEIGHTS}.")


def shards(index: Path) -> list[Path]:
    """The files that an index names, which must be in the same directory."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise ModelUnsupported(f"{index} has no weight_map of file names.")
    return [inside(index.parent, shard) for shard in sorted(set(named.values()))]


def _is_packable(architecture: str, config: dict[str, Any]) -> bool:
    family = architecture.removesuffix("ForSequenceClassification")
    rotations = [kind or {} for kind in (config.get("rope_parameters") or {}).values()]
    return (
        family in _PACKABLE
        and not config.get("rope_scaling")
        and all(kind.get("rope_type", "default") == "default" for kind in rotations)
        and config.get("hidden_activation", "gelu") in _ACTIVATIONS
        and config.get("classifier_activation", "gelu") in _ACTIVATIONS
        and config.get("activation" if family == "DistilBert" else "hidden_act", "gelu") in _ACTIVATIONS
        and not config.get("is_decoder", False)
        and config.get("position_embedding_type", "absolute") == "absolute"
        and (family != "DebertaV2" or _is_packable_deberta(config))
    )


def _is_packable_deberta(config: dict[str, Any]) -> bool:
    """Whether a DeBERTa-v2 has relative positions, and at most a convolution that its graph has, too."""
    kernel = int(config.get("conv_kernel_size", 0))
    plain = kernel % 2 == 1 and config.get("conv_groups", 1) == 1 and config.get("num_hidden_layers", 24) > 1
    return (
        bool(config.get("relative_attention") and config.get("pos_att_type"))
        and config.get("pooler_hidden_act", "gelu") in _ACTIVATIONS
        and (kernel < 1 or (plain and config.get("conv_act", "tanh") in (*_ACTIVATIONS, "tanh")))
        and "attention_head_size" not in config
    )


def _max_tokens(config: dict[str, Any], path: Path) -> int:
    """The least of the tokenizer's limit, `MAX_TOKENS` and the model's positions."""
    positions = next(filter(None, map(config.get, _POSITIONS)), _DEFAULT_MAX_TOKENS)
    if (padding := unnumbered(config)) is not None:
        positions -= padding + 1
    if positions < 1:
        raise ModelUnsupported(
            f"{path} can read {positions} tokens of a text, according to max_position_embeddings in "
            f"{CONFIG}: correct it."
        )
    return min(positions, _tokenizer_limit(path / TOKENIZER_CONFIG), MAX_TOKENS)


def _tokenizer_limit(file: Path) -> int:
    """`model_max_length` in tokenizer_config.json, or its former name, if one is there and means a limit."""
    config = read_json(file) if file.is_file() else {}
    name = "model_max_length" if "model_max_length" in config else "max_len"
    limit = config.get(name)
    if limit is None:
        return _NO_LIMIT
    if type(limit) not in (int, float) or not limit >= 1:
        raise wrong_value(file, name, limit, "be a whole number from 1 on")
    return int(min(limit, _NO_LIMIT))


def unnumbered(config: dict[str, Any]) -> int | None:
    """The id of padding in families that count positions after it; in MPNet, it is a part of the code."""
    model_type = config.get("model_type")
    if model_type not in _AFTER_PADDING:
        return None
    padding = 1 if model_type == "mpnet" else config.get("pad_token_id", 1)
    if type(padding) is not int or padding < 0:
        raise ModelUnsupported(
            f"{CONFIG} has pad_token_id {shown(padding)}; {model_type} numbers positions after padding, "
            "so it must be the id of the padding token."
        )
    return padding


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnsupported(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelUnsupported(f"{path} does not contain a JSON object.")
    return content


# Sizes, and the least that each can be. A graph is built from them before the weights are looked at.
_MIN = {
    "num_hidden_layers": 1,
    "n_layers": 1,
    "num_attention_heads": 1,
    "n_heads": 1,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
    "hidden_size": 1,
    "dim": 1,
    "embedding_size": 1,
    "vocab_size": 1,
    "max_position_embeddings": 1,
    "type_vocab_size": 0,
    "pad_token_id": -1,
    "conv_kernel_size": 0,
    "num_labels": 1,
}
_MAX = 2**31 - 1
_MAX_OF = {"num_hidden_layers": 1000, "n_layers": 1000, "num_labels": 100_000}
# How the names end of what is added to a variance before a norm divides by its root.
_EPSILON = re.compile(r"(?:^|[._])eps(?:ilon)?$")
MULTI_LABEL = "multi_label_classification"
# Beyond this and its reciprocal, all scores are equal or 0 and 1.
_MIN_TEMPERATURE = 1e-6


def check_sizes(config: dict[str, Any], file: Path) -> None:
    """Refuses sizes that are not whole numbers or out of range; absent ones and null have a default."""
    for key, least in _MIN.items():
        value, most = config.get(key), _MAX_OF.get(key, _MAX)
        if value is not None and not (type(value) is int and least <= value <= most):
            raise wrong_value(file, key, value, f"be a whole number from {least} to {most}")


def _check_numbers(config: dict[str, Any], file: Path) -> None:
    """Refuses numbers that are infinite or NaN, as JSON of Python may have them, and negative epsilons."""
    for key, value in named_values(config):
        if type(value) is float and not math.isfinite(value):
            raise wrong_value(file, key, value, "be a finite number")
        if _EPSILON.search(key) and type(value) in (int, float) and value < 0:
            raise wrong_value(file, key, value, "be at least 0, such as 1e-5")


def named_values(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a config but labels, by the names of their keys, such as rope_parameters.rope_type."""
    for key, value in config.items():
        if isinstance(value, dict) and key != "id2label":
            yield from named_values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_labels(config: dict[str, Any], file: Path) -> tuple[str, ...]:
    """The names of the labels in the order of the model's outputs: LABEL_0, ... if the config has none."""
    names = config.get("id2label")
    if not names:
        return tuple(f"LABEL_{number}" for number in range(config.get("num_labels") or 2))
    numbered = names if isinstance(names, dict) else {}
    labels = [numbered.get(str(number)) for number in range(len(numbered))]
    if not labels or not all(map(_is_name, labels)):
        must = 'name every output by its number, without gaps: {"0": "NEGATIVE", "1": "POSITIVE"}'
        raise wrong_value(file, "id2label", names, must)
    return tuple(map(str, labels))


def _is_name(label: object) -> bool:
    """Whether this can be a label: text that UTF-8 can encode, or a number."""
    if isinstance(label, str):
        return not any("\ud800" <= character <= "\udfff" for character in label)
    return isinstance(label, int | float)


def check_labels(labels: tuple[str, ...], config: dict[str, Any], file: Path) -> None:
    """Refuses labels that an answer could not tell apart, and models that give numbers instead of labels."""
    if twice := next((label for label, count in Counter(labels).items() if count > 1), None):
        raise ModelUnsupported(f"{file} has the label {shown(twice)} twice; rename one of them in id2label.")
    if config.get("problem_type") == "regression":
        raise ModelUnsupported(f"{file} has problem_type regression: the model gives numbers and no labels.")


def read_settings(
    config: dict[str, Any], under: str, former: Mapping[str, str], file: Path
) -> dict[str, tuple[str, Any]]:
    """For each key of `former`, its name in the file and its value: that `under` a key, or the former one."""
    own = config.get(under) or {}
    if not isinstance(own, dict) or not own.keys() <= former.keys():
        raise wrong_value(file, under, own, f"be an object with some of {', '.join(former)}")
    return {
        key: (f"{under}.{key}", own[key]) if key in own else (name, config.get(name))
        for key, name in former.items()
    }


def read_temperature(named: tuple[str, Any], file: Path) -> float:
    """The number that divides the logits; 1 if the value is None."""
    key, value = named
    if value is None:
        return 1.0
    if type(value) not in (int, float) or not _MIN_TEMPERATURE <= value <= 1 / _MIN_TEMPERATURE:
        raise wrong_value(file, key, value, "be greater than 0, such as 1")
    return float(value)


def read_thresholds(named: tuple[str, Any], labels: int, file: Path) -> tuple[float, ...] | None:
    """The scores from which each label is chosen; None if the config has none."""
    key, values = named
    if values is None:
        return None
    numbers = values if isinstance(values, list) else [None]
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in numbers):
        raise wrong_value(file, key, values, "be a list of numbers from 0 to 1")
    if len(numbers) != labels:
        raise ModelUnsupported(f"{file} has {len(numbers)} thresholds for {labels} labels.")
    return tuple(map(float, numbers))
