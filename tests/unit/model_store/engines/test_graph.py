"""The graph that is written without torch equals transformers, and refuses weights that do not fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from model_store import checkpoint as checkpoints
from model_store.checkpoint import read_checkpoint
from model_store.classifier import Layout
from model_store.engines.graph import ACTIVATIONS, packed_graph
from model_store.errors import ModelUnsupported
from model_store.inputs import Inputs
from model_store.rows import Floats, arrange
from model_store.tokens import Tokens
from model_store.weights import Safetensors
from tests.lazy import Lazy, inference_mode, load_file, save_file, torch, transformers
from tests.unit.model_store.checkpoints import copy, write_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

encoder: Any = Lazy("model_store.engines.encoder")
families: Any = Lazy("model_store.engines.families")
pytorch: Any = Lazy("model_store.engines.pytorch")
openvino: Any = Lazy("openvino")
# Several rows, of texts from the shortest to the limit of the test models.
LENGTHS = (1, 5, 17, 40, 100, 128, 3, 60)


def batch() -> list[Tokens]:
    random = Random(5)
    texts = [[random.randrange(2, 20_000) for _ in range(length)] for length in LENGTHS]
    texts[3][7:30:5] = [1] * 5  # padding of RoBERTa and MPNet, as the text "<pad>" has it
    texts[4][::9] = [0] * 12
    return [Tokens(ids, False, 0) for ids in texts]


def graph_logits(path: Path, texts: Sequence[Tokens]) -> Floats:
    checkpoint = read_checkpoint(path)
    graph = packed_graph(checkpoint, Safetensors(path))
    rows = arrange(texts, "packed", inputs=Inputs(checkpoint.unnumbered))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    logits: Floats = np.array(compiled(list(rows.inputs))[0])
    return logits[: len(texts)]


@inference_mode
def torch_logits(path: Path, texts: Sequence[Tokens], layout: Layout) -> Floats:
    rows = arrange(texts, layout, inputs=Inputs(read_checkpoint(path).unnumbered))
    logits: Floats = encoder.packed_encoder(pytorch.read_model(path))(
        *map(torch.from_numpy, rows.inputs)
    ).numpy()
    return logits[: len(texts)]


@inference_mode
def transformers_logits(path: Path, texts: Sequence[Tokens]) -> Floats:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    rows = [model(input_ids=torch.tensor([list(text.ids)])).logits for text in texts]
    logits: Floats = torch.cat(rows).numpy()
    return logits


@pytest.mark.parametrize(
    "architecture",
    ["DistilBert", "Bert", "Roberta", "XLMRoberta", "Electra", "Albert", "MPNet", "ModernBert", "DebertaV2"],
)
def test_every_packed_family_equals_torch_in_f32(architecture: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", architecture, labels=3)
    wanted = transformers_logits(path, batch())
    assert np.ptp(wanted, axis=0).min() > 0.1, "the test model must tell texts apart"
    for logits in (graph_logits(path, batch()), torch_logits(path, batch(), "packed")):
        assert np.abs(logits - wanted).max() < 1e-5, "batched"
    alone = torch_logits(path, batch()[3:4], "packed"), torch_logits(path, batch(), "padded")[3:4]
    assert max(np.abs(one - wanted[3:4]).max() for one in alone) < 1e-5, "alone in a row"


@pytest.mark.parametrize("architecture", ["Roberta", "MPNet"])
def test_positions_follow_the_padding_of_the_config_and_in_mpnet_that_of_its_code(
    architecture: str, tmp_path: Path
) -> None:
    path = write_checkpoint(tmp_path / "model", architecture, pad_token_id=0)
    wanted = transformers_logits(path, batch())
    for logits in (graph_logits(path, batch()), torch_logits(path, batch(), "packed")):
        assert np.abs(logits - wanted).max() < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"classifier_pooling": "mean"},
        {"norm_bias": True, "mlp_bias": True, "attention_bias": True, "classifier_bias": True},
        {"layer_types": ["sliding_attention", "full_attention"] * 2, "local_attention": 8},
        {"rope_parameters": {"sliding_attention": {"rope_theta": 100.0, "rope_type": "default"}}},
    ],
    ids=["mean", "biases", "layers", "theta"],
)
def test_modernbert_equals_torch_whatever_its_config(change: dict[str, Any], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "ModernBert", **change)
    assert np.abs(graph_logits(path, batch()) - transformers_logits(path, batch())).max() < 1e-5


def test_modernbert_reads_an_old_config(tmp_path: Path) -> None:
    """With the keys that checkpoints on the Hub have."""
    path = write_checkpoint(tmp_path / "model", "ModernBert")
    config = json.loads((path / "config.json").read_text("utf-8"))
    del config["layer_types"], config["rope_parameters"]
    old = {"global_attn_every_n_layers": 2, "global_rope_theta": 5000.0, "local_rope_theta": 200.0}
    (path / "config.json").write_text(json.dumps(config | old), "utf-8")
    assert np.abs(graph_logits(path, batch()) - transformers_logits(path, batch())).max() < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_activation": "silu"},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}},
    ],
)
def test_a_modernbert_of_another_kind_is_not_packed(change: dict[str, Any], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "ModernBert")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | change), "utf-8")
    assert not read_checkpoint(path).packable


@pytest.mark.parametrize(
    "change",
    [
        {"share_att_key": False},
        {"pos_att_type": "c2p"},
        {"pos_att_type": ["p2c"]},
        {"position_buckets": -1, "norm_rel_ebd": "none"},
        {"max_relative_positions": 40, "position_buckets": -1},
        {"position_biased_input": True, "type_vocab_size": 2, "embedding_size": 16},
        {"conv_kernel_size": 3, "conv_act": "gelu"},
        {"conv_kernel_size": 5},
    ],
    ids=["own", "c2p", "p2c", "distances", "near", "embeddings", "convolution", "wide"],
)
def test_deberta_equals_torch_whatever_its_config(change: dict[str, Any], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "DebertaV2", **change)
    assert read_checkpoint(path).packable
    wanted = transformers_logits(path, batch())
    for logits in (graph_logits(path, batch()), torch_logits(path, batch(), "packed")):
        assert np.abs(logits - wanted).max() < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"relative_attention": False},
        {"pos_att_type": []},
        {"pooler_hidden_act": "silu"},
        {"conv_kernel_size": 2},
        {"conv_kernel_size": 3, "conv_groups": 2},
        {"conv_kernel_size": 3, "num_hidden_layers": 1},
    ],
)
def test_a_deberta_of_another_kind_is_not_packed(change: dict[str, Any], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "DebertaV2")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | change), "utf-8")
    assert not read_checkpoint(path).packable


@pytest.mark.parametrize(("buckets", "farthest"), [(256, 512), (32, 130), (64, 1024)])
def test_logarithmic_buckets_are_those_of_transformers(buckets: int, farthest: int) -> None:
    about = families.read_disentangled({"position_buckets": buckets, "max_position_embeddings": farthest})
    deberta = transformers.models.deberta_v2.modeling_deberta_v2
    wanted = deberta.make_log_bucket_position(torch.arange(1 - farthest, farthest), buckets, farthest)
    assert np.array_equal(about.rows(farthest), np.clip(wanted.long().numpy() + buckets, 0, 2 * buckets - 1))


def test_buckets_of_distances_are_those_of_transformers() -> None:
    mpnet = transformers.models.mpnet.modeling_mpnet
    wanted = mpnet.MPNetEncoder.relative_position_bucket(torch.arange(1 - 600, 600))
    assert np.array_equal(families.relative_buckets(600), wanted.numpy())


@pytest.mark.parametrize("activation", sorted({*ACTIVATIONS} - {"gelu", "tanh"}))
def test_every_activation_equals_torch_in_f32(activation: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "model", "Bert", hidden_act=activation, layer_norm_eps=1e-5)
    assert np.abs(graph_logits(path, batch()) - transformers_logits(path, batch())).max() < 1e-5


def test_an_unknown_activation_is_not_packed(tmp_path: Path) -> None:
    assert {*checkpoints._ACTIVATIONS, "tanh"} == set(ACTIVATIONS)
    path = write_checkpoint(tmp_path / "model", "Bert", hidden_act="silu")
    assert not read_checkpoint(path).packable


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_and_old_names_are_read(checkpoint: Path, tmp_path: Path, dtype: str) -> None:
    path = copy(checkpoint, tmp_path / "model")
    tensors = {
        name: one.to(getattr(torch, dtype)) for name, one in load_file(path / "model.safetensors").items()
    }
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): one
        for name, one in tensors.items()
    }
    save_file(old, path / "model.safetensors", metadata={"format": "pt"})
    weights = Safetensors(path)
    assert weights.parameters == sum(one.numel() for one in tensors.values())
    for name, one in tensors.items():
        assert weights.shape(name) == tuple(one.shape)
        assert np.array_equal(weights[name], one.float().numpy())


def test_shards_are_read(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    wanted = graph_logits(path, batch())
    transformers.AutoModelForSequenceClassification.from_pretrained(path).save_pretrained(
        path, max_shard_size="2MB"
    )
    (path / "model.safetensors").unlink()
    assert len(list(path.glob("*.safetensors"))) > 1
    assert np.array_equal(graph_logits(path, batch()), wanted)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"vocab_size": 40_000}, "needs 40000 rows of distilbert.embeddings.word_embeddings.weight"),
        ({"max_position_embeddings": 512}, "needs 512 rows of .*position_embeddings.weight"),
        ({"id2label": dict(enumerate("abc"))}, "needs 3 rows of classifier.bias"),
        (
            {"id2label": {"0": "a"}, "problem_type": "multi_label_classification"},
            "needs 1 rows of classifier.bias",
        ),
        ({"n_heads": 3}, "has a width of 32, which 3 heads do not divide"),
        ({"n_layers": 3}, "lacks some of the model's weights, such as distilbert.transformer.layer.2"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    path = copy(checkpoint, tmp_path / "model")
    config = json.loads((path / "config.json").read_text("utf-8"))
    (path / "config.json").write_text(json.dumps(config | change), "utf-8")
    with pytest.raises(ModelUnsupported, match=sentence):
        packed_graph(read_checkpoint(path), Safetensors(path))


def test_weights_that_do_not_fit_each_other_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    tensors = load_file(path / "model.safetensors")
    tensors["classifier.weight"] = torch.zeros(2, 7)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match="do not fit its config"):
        packed_graph(read_checkpoint(path), Safetensors(path))


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 16, (2).to_bytes(8, "little") + b"[]", (8).to_bytes(8, "little") + b'{"a": 1}'],
)
def test_a_file_in_another_format_is_refused(checkpoint: Path, tmp_path: Path, content: bytes) -> None:
    path = copy(checkpoint, tmp_path / "model")
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelUnsupported, match="is not a safetensors file"):
        Safetensors(path)


def test_a_file_that_was_cut_off_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = copy(checkpoint, tmp_path / "model")
    content = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelUnsupported, match="the file is incomplete; copy it again"):
        packed_graph(read_checkpoint(path), Safetensors(path))
