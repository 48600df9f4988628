"""Writes the tokenizer.json of an artefact, which reads texts as transformers reads them, and checks it.

What a tokenizer does stands in several files: transformers applies settings of tokenizer_config.json to what
tokenizer.json says. So it is transformers that reads a checkpoint's files, and its tokenizer that is written.
One that does not belong to the model, which would make every prediction wrong, is refused.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from model_store.artefact import TOKENIZER
from model_store.calibration_texts import CALIBRATION_TEXTS
from model_store.checkpoint import TOKENIZER_CONFIG, VOCABULARIES, Checkpoint, read_json
from model_store.errors import ModelUnsupported, first_line, shown, wrong_value
from model_store.inputs import TokenTypes
from model_store.phases import phase
from model_store.rows import Tokenizer
from model_store.tokens import common_start

log = logging.getLogger(__name__)

# What tokenizers disagree about, beside the calibration texts.
_AWKWARD = (
    "", " ", "  two  spaces ", "A", "ÉCOLE élève naïve", "don't  STOP\r\n\tnow", "日本語とEnglish",
    "e\u0301\u200b\u00ad", "👩‍👩‍👧 ok", "Ǆ ﬁne ½", "\x00\x1f", "a" * 150,
)  # fmt: skip
# A model often has a few more embeddings than its tokenizer has pieces, but never twice as many.
MIN_SHARE = 0.5
# A tokenizer whose share of unknown pieces is above this in each of the languages below knows none of them.
MAX_UNKNOWN = 0.5

_LANGUAGES = (
    "The food was very good, but the waiter forgot our drinks.",
    "Еда была очень вкусной, но официант забыл напитки.",
    "Το φαγητό ήταν πολύ καλό, αλλά ο σερβιτόρος ξέχασε τα ποτά.",
    "كان الطعام جيدا جدا لكن النادل نسي المشروبات",
    "האוכל היה טוב מאוד אבל המלצר שכח את המשקאות",
    "खाना बहुत अच्छा था लेकिन वेटर पेय भूल गया",
    "อาหารอร่อยมากแต่พนักงานลืมเครื่องดื่ม",
    "饭菜很好吃，但是服务员忘了我们的饮料。",
    "料理はとてもおいしかったが、飲み物を忘れられた。",
    "음식은 아주 맛있었지만 종업원이 음료를 잊었어요.",
)


def copy_tokenizer(checkpoint: Checkpoint, out: Path) -> None:
    """Write tokenizer.json to the directory `out` as it is, with the truncation of tokenizer_config.json.

    For a sealed checkpoint, of which `require_same` has found that transformers does nothing else.
    """
    config = checkpoint.path / TOKENIZER_CONFIG
    side = read_json(config).get("truncation_side") if config.is_file() else None
    if side is None:
        shutil.copyfile(checkpoint.path / TOKENIZER, out / TOKENIZER)
        return
    if side not in ("left", "right"):
        raise wrong_value(config, "truncation_side", side, "be left or right")
    rust = RustTokenizer.from_file(str(checkpoint.path / TOKENIZER))
    rust.enable_truncation(checkpoint.max_tokens, direction=side)
    rust.save(str(out / TOKENIZER))


def write_tokenizer(checkpoint: Checkpoint, out: Path) -> TokenTypes | None:
    """Write tokenizer.json to the directory `out`, and return the token types that it gives, if it does.

    Raises ModelUnsupported if transformers cannot read the tokenizer, or if the file reads texts otherwise.
    """
    tokenizer = read_tokenizer(checkpoint)
    rust = tokenizer.backend_tokenizer
    rust.no_padding()
    rust.enable_truncation(checkpoint.max_tokens, direction=tokenizer.truncation_side)
    content = json.loads(rust.to_str())
    content["added_tokens"] = list(_without_invented(content["added_tokens"], checkpoint))
    (out / TOKENIZER).write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    require_same(checkpoint, tokenizer, out / TOKENIZER)
    return read_token_types(tokenizer)


def _without_invented(added: list[dict[str, Any]], checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
    """The added tokens without those that only transformers has, beyond the ids of the model.

    It adds the special tokens of a class to every tokenizer, such as "<unk>NOTUSED" of CamemBERT. A text with
    the name of one would end in an error.
    """
    own: set[str] = set()
    for file in checkpoint.tokenizer_files():
        if file.suffix == ".json":
            own.update(_strings(read_json(file)))
    for token in added:
        if checkpoint.vocabulary is None or token["id"] < checkpoint.vocabulary or token["content"] in own:
            yield token


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for one in value.values():
            yield from _strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)


def require_same(checkpoint: Checkpoint, tokenizer: Any, file: Path) -> None:
    """Raises ModelUnsupported, which names the text, if `tokenizer` of transformers and `file` differ on one.

    Compares short and long texts, some that contain the name of each special token, and one that is too long.
    """
    rust = RustTokenizer.from_file(str(file))
    _require_fixed(rust)
    named = [token.content for token in rust.get_added_tokens_decoder().values()]
    texts = [*_AWKWARD, *CALIBRATION_TEXTS, *(f"a {name} b{name}" for name in named)]
    texts += ["first half " * checkpoint.max_tokens + "second half " * checkpoint.max_tokens]
    ours = Tokenizer(file, checkpoint.max_tokens)(texts)
    theirs = tokenizer(texts, truncation=True, max_length=checkpoint.max_tokens)["input_ids"]
    for text, one, other in zip(texts, ours, theirs, strict=True):
        if list(one.ids) != list(other):
            raise ModelUnsupported(
                f"{checkpoint.path}: transformers reads {shown(text)} as {shown(list(other))}, because of "
                f"{TOKENIZER_CONFIG} or its {type(tokenizer).__name__}, and {file.name} as "
                f"{shown(list(one.ids))}; save the tokenizer again with transformers' save_pretrained."
            )


def _require_fixed(rust: RustTokenizer) -> None:
    """Raises ModelUnsupported if the tokens of a text change from one call to the next."""
    if dropout := getattr(rust.model, "dropout", None):
        raise ModelUnsupported(
            f"{TOKENIZER} has a dropout of {dropout:.3g}, which leaves out merges of BPE at random, so that "
            "a text has other tokens each time: set model.dropout in it to null."
        )


def read_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer that transformers makes of a checkpoint's files. Raises ModelUnsupported."""
    import_reference()
    from transformers import AutoTokenizer

    from model_store.engines.pytorch import constructed

    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                checkpoint.path, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # transformers has separate errors for every kind of tokenizer
            log.debug(
                "transformers cannot read a tokenizer", exc_info=error, extra={"action": "model.raised"}
            )
            constructed(checkpoint.path)  # a config.json that is wrong fails here, too
            why = first_line(error)
            if any(path.suffix == ".model" for path in checkpoint.tokenizer_files()) and not (
                find_spec("sentencepiece") and find_spec("google.protobuf")
            ):
                why = "the packages for this are not installed: pip install sentencepiece protobuf"
            raise ModelUnsupported(
                f"transformers cannot read the tokenizer of {checkpoint.path} from {_found(checkpoint)} "
                f"({why})."
            ) from error
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ModelUnsupported(
            f"{checkpoint.path} has {_found(checkpoint)}, which transformers reads with "
            f"{type(tokenizer).__name__} in Python: only a tokenizer that it writes as {TOKENIZER} is served."
        )
    return tokenizer


