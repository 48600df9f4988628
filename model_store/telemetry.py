"""Turns off what libraries of models report to others by themselves; runs before any of them is imported.

Without openvino_telemetry, openvino and nncf report nothing; with it, importing openvino sends an event to
Google Analytics. huggingface_hub adds to its requests which other software is installed and runs it, and asks
the hub for a list to recognise it by.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import cast

# Python raises ModuleNotFoundError for a module that is None.
sys.modules["openvino_telemetry"] = cast(ModuleType, None)
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
