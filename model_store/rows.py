"""Tokenizes texts, lays them out in rows, runs an engine on these, and turns its logits into scores.

Packed: texts lie end to end, in the number of rows that computes fastest. Longer rows waste more attention
between texts that do not see each other; more rows waste more room at their ends. Padded: one text per row.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass, replace
from functools import lru_cache
from itertools import compress, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.normalizers import BertNormalizer

from model_store.classifier import Layout, ModelInfo
from model_store.errors import NotComputed
from model_store.inputs import PLAIN, Inputs, Sharing
from model_store.tokens import Tokens, in_groups
from model_store.windows import Windows, classify_long

if TYPE_CHECKING:
    from model_store.artefact import Manifest
    from model_store.probes import Probes

# What the environment says, which is stronger than what suits an engine.
_PARALLELISM = os.environ.get("TOKENIZERS_PARALLELISM")
# Row lengths are rounded up to this, because an engine compiles once for each shape.
STEP = 16
# The number of texts is rounded up to this for the same reason.
_TEXT_STEP = 8
# The share of a batch that texts fill, because lengths rarely add up exactly.
FILL = 0.975
# Batch sizes that are multiples of this waste the least room at the ends of rows.
ROW = 128
# In a row of this length, attention costs about as much as the rest of an encoder.
_ATTENTION_TOKENS = 1500
# In shorter rows, the room wasted at their ends costs more than the attention saved.
_MIN_ROW = 112
# Two of so many of the shortest probes show whether an engine has run. No limit of a proof is wider.
_CANARIES = 16
_NEAR_ANSWER = 0.1
# The segment of tokens that belong to no text, so that no text attends to them.
FILLER = -1
# A character of no script: only a tokenizer that reads bytes has pieces for it.
_IN_NO_VOCABULARY = "\U0010fffe"
Integers = NDArray[np.int32]
Floats = NDArray[np.float32]


class Tokenizer:
    """The tokenizer of one model, truncating at its limit, on the side that its file names. Thread-safe."""

    def __init__(self, path: Path, max_tokens: int, *, threads: bool = False) -> None:
        # A text takes only 25 us, so threads of the tokenizer would merely compete with those of an engine on
        # the processor.
        os.environ["TOKENIZERS_PARALLELISM"] = _PARALLELISM or str(threads).lower()
        self._rust = RustTokenizer.from_file(str(path))
        self._plain = _for_plain_texts(self._rust)
        for rust in filter(None, (self._rust, self._plain)):
            rust.no_padding()
        self._side = truncation_side(self._rust)
        self.limit(max_tokens)
        self._lowercase = bool(getattr(self._rust.normalizer, "lowercase", False))
        self._windows: Windows | None = None
        self._unknown = _unknown_id(self._rust)
        # Pieces that say nothing of a text: special tokens, and the space before a word.
        self._empty = {*_special(self._rust), self._rust.token_to_id("\u2581")} - {self._unknown}

    def limit(self, max_tokens: int) -> None:
        """Truncate at so many tokens from now on."""
        self._max_tokens = max_tokens
        for rust in filter(None, (self._rust, self._plain)):
            rust.enable_truncation(max_tokens, direction=self._side)

    def read_in(self, windows: Windows) -> None:
        """Return texts of more than `windows.tokens` tokens in windows from now on."""
        self._windows, self._max_tokens = windows, windows.tokens
        for rust in filter(None, (self._rust, self._plain)):
            rust.enable_truncation(windows.tokens, stride=windows.overlap)

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Ids of each text, including special tokens, at most `max_tokens`. Releases the GIL."""
        result = []
        for encoding in self._encode(list(texts)):
            ids = encoding.ids
            if len(ids) == self._max_tokens and (rest := encoding.overflowing):
                result.append(self._long(encoding, rest))
            else:
                result.append(self._read(ids))
        return result

    def _long(self, first: Encoding, rest: list[Encoding]) -> Tokens:
        """A text of which only the `first` part fits into the limit, or into a window."""
        if self._windows is None:
            return self._read(first.ids, sum(map(_own, rest)))
        parts = [first, *rest]
        ends = self._windows.join == "first_last"
        chosen = [first, rest[-1]] if ends else parts[: self._windows.most]
        # A part shares tokens with the one before: those that are left out also with the next one. The first
        # and the last one may share some, too.
        shared = len(parts) - 1 if ends and len(rest) > 1 else len(parts) - len(chosen)
        left_out = sum(map(_own, parts)) - sum(map(_own, chosen)) - shared * self._windows.overlap
        windows = tuple(replace(self._read(part.ids), part=True) for part in chosen)
        whole = self._read([piece for window in windows for piece in window.ids], max(left_out, 0))
        return replace(whole, windows=windows)

    def _read(self, ids: list[int], truncated: int = 0) -> Tokens:
        unknown = 0 if self._unknown is None else ids.count(self._unknown)
        foreign = unknown > 0 and 2 * unknown > sum(piece not in self._empty for piece in ids)
        return Tokens(ids, truncated, unknown, foreign=foreign)

    def _encode(self, texts: list[str]) -> list[Encoding]:
        if self._plain is None:
            return self._rust.encode_batch_fast(texts)
        plain = [is_plain(text) for text in texts]
        simple = [text.lower() if self._lowercase else text for text in compress(texts, plain)]
        encoded = iter(self._plain.encode_batch_fast(simple))
        others = iter(self._rust.encode_batch_fast(list(compress(texts, (not one for one in plain)))))
        return [next(encoded if one else others) for one in plain]


