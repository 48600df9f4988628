"""Gives emoji pieces of the vocabulary: one as a word, one as the end of a word ("great😍😍")."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

from default_model.corpus import Row
from model_store.checkpoint import with_settings
from model_store.convert import LABELS, write_json

BOOK: dict[str, dict[str, str]] = tomllib.loads(
    resources.files("default_model.domains").joinpath("emoji.toml").read_text("utf-8")
)
_SIDES = {0.0: tuple(BOOK["negative"]), 0.5: tuple(BOOK["neutral"]), 1.0: tuple(BOOK["positive"])}
_BEFORE = ("", "", "", "this ", "today ", "the food ", "my phone ", "us right now ", "monday ", "@user ")


def add_pieces(start: Path, out: Path) -> None:
    """Write the checkpoint `start` to `out` with the emoji it lacks. A vector is the mean of a few words'.

    `start` has the vocabulary of BERT. An encoder without a classifier gets the default's labels.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer

    content: dict[str, Any] = json.loads((start / "tokenizer.json").read_text("utf-8"))
    words = Tokenizer.from_file(str(start / "tokenizer.json"))
    weights = {name: tensor.float() for name, tensor in load_file(start / "model.safetensors").items()}
    name = next(name for name in weights if name.endswith("embeddings.word_embeddings.weight"))
    vocab: dict[str, int] = content["model"]["vocab"]
    vectors = [weights[name]]
    for emoji, meaning in (pair for side in BOOK.values() for pair in side.items()):
        if emoji in vocab:
            continue
        mean = weights[name][words.encode(meaning, add_special_tokens=False).ids].mean(dim=0)
        for piece in (emoji, f"##{emoji}"):
            vocab[piece] = len(vocab)
            vectors.append(mean[None])
    weights[name] = torch.cat(vectors)
    config = json.loads((start / "config.json").read_text("utf-8"))
    config["vocab_size"] = len(vocab)
    config.setdefault("id2label", dict(enumerate(LABELS)))
    config.setdefault("label2id", {label: number for number, label in enumerate(LABELS)})
    content["truncation"] = content["padding"] = None
    config = with_settings(config, temperature=None)
    config.pop("temperature", None)
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    write_json(out / "config.json", config)
    write_json(out / "tokenizer.json", content)
    (out / "tokenizer_config.json").write_bytes((start / "tokenizer_config.json").read_bytes())


def with_emoji(row: Row, rng: Random) -> Row:
    """The text with one to three emoji of its polarity at its end, sometimes without a space before them."""
    emoji = rng.choice(_SIDES[row.positive]) * rng.choice((1, 1, 1, 2, 3))
    return Row(f"{row.text}{rng.choice((' ', ' ', ''))}{emoji}", row.positive)


def alone(rng: Random) -> Row:
    """One to three emoji of one polarity, with at most a neutral word or two before them."""
    side = rng.choice((0.0, 0.0, 0.5, 1.0, 1.0))
    emoji = "".join(rng.choices(_SIDES[side], k=rng.choice((1, 1, 2, 3))))
    return Row(f"{rng.choice(_BEFORE)}{emoji}", side)
