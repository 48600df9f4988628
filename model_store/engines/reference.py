"""The reference: runs a checkpoint with transformers in torch f32 while an artefact is built."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from model_store.checkpoint import Checkpoint
from model_store.engines.pytorch import PaddedModel, read_model
from model_store.errors import ModelUnsupported, first_line
from model_store.inputs import Inputs, Sharing, TokenTypes
from model_store.probes import UNBOUNDED, Scores
from model_store.rows import arrange, scores, shared
from model_store.tokens import Tokens

log = logging.getLogger(__name__)

# The effect of rounding is measured on all texts up to this length: longer ones take more time and show the
# same.
_ROUNDED = 32
# Scores of a text in padded rows that differ by at most this from those without padding are the same.
_SAME = 1e-5
# Sums are not layers: those of embeddings, and of what goes into a layer and comes out of it.
_SUMS = {"add", "add_"}
_LEAST = torch.finfo(torch.bfloat16).min
# Functions that find places by the values there.
_CHOOSING = {"topk", "argmax", "argmin", "max", "min", "sort", "argsort"}


class Reference:
    """Computes scores of token sequences with the model of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, token_types: TokenTypes | None = None) -> None:
        """`token_types` are those that the tokenizer gives; not every model takes them."""
        self._checkpoint, self._model = checkpoint, read_model(checkpoint.path)
        self._padded = PaddedModel(self._model, token_types=token_types is not None)
        types = token_types if self._padded.token_types else None
        self._given = Inputs(checkpoint.unnumbered, self._filler, token_types=types)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Sequence[int]]) -> Scores:
        """Scores (texts, labels). Texts of different lengths are padded, which not every model ignores: see
        `inputs`. Raises ModelUnsupported if the model cannot run them.
        """
        batch = [Tokens(text, truncated=0, unknown=0) for text in texts]
        rows = arrange(batch, "padded", most=max(map(len, texts)), inputs=self._given)
        try:
            logits = self._padded(*(torch.from_numpy(array).long() for array in rows.inputs))
            found = logits.float().numpy()
        except Exception as error:  # architectures differ in what they need beside ids, and in which lengths
            log.debug("transformers cannot run a text", exc_info=error, extra={"action": "model.raised"})
            raise ModelUnsupported(
                f"transformers cannot run {self._checkpoint.path}, a {type(self._model).__name__}, on texts "
                f"of {max(map(len, texts))} tokens ({first_line(error)})."
            ) from error
        labels = len(self._checkpoint.labels)
        if found.shape != (len(texts), labels):
            raise ModelUnsupported(
                f"{self._checkpoint.path}, a {type(self._model).__name__}, gives outputs of shape "
                f"{found.shape} for {len(texts)} texts and {labels} labels."
            )
        checkpoint = self._checkpoint
        return np.array(scores(found, temperature=checkpoint.temperature, multi_label=checkpoint.multi_label))

    @property
    def _filler(self) -> int:
        """The id of padding, which some families look for in the ids; without one, another special id."""
        config = self._model.config.get_text_config()
        named = (getattr(config, f"{kind}_token_id", None) for kind in ("pad", "eos", "bos"))
        return next((one for one in named if type(one) is int and one >= 0), 0)

    def inputs(self, texts: Sequence[Sequence[int]], longer: Sequence[Sequence[int]] = ()) -> Inputs:
        """The inputs of the model, and which texts may share a forward pass.

        This is tried with `texts` of several lengths: each must have the same scores as alone. If any may
        share one, also with `longer` ones, since a long text may change how a model reads all of its batch.
        """
        alone = [self([text])[0] for text in texts]
        lengths = [len(text) for text in texts]
        for sharing in get_args(Sharing):  # "none" comes last, and always agrees
            if sharing == "none" or self._agree(texts, alone, shared(lengths, sharing)):
                break
        if sharing == "any" and longer:
            return self.inputs([texts[0], *longer])
        return replace(self._given, sharing=sharing)

    def _agree(self, texts: Sequence[Sequence[int]], alone: Sequence[Any], batches: list[list[int]]) -> bool:
        for batch in batches:
            try:
                found = self([texts[at] for at in batch])
            except ModelUnsupported:
                return False
            if not np.abs(found - np.array([alone[at] for at in batch])).max() <= _SAME:
                return False
        return True

    def rounding(self, batches: Sequence[Sequence[Sequence[int]]], exact: Scores) -> float:
        """The largest change of a score when weights, the output of every layer and sums are rounded to bf16.

        `exact` are the scores of the texts in `batches`, which are ordered by length. Engines in bf16 compute
        like this. UNBOUNDED for a model that chooses by what it computes:
        rounding may change the choice, and no sample of texts shows by how much. The model remains rounded.
        """
        for parameter in self._model.parameters():
            parameter.data = _rounded(parameter.data)
        short = [[text for text in batch if len(text) <= _ROUNDED] for batch in batches]
        leaves = [module for module in self._model.modules() if not list(module.children())]
        hooks = [
            one.register_forward_hook(lambda _module, _inputs, output: _rounded(output)) for one in leaves
        ]
        try:
            with _Rounding() as rounding:
                got = np.concatenate([self(batch) for batch in short if batch])
        finally:
            for hook in hooks:  # models share modules: the gelu of every XLM is one
                hook.remove()
        return UNBOUNDED if rounding.chooses else float(np.abs(got - exact[: len(got)]).max())


class _Rounding(TorchFunctionMode):
    """Rounds sums, and notices if a model `chooses` by what it computes, as a mixture of experts does."""

    chooses = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _CHOOSING and _is_float(args[0]):
            places = output if isinstance(output, tuple) else (output,)
            self.chooses = self.chooses or any(one.dtype == torch.int64 for one in places)
        return _rounded(output) if name in _SUMS else output


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _rounded(value: Any) -> Any:
    """Rounds floats to bf16, and returns them as f32. What masks a token stays finite."""
    if _is_float(value):
        return value.clamp(_LEAST, -_LEAST).bfloat16().float()
    return value