def truncation_side(rust: RustTokenizer) -> str:
    """Where a text that is too long loses tokens: "left" or "right"."""
    return str((rust.truncation or {}).get("direction", "right")).lower()


def special_ids(path: Path) -> list[int]:
    """The ids of a tokenizer.json that a text gets by naming a special token, such as "[SEP]"."""
    return sorted(_special(RustTokenizer.from_file(str(path))))


def _special(tokenizer: RustTokenizer) -> list[int]:
    return [number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special]


def _own(part: Encoding) -> int:
    """The number of tokens of a part, without special tokens."""
    own: int = part.special_tokens_mask.count(0)
    return own


def is_plain(text: str) -> bool:
    """Whether a BERT normaliser would only lower-case the text, and the text contains no special token."""
    return text.isascii() and text.isprintable() and "[" not in text


def _for_plain_texts(full: RustTokenizer) -> RustTokenizer | None:
    """A tokenizer without the normaliser, which takes half the time; None for other kinds of normalisers."""
    named = [token.content for token in full.get_added_tokens_decoder().values()]
    if not isinstance(full.normalizer, BertNormalizer) or any("[" not in name for name in named):
        return None
    plain = RustTokenizer(full.model)
    plain.pre_tokenizer = full.pre_tokenizer
    plain.post_processor = full.post_processor
    return plain


def _unknown_id(tokenizer: RustTokenizer) -> int | None:
    """The id of what the vocabulary does not have; None if every text is made of pieces that it has."""
    try:
        pieces = tokenizer.model.tokenize(_IN_NO_VOCABULARY)
    except Exception:  # a vocabulary without such a piece raises just this
        return None
    return int(pieces[0].id) if len(pieces) == 1 else None


@dataclass(frozen=True, slots=True)
class Rows:
    """One forward pass: `ids`, `positions`, `segments` of shape (R, T), `first` of shape (at least texts,).

    `positions` restart with each text, `segments` number the texts of the batch, and `first` holds the
    flat indices of their first tokens, padded with zeros. A model that numbers its positions itself gets the
    types of its tokens as `positions`, if it needs them.
    """

    ids: Integers
    positions: Integers
    segments: Integers
    first: Integers

    @property
    def inputs(self) -> tuple[Integers, Integers, Integers, Integers]:
        """The inputs of a model, in order."""
        return self.ids, self.positions, self.segments, self.first


class Runner(Protocol):
    """A model on an engine, which maps arrays to logits. `device` names its card; it is empty without one."""

    @property
    def device(self) -> str: ...

    def run(self, rows: Rows) -> Floats:
        """Returns logits of shape (at least the number of texts, labels)."""

    def close(self) -> None:
        """Free what the engine holds."""


def shared(lengths: Sequence[int], sharing: Sharing) -> list[list[int]]:
    """Divides a batch with texts of these lengths into those that share a forward pass, as indices."""
    indices = range(len(lengths))
    if sharing == "any":
        return [list(indices)]
    if sharing == "none":
        return [[index] for index in indices]
    order = sorted(indices, key=lengths.__getitem__)
    return [list(same) for _, same in groupby(order, key=lengths.__getitem__)]


def arrange(
    batch: Sequence[Tokens], layout: Layout, *, most: int = sys.maxsize, inputs: Inputs = PLAIN
) -> Rows:
    """The arrays for `batch`, which has at least one text. Results come in the order of the batch.

    A padded row has at most `most` tokens, since models number the places after a text, too. It has no
    padding if `inputs` does not allow any.
    """
    lay = plan([len(text.ids) for text in batch], layout)
    length = lay.length
    if layout == "padded":
        length = min(length, most if inputs.sharing == "any" else max(len(text.ids) for text in batch))
    shape = (len(lay.rows), length)
    ids, positions = np.full(shape, inputs.filler, np.int32), np.zeros(shape, np.int32)
    segments = np.full(shape, FILLER, np.int32)
    first = np.zeros(round_up(len(batch), _TEXT_STEP), np.int32)
    for number, row in enumerate(lay.rows):
        start = 0
        for text in row:
            end = start + len(batch[text].ids)
            ids[number, start:end] = batch[text].ids
            positions[number, start:end] = _positions(ids[number, start:end], inputs)
            segments[number, start:end] = text
            first[text] = number * shape[1] + start
            start = end
    return Rows(ids, positions, segments, first)


