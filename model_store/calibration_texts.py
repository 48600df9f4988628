"""English sentences on which int8 builds measure the range of activations. Written for this project."""

from __future__ import annotations

from importlib import resources

_FILE = resources.files("model_store") / "calibration_texts.txt"

CALIBRATION_TEXTS = tuple(_FILE.read_text("utf-8").splitlines())
