"""Small tokenizers of the kinds that families have, trained on the calibration texts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from model_store.calibration_texts import CALIBRATION_TEXTS

VOCABULARY = 600


@dataclass(frozen=True)
class Kind:
    """Special tokens in the order of their ids, by the names that a config has for them, and a template."""

    special: dict[str, str]
    template: str
    word_pieces: bool = False

    def ids(self) -> dict[str, int]:
        """The ids under the names of a config, such as pad_token_id."""
        order = list(dict.fromkeys(self.special.values()))
        return {f"{name}_token_id": order.index(token) for name, token in self.special.items()}


_ROBERTA = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
KINDS = {
    "wordpiece": Kind(
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
        "[CLS] $A [SEP]",
        True,
    ),
    "bpe": Kind(_ROBERTA | {"cls": "<s>", "sep": "</s>"}, "<s> $A </s>"),
    "eos": Kind({"pad": "<pad>", "eos": "</s>", "unk": "<unk>", "extra": "<extra_id_0>"}, "$A </s>"),
    "plain": Kind({"eos": "<|end|>", "bos": "<|end|>", "pad": "<|pad|>"}, "$A"),
    "without_pad": Kind({"eos": "<|end|>", "bos": "<|end|>"}, "$A"),
    "xlnet": Kind(
        {"unk": "<unk>", "bos": "<s>", "eos": "</s>", "cls": "<cls>", "sep": "<sep>", "pad": "<pad>"},
        "$A <sep> <cls>:2",
    ),
}


def write_tokenizer(path: Path, kind: str, most: int | None = None) -> Kind:
    """Write tokenizer.json and tokenizer_config.json of a KIND to the directory `path`.

    `most` is the model_max_length, if there is one.
    """
    about = KINDS[kind]
    special = list(dict.fromkeys(about.special.values()))
    if about.word_pieces:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(
            vocab_size=VOCABULARY, special_tokens=special, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    tokenizer.train_from_iterator(CALIBRATION_TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if about.template != "$A":
        named = [token for token in special if token in about.template]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=about.template, special_tokens=[(token, tokenizer.token_to_id(token)) for token in named]
        )
    tokenizer.save(str(path / "tokenizer.json"))
    config = {f"{name}_token": token for name, token in about.special.items() if name != "extra"}
    if most is not None:
        config["model_max_length"] = most
    if kind == "xlnet":
        config |= {
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "padding_side": "left",
        }
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return about