def _positions(ids: Integers, inputs: Inputs) -> Integers:
    if inputs.token_types is not None:
        return np.array(inputs.token_types.of(len(ids)), np.int32)
    if inputs.unnumbered is None:
        return np.arange(len(ids), dtype=np.int32)
    counted: Integers = (ids != inputs.unnumbered).astype(np.int32)
    return np.cumsum(counted, dtype=np.int32) * counted


def softmax(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities of shape (texts, labels) from logits of the same shape."""
    scaled = logits / temperature
    exponents = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def sigmoid(logits: NDArray[np.float64], temperature: float = 1.0) -> NDArray[np.float64]:
    """The probability of each label on its own, of the shape of `logits`."""
    return np.asarray(1.0 / (1.0 + np.exp(-logits / temperature)))


def scores(logits: Floats, *, temperature: float, multi_label: bool) -> list[list[float]]:
    """Softmax over the labels, or a sigmoid for each, of logits (N, labels) divided by `temperature`."""
    result = (sigmoid if multi_label else softmax)(logits.astype(np.float64), temperature)
    as_lists: list[list[float]] = result.tolist()
    return as_lists


@dataclass(frozen=True, slots=True)
class Plan:
    """The texts of each row, as indices into the planned lengths, and the length of all rows in tokens."""

    rows: tuple[tuple[int, ...], ...]
    length: int

    @property
    def computed_tokens(self) -> int:
        """Tokens that an engine computes for this batch, including padding."""
        return len(self.rows) * self.length

    @property
    def _cost(self) -> float:
        return self.computed_tokens * (1 + self.length / _ATTENTION_TOKENS)


def plan(lengths: Sequence[int], layout: Layout) -> Plan:
    """Plans the layout of a batch with texts of these lengths (at least one)."""
    return _plan(tuple(lengths), layout)


# Cached because the worker computes the cost of a batch, and the engine then plans the same batch.
@lru_cache(maxsize=4)
def _plan(lengths: tuple[int, ...], layout: Layout) -> Plan:
    if layout == "padded":
        return Plan(tuple((index,) for index in range(len(lengths))), round_up(max(lengths), STEP))
    return min(_packed_plans(lengths), key=lambda one: one._cost)


def computed_tokens(lengths: Sequence[int], layout: Layout) -> int:
    """Tokens that an engine computes for these lengths, including padding; 0 without texts."""
    return plan(lengths, layout).computed_tokens if lengths else 0


def share_out(lengths: Sequence[int], layout: Layout, batch_tokens: int = 512) -> list[list[int]]:
    """Divides texts of these lengths into batches of about `batch_tokens` tokens at most; returns indices.

    Meant for offline work: padded texts are first sorted by length, packed ones keep their order.
    """
    if layout == "packed":
        return in_groups(lengths, int(batch_tokens * FILL))
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[index] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    return batches


def round_up(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step


def _packed_plans(lengths: Sequence[int]) -> Iterator[Plan]:
    """Plans for a few reasonable numbers of rows, each with the shortest rows that hold all texts."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    total, longest = sum(lengths), lengths[order[0]]
    most = max(1, total // max(_MIN_ROW, longest))
    for count in {most, max(most - 1, 1), -(-most // 2)}:
        length = round_up(max(longest, -(-total // count)), STEP)
        while (rows := _fitted(order, lengths, count, length)) is None:
            length += STEP
        yield Plan(rows, length)


def _fitted(
    order: Sequence[int], lengths: Sequence[int], count: int, length: int
) -> tuple[tuple[int, ...], ...] | None:
    """Best-fit packing into at most `count` rows, longest text first; None if the texts do not fit."""
    rows: list[list[int]] = [[] for _ in range(count)]
    free = [(length, row) for row in range(count)]  # sorted
    for index in order:
        at = bisect_left(free, (lengths[index], -1))
        if at == count:
            return None
        room, row = free.pop(at)
        rows[row].append(index)
        insort(free, (room - lengths[index], row))
    return tuple(tuple(sorted(row)) for row in rows if row)


@dataclass(eq=False)
class RowClassifier:
    """A classifier that runs `runner` on the rows of a batch, and divides logits by `temperature`."""

    info: ModelInfo
    _tokenizer: Tokenizer
    _runner: Runner | None
    probes: Probes
    manifest: InitVar[Manifest]

    def __post_init__(self, manifest: Manifest) -> None:
        """`text_windows` is what the model's config asks for: see `read_in`."""
        self.text_windows = manifest.text_windows
        self._temperature, self._inputs = manifest.temperature, manifest.inputs
        self._longest_row = self.info.max_tokens
        # The last batch and its logits.
        self._last: tuple[Sequence[Tokens], Floats] = (), np.empty((0, len(self.info.labels)), np.float32)

    def limit(self, max_tokens: int) -> None:
        """Read at most so many tokens of a text from now on, if the model could read more."""
        if max_tokens < self.info.max_tokens:
            self.info = self.info.under(f"at most {max_tokens} tokens", max_tokens=max_tokens)
            self._tokenizer.limit(max_tokens)

    def read_in(self, windows: Windows, *, evaluated: bool = False) -> None:
        """Read long texts in windows from now on. Drift is measured only if the model was `evaluated` so."""
        reference = self.info.reference if evaluated else None
        self.info = self.info.under(f"windows {windows}", windows=windows, reference=reference)
        self._tokenizer.read_in(windows)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of each text, in windows or truncated to `info.max_tokens`. Releases the GIL.

        A text without any is one token of padding, as in a batch of transformers.
        """
        nothing = Tokens((self._inputs.filler,), truncated=0, unknown=0)
        return [tokens if tokens.ids else nothing for tokens in self._tokenizer(texts)]

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """Scores of shape (len(batch), len(info.labels)), in order. Raises ValueError after `close`."""
        if self._runner is None:
            raise ValueError("the classifier is closed")
        if not batch:
            return []
        windows, multi_label = self.info.windows, self.info.multi_label
        if windows is not None and any(text.windows for text in batch):
            return classify_long(batch, windows, self.classify, multi_label=multi_label)
        logits = self._logits(batch)
        if windows is not None and any(text.part for text in batch):
            logits = logits / np.array([[windows.temperature if text.part else 1.0] for text in batch])
        return scores(logits, temperature=self._temperature, multi_label=multi_label)

    def _logits(self, batch: Sequence[Tokens]) -> Floats:
        """Finite logits (texts, labels). Raises NotComputed if the engine has returned something else."""
        output = self._output(batch)
        texts, known = self._last
        most = min(len(output), len(known))
        if most and np.array_equal(output[:most], known[:most]) and list(batch) != list(texts):
            self._require_computed(batch, output)
        self._last = batch, output
        return output[: len(batch)]

    def _require_computed(self, batch: Sequence[Tokens], output: Floats) -> None:
        """Raises NotComputed if the engine has returned a copy of its last output, and not this one.

        Different texts seldom have the same logits to the last bit; then the batch runs again, with two short
        probes after it whose answers differ most.
        """
        tokens, answers = self.probes.tokens[:_CANARIES], self.probes.answers[:_CANARIES]
        distances = np.abs(answers[:, None] - answers[None]).max(axis=-1)
        first, second = divmod(int(distances.argmax()), len(tokens))
        again = self._output([*batch, tokens[first], tokens[second]])
        rows = np.concatenate([output[: len(batch)], again[: len(batch) + 2]])
        found = np.array(scores(rows, temperature=self._temperature, multi_label=self.info.multi_label))
        given, right, known = np.split(found, [len(batch), 2 * len(batch)])
        near = min(_NEAR_ANSWER, distances.max() / 2)
        wrong = np.abs(known - answers[[first, second]]).max() > near
        if wrong or np.abs(given - right).max() > self.info.tolerance:
            raise NotComputed("the engine returned its last output instead of the scores of a batch")

    def _output(self, batch: Sequence[Tokens]) -> Floats:
        """What the engine returns: a row for each text, all finite, and perhaps others after these."""
        groups = shared([len(text.ids) for text in batch], self._inputs.sharing)
        if len(groups) == 1:
            return self._computed(batch)
        output = np.empty((len(batch), len(self.info.labels)), np.float32)
        for group in groups:
            output[group] = self._computed([batch[index] for index in group])[: len(group)]
        return output

    def _computed(self, batch: Sequence[Tokens]) -> Floats:
        """What one forward pass returns."""
        assert self._runner is not None
        info = self.info
        rows = arrange(batch, info.layout, most=self._longest_row, inputs=self._inputs)
        output = self._runner.run(rows)
        copied = output.copy()
        output.fill(np.nan)  # an engine that returns the same array again has not computed it
        logits = copied[: len(batch)]
        if logits.shape != (len(batch), len(info.labels)) or not np.isfinite(logits).all():
            raise NotComputed(f"the engine did not compute finite scores for each of {len(batch)} texts")
        return copied

    def close(self) -> None:
        """Free what the engine holds. Idempotent."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None
