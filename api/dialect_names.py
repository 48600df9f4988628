"""Settings of the dialects of other services (`api.compat`): which are served, and their names of labels."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

# Those that are served by default, and all.
DEFAULTS = ("huggingface", "tei", "oip", "kserve", "vllm", "openai", "fms")
DIALECTS = (*DEFAULTS, "decisions", "project", "sagemaker", "vertex")


def parse_dialects(value: str) -> Sequence[str]:
    """The names in a comma-separated list, without repetitions. Raises ValueError for an unknown one."""
    names = tuple(dict.fromkeys(filter(None, (part.strip().lower() for part in value.split(",")))))
    unknown = [name for name in names if name not in DIALECTS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a dialect; known are {', '.join(DIALECTS)}")
    return names


def parse_route(value: str) -> str:
    """A path that requests may have. Raises ValueError."""
    if not re.fullmatch(r"(/[\w.:-]+)+", value, re.ASCII):
        raise ValueError("must be a path, such as /v1/predict")
    return value


def read_names(file: str | Path) -> Mapping[str, Sequence[str]]:
    """Other names of labels, by label, from TOML: POSITIVE = ["good", "is it good?"]. Raises ValueError.

    Without a file, there are none.
    """
    if not file:
        return {}
    try:
        found = tomllib.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    for label, names in found.items():
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f'the names of {label} must be a list of strings: {label} = ["good"]')
    return found


def parse_categories(value: str) -> Mapping[str, str]:
    """ "toxic=harassment, threat=violence" as a mapping of labels to categories. Raises ValueError.

    A JSON object is read too, for labels with a comma or an equals sign.
    """
    if value.lstrip().startswith("{"):
        found = json.loads(value)
        if any(type(name) is not str or not name for name in found.values()):
            raise ValueError('must be an object of strings: {"toxic, rude": "harassment"}')
        return dict(found)
    pairs = [part.rpartition("=") for part in value.split(",") if part.strip()]
    if any(not label.strip() or not name.strip() for label, _, name in pairs):
        raise ValueError("must be labels with their categories: toxic=harassment, threat=violence")
    return {label.strip(): name.strip() for label, _, name in pairs}
