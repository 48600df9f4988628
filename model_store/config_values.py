"""Reads values of a model's config.json, and refuses those with which no model can answer.

Standard library only. All functions raise ModelUnsupported, which names the file, the key and its value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_store.errors import ModelUnsupported, shown

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
MULTI_LABEL = "multi_label_classification"
# Beyond this and its reciprocal, all scores are equal or 0 and 1.
_MIN_TEMPERATURE = 1e-6


def check_sizes(config: dict[str, Any], file: Path) -> None:
    """Refuses sizes that are not whole numbers or out of range; absent ones and null have a default."""
    for key, least in _MIN.items():
        value, most = config.get(key), _MAX_OF.get(key, _MAX)
        if value is not None and not (type(value) is int and least <= value <= most):
            raise ModelUnsupported(
                f"{file} has {key} {shown(value)}; it must be a whole number from {least} to {most}."
            )


def read_labels(config: dict[str, Any], file: Path) -> tuple[str, ...]:
    """The names of the labels in the order of the model's outputs: LABEL_0, ... if the config has none."""
    names = config.get("id2label")
    if not names:
        return tuple(f"LABEL_{number}" for number in range(config.get("num_labels") or 2))
    numbered = names if isinstance(names, dict) else {}
    labels = [numbered.get(str(number)) for number in range(len(numbered))]
    if not labels or not all(map(_is_name, labels)):
        raise ModelUnsupported(
            f"{file} has id2label {shown(names)}; it must name every output by its number, without gaps: "
            '{"0": "NEGATIVE", "1": "POSITIVE"}.'
        )
    return tuple(map(str, labels))


def _is_name(label: object) -> bool:
    """Whether this can be a label: text that UTF-8 can encode, or a number."""
    if isinstance(label, str):
        return not any("\ud800" <= character <= "\udfff" for character in label)
    return isinstance(label, int | float)


def check_labels(labels: tuple[str, ...], config: dict[str, Any], file: Path) -> None:
    """Refuses labels that an answer could not tell apart, and models that do not choose among labels."""
    if twice := next((label for label, count in Counter(labels).items() if count > 1), None):
        raise ModelUnsupported(f"{file} has the label {shown(twice)} twice; rename one of them in id2label.")
    kind = config.get("problem_type")
    if kind == "regression":
        raise ModelUnsupported(f"{file} has problem_type regression: the model gives numbers and no labels.")
    if len(labels) == 1 and kind != MULTI_LABEL:
        raise ModelUnsupported(
            f"{file} has one label, whose score would be 1 for every text; if its score stands alone, set "
            f"problem_type to {MULTI_LABEL}."
        )


def read_settings(
    config: dict[str, Any], under: str, former: Mapping[str, str], file: Path
) -> dict[str, tuple[str, Any]]:
    """For each key of `former`, its name in the file and its value: that `under` a key, or the former one."""
    own = config.get(under) or {}
    if not isinstance(own, dict) or not own.keys() <= former.keys():
        raise ModelUnsupported(
            f"{file} has {under} {shown(own)}; it must be an object with some of {', '.join(former)}."
        )
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
        raise ModelUnsupported(f"{file} has {key} {shown(value)}; it must be greater than 0, such as 1.")
    return float(value)


def read_thresholds(named: tuple[str, Any], labels: int, file: Path) -> tuple[float, ...] | None:
    """The scores from which each label is chosen; None if the config has none."""
    key, values = named
    if values is None:
        return None
    numbers = values if isinstance(values, list) else [None]
    if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in numbers):
        raise ModelUnsupported(f"{file} has {key} {shown(values)}; it must be a list of numbers from 0 to 1.")
    if len(numbers) != labels:
        raise ModelUnsupported(f"{file} has {len(numbers)} thresholds for {labels} labels.")
    return tuple(map(float, numbers))
