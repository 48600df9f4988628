"""The reference: runs a checkpoint with transformers in torch f32 while an artefact is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.engines.pytorch import read_model
from model_store.probes import Scores
from model_store.rows import scores

# The effect of rounding is measured on every second text up to this length: longer ones take more time and
# show the same.
_ROUNDED = 64


class Reference:
    """Computes scores of token sequences with the model of a checkpoint."""

    def __init__(self, checkpoint: Path, *, temperature: float, multi_label: bool) -> None:
        self._model = read_model(checkpoint)
        self._temperature = temperature
        self._multi_label = multi_label

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Sequence[int]]) -> Scores:
        """Scores (texts, labels) of texts with equal length, without padding."""
        logits = self._model(input_ids=torch.tensor([list(text) for text in texts])).logits
        return np.array(
            scores(logits.float().numpy(), temperature=self._temperature, multi_label=self._multi_label)
        )

    def rounding(self, texts: Sequence[Sequence[int]], exact: Scores) -> float:
        """The largest change of a score when weights and the output of every layer are rounded to bf16.

        Engines in bf16 compute like this, except that they keep sums in f32. The model remains rounded.
        """
        for parameter in self._model.parameters():
            parameter.data = _rounded(parameter.data)
        for module in self._model.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _module, _inputs, output: _rounded(output))
        chosen = [at for at, text in enumerate(texts) if len(text) <= _ROUNDED][::2]
        got = np.concatenate([self([texts[at]]) for at in chosen])
        return float(np.abs(got - exact[chosen]).max())


def _rounded(value: Any) -> Any:
    """Rounds floats to bf16, and returns them as f32."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.bfloat16().float()
    return value