def import_reference() -> None:
    """Import torch and what a build needs of transformers, before anything else imports a part of them."""
    phase("importing torch and transformers")
    # Waiting threads of OpenMP would spin, which takes processor time from the others on a busy machine. It
    # is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Importing takes a fifth less time without collections, each of which looks at all of torch.
    enabled = gc.isenabled()
    gc.disable()
    import transformers.utils

    has_scipy = transformers.utils.is_scipy_available
    transformers.utils.is_scipy_available = lambda: False  # for losses of detectors of objects: half a second
    try:
        import_module("model_store.engines.reference")
        if not gc.get_freeze_count():  # a process that has started may drop what it has now
            gc.freeze()
    finally:
        transformers.utils.is_scipy_available = has_scipy
        if enabled:
            gc.enable()


def _found(checkpoint: Checkpoint) -> str:
    names = [path.name for path in checkpoint.tokenizer_files()]
    return ", ".join(names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within, transformers' warnings about a tokenizer go to the log at debug: what matters is raised."""
    library = logging.getLogger("transformers")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)


def read_token_types(tokenizer: Any) -> TokenTypes | None:
    """The types of the special tokens before and after a text, and of those between them."""
    empty, text = tokenizer(""), tokenizer(CALIBRATION_TEXTS[2])
    if "token_type_ids" not in text:
        return None
    ids, types = text["input_ids"], text["token_type_ids"]
    special = empty["input_ids"]
    before = common_start(ids, special)
    after = len(ids) - (len(special) - before)
    own = set(types[before:after])
    if len(own) != 1:
        raise ModelUnsupported(f"The tokenizer gives the tokens of one text several types: {shown(types)}.")
    return TokenTypes(tuple(types[:before]), own.pop(), tuple(types[after:]))


