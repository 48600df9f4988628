"""Modules of engines, each imported when a test first uses it.

Every process of pytest-xdist collects all tests, and importing these took each of them five seconds.
"""

from __future__ import annotations

import functools
import gc
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest


class Lazy:
    """The module `name`, with its attributes."""

    _name: str

    def __init__(self, name: str) -> None:
        object.__setattr__(self, "_name", name)

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or attribute == "_mock_name":  # pytest asks for these while it collects
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)

    def __setattr__(self, attribute: str, value: object) -> None:
        raise TypeError(f'patch the module by its name: setattr("{self._name}.{attribute}", ...)')


torch: Any = Lazy("torch")
transformers: Any = Lazy("transformers")


@functools.cache
def import_engines() -> None:
    """Imports what engines consist of, where it is installed, and has no collection of garbage look at it."""
    if find_spec("torch") and find_spec("transformers"):
        importlib.import_module("model_store.tokenizer_files").import_reference()
        gc.freeze()


def require_modules(*names: str) -> None:
    """Skips the rest of a module where one of these is not installed, as `pytest.importorskip` does."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed on this Python", allow_module_level=True)


def load_file(path: Path) -> dict[str, Any]:
    """The tensors of a file."""
    return dict(importlib.import_module("safetensors.torch").load_file(path))


def save_file(tensors: dict[str, Any], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors to a file."""
    importlib.import_module("safetensors.torch").save_file(tensors, path, metadata)


def inference_mode(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.inference_mode` as a decorator."""

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        with torch.inference_mode():
            return function(*args, **named)

    return run
