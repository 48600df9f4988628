"""The torch engine: packed rows if the architecture is supported, padded rows otherwise."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils.logging import disable_progress_bar

from model_store.artefact import Manifest
from model_store.checkpoint import CONFIG, named_values, read_json
from model_store.classifier import Arithmetic
from model_store.engines.card import CardPasses
from model_store.engines.encoder import packed_encoder
from model_store.errors import ModelUnsupported, first_line, shown
from model_store.rows import FILLER, Floats, Rows
from model_store.weights import Safetensors, lacking

log = logging.getLogger(__name__)
_DTYPES: dict[Arithmetic, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16}


def read_model(path: Path) -> Any:
    """The transformers model of a Hugging Face directory, in f32 and ready for inference.

    Raises ModelUnsupported if transformers cannot read it, or if weights are missing.
    """
    disable_progress_bar()
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers has separate errors for every part of a config
        log.debug("transformers cannot load a model", exc_info=error, extra={"action": "model.raised"})
        model = constructed(path)
        why = _mismatch(path, model) if "ignore_mismatched_sizes" in str(error) else ""
        raise ModelUnsupported(f"transformers cannot load {path} ({why or first_line(error)}).") from error
    if missing := sorted(report["missing_keys"]):
        raise lacking(path, str(len(missing)), missing[0])
    return model.eval()


def constructed(path: Path) -> Any:
    """The model that transformers constructs from config.json, without weights.

    Raises ModelUnsupported if it cannot, and names the setting with a word that transformers does not know.
    """
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
            return AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # transformers has separate errors for every part of a config
        words = str(error.args[0]).split() if isinstance(error, KeyError) and error.args else []
        settings = named_values(read_json(path / CONFIG))
        unknown = (f"it does not know {shown(value)} as {key}" for key, value in settings if value in words)
        why = next(unknown, first_line(error.__cause__ or error))
        raise ModelUnsupported(
            f"transformers cannot construct the model of {path / CONFIG} ({why})."
        ) from error


def _mismatch(path: Path, model: Any) -> str:
    """The first weight that does not have the shape that its config.json says; "" if there is none."""
    tensors = Safetensors(path)
    for name, wanted in model.state_dict().items():
        if name in tensors and (found := tensors.shape(name)) != tuple(wanted.shape):
            return (
                f"its weights {name} have the shape {list(found)}, and by config.json it is "
                f"{list(wanted.shape)}: correct id2label, or the size that differs"
            )
    return ""


class PaddedModel(torch.nn.Module):
    """Adapts any transformers classifier to the arguments of `PackedEncoder`, with one text per row.

    It gets what transformers' pipeline gives it: with `token_types`, these are the `positions`.
    """

    def __init__(self, model: Any, *, token_types: bool) -> None:
        super().__init__()
        self.model = model
        known = inspect.signature(model.forward).parameters
        self.token_types = token_types and "token_type_ids" in known
        self._masked = "attention_mask" in known
        self._options = {"use_cache": False} if "use_cache" in known else {}
        # BigBird attends fully to a short text, and from then on to every other.
        self._switched = [one for one in model.modules() if hasattr(one, "set_attention_type")][:1]
        for config in (model.config, model.config.get_text_config()):
            if hasattr(config, "use_cache"):
                config.use_cache = False  # not every class passes the argument on

    def forward(self, ids: Tensor, positions: Tensor, segments: Tensor, first: Tensor) -> Tensor:
        """Returns logits (R, labels). The model computes positions and first tokens itself."""
        config = self.model.config
        if self._switched and ids.shape[1] > (5 + 2 * config.num_random_blocks) * config.block_size:
            self._switched[0].set_attention_type(config.attention_type)
        given: dict[str, Any] = {"input_ids": ids, **self._options}
        if self._masked:
            given["attention_mask"] = (segments != FILLER).long()
        if self.token_types:
            given["token_type_ids"] = positions
        logits: Tensor = self.model(**given).logits
        return logits


class TorchRunner:
    """A torch model, on the first card that CUDA shows, otherwise on the processor."""

    def __init__(self, path: Path, manifest: Manifest, *, threads: int, arithmetic: Arithmetic) -> None:
        torch.set_num_threads(threads)
        self.device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        torch.backends.cudnn.allow_tf32 = False  # f32 means f32, as it does in products of matrices
        model = read_model(path)
        types = manifest.inputs.token_types is not None
        module = packed_encoder(model) if manifest.rows else PaddedModel(model, token_types=types)
        module = module.to("cuda" if self.device else "cpu", _DTYPES[arithmetic])
        self._passes = CardPasses(module, recorded=manifest.rows) if self.device else module

    @torch.inference_mode()
    def run(self, rows: Rows) -> Floats:
        logits: Floats = self._passes(*map(torch.from_numpy, rows.inputs)).float().cpu().numpy()
        return logits

    def close(self) -> None:
        del self._passes