def require_vocabulary(path: Path) -> None:
    """Raises ModelUnsupported if the checkpoint at `path` has no file with a vocabulary.

    transformers would invent a vocabulary of five pieces.
    """
    if not any((path / name).is_file() for name in VOCABULARIES):
        first, *others = VOCABULARIES
        raise ModelUnsupported(
            f"{path} has no tokenizer: put its {first} (or {', '.join(others)}) next to config.json."
        )


def check_tokenizer(path: Path, rows: int | None, max_tokens: int) -> None:
    """Raises ModelUnsupported if tokenizer.json at `path` does not fit a model with `rows` embeddings."""
    rust = _opened(path)
    _require_fixed(rust)
    known = rust.get_vocab(with_added_tokens=False)
    if rows is not None and len(known) < MIN_SHARE * rows:
        raise _unrelated(f"knows {len(known)} pieces and the model {rows}")
    # With the added ones, which a text that contains their names gets.
    name, highest = max(rust.get_vocab().items(), key=itemgetter(1), default=("", -1))
    if rows is not None and highest >= rows:
        raise _unrelated(f"gives ids up to {highest} ({name!r}) and the model knows ids below {rows}")
    tokenize = Tokenizer(path, max_tokens)
    (empty, *texts) = tokenize(["", *_LANGUAGES])
    if len(empty) >= max_tokens:
        raise ModelUnsupported(
            f"The model can read {max_tokens} tokens, and the tokenizer adds {len(empty)} to every text, so "
            "that none is left for its words: correct model_max_length in tokenizer_config.json."
        )
    if rows is not None and (most := max(max(text.ids, default=0) for text in texts)) >= rows:
        raise _unrelated(f"adds the id {most} to texts and the model knows ids below {rows}")
    shares = [text.unknown / max(len(text) - len(empty), 1) for text in texts]
    if min(shares) > MAX_UNKNOWN:
        raise ModelUnsupported(
            f"The tokenizer knows hardly any word: at least {min(shares):.0%} of the pieces of a sentence "
            "are unknown in each of ten languages; use the tokenizer that the model was trained with."
        )


def _unrelated(found: str) -> ModelUnsupported:
    return ModelUnsupported(
        f"The tokenizer {found}: they do not belong together; "
        "use the tokenizer that the model was trained with."
    )


def _opened(path: Path) -> RustTokenizer:
    try:
        return RustTokenizer.from_file(str(path))
    except Exception as error:  # the library has no separate class for them
        raise ModelUnsupported(
            f"The model's {path.name} cannot be read: {error}; copy it again from where the model is from."
        ) from error
