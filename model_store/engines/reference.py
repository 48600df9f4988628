"""The reference: runs a checkpoint with transformers in torch f32 while an artefact is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_store.engines.pytorch import read_model
from model_store.errors import ModelUnsupported, shown
from model_store.probes import Batching, Scores
from model_store.rows import scores

# The effect of rounding is measured on all texts up to this length: longer ones take more time and show the
# same.
_ROUNDED = 32
# Scores of a text in padded rows that differ by at most this from those without padding are the same.
_SAME = 1e-5


class Reference:
    """Computes scores of token sequences with the model of a checkpoint."""

    def __init__(self, checkpoint: Path, *, temperature: float, multi_label: bool) -> None:
        self._path, self._model = checkpoint, read_model(checkpoint)
        self._temperature = temperature
        self._multi_label = multi_label

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Sequence[int]]) -> Scores:
        """Scores (texts, labels). Texts of different lengths are padded, which not every model ignores: see
        `ignores_padding`. Raises ModelUnsupported if the model cannot run them.
        """
        longest = max(map(len, texts))
        padding = getattr(self._model.config, "pad_token_id", None) or 0
        rows = torch.tensor([[*text, *[padding] * (longest - len(text))] for text in texts])
        mask = torch.tensor([[at < len(text) for at in range(longest)] for text in texts]).long()
        masked = {} if mask.all() else {"attention_mask": mask}
        try:
            logits = self._model(input_ids=rows, **masked).logits
        except Exception as error:  # architectures differ in what they need beside ids, and in which lengths
            raise ModelUnsupported(
                f"transformers cannot run {self._path}, a {type(self._model).__name__}, on texts of "
                f"{longest} tokens ({shown(str(error) or type(error).__name__)})."
            ) from error
        return np.array(
            scores(logits.float().numpy(), temperature=self._temperature, multi_label=self._multi_label)
        )

    def ignores_padding(self, short: Sequence[int], long: Sequence[int]) -> bool:
        """Whether a text has the same scores beside a longer one as alone."""
        try:
            beside = self([short, long])[0]
        except ModelUnsupported:
            return False
        return bool(np.abs(beside - self([short])[0]).max() <= _SAME)

    def rounding(self, texts: Sequence[Sequence[int]], exact: Scores, batch: Batching) -> float:
        """The largest change of a score when weights and the output of every layer are rounded to bf16.

        Engines in bf16 compute like this, except that they keep sums in f32. The model remains rounded.
        """
        for parameter in self._model.parameters():
            parameter.data = _rounded(parameter.data)
        for module in self._model.modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _module, _inputs, output: _rounded(output))
        chosen = [at for at, text in enumerate(texts) if len(text) <= _ROUNDED]
        got = np.concatenate([self(some) for some in batch([texts[at] for at in chosen])])
        return float(np.abs(got - exact[chosen]).max())


def _rounded(value: Any) -> Any:
    """Rounds floats to bf16, and returns them as f32."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.bfloat16().float()
    return value
