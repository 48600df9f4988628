"""Refuses values in a manifest.json that no build has written. Standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from model_store.errors import shown

_SHA256 = re.compile("[0-9a-f]{64}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_outcome(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _are_labels(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _are_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(pinned, dict)
        and pinned.keys() == {"sha256", "size"}
        and _is_digest(pinned["sha256"])
        and _is_count(pinned["size"])
        for pinned in value.values()
    )


# What each value must be.
_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "format": (_is_count, "a whole number"),
    "name": (_is_text, "text"),
    "revision": (_is_digest, "64 hex digits"),
    "identity": (_is_digest, "64 hex digits"),
    "source": (_is_text, "text"),
    "labels": (_are_labels, "a list of texts"),
    "multi_label": (_is_flag, "true or false"),
    "max_tokens": (lambda value: _is_count(value) and value > 0, "a whole number above 0"),
    "temperature": (
        lambda value: type(value) in (int, float) and value > 0 and math.isfinite(value),
        "a number above 0",
    ),
    "engine": (lambda value: value in ("openvino", "torch"), "openvino or torch"),
    "weights": (lambda value: value in ("float", "int8"), "float or int8"),
    "rows": (_is_flag, "true or false"),
    "parameters": (_is_count, "a whole number"),
    "files": (_are_files, "files with their sha256 and size"),
    "gate": (_is_outcome, "an object or null"),
    "proof": (_is_outcome, "an object or null"),
    "text_windows": (_is_text, "text"),
    "inputs": (lambda value: isinstance(value, dict), "an object"),
}
_OPTIONAL = ("gate", "proof", "text_windows")


def check_manifest(content: Any) -> None:
    """Raises ValueError, which names the first value that is missing or of the wrong kind."""
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    for key, (fits, kind) in _KINDS.items():
        if key not in content and key in _OPTIONAL:
            continue
        if key not in content:
            raise ValueError(f"it has no {key}")
        if not fits(content[key]):
            raise ValueError(f"{key} is {shown(content[key])} and not {kind}")
