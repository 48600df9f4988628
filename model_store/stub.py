"""A classifier without a model: deterministic scores, configurable cost, faults on demand.

For tests of the service when a model misbehaves, it recognises special texts: "\\0raise" raises ValueError,
"\\0kill" ends the process with SIGKILL, "\\0hang" sleeps for an hour, and "\\0gil:SECONDS" holds the
interpreter lock for that long. They take effect in `classify`, not in `tokenize`. Standard library only.

A variant `signed` or `signed-NAME` signs its answers: each score depends on the revision, the label and the
text, and the labels and their order on the variant. Whatever an answer says can then be checked without
knowing how it came about.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

from model_store.classifier import ModelInfo
from model_store.tokens import Tokens
from model_store.windows import Windows, classify_long

MAX_TOKENS = 512
LABELS = ("NEGATIVE", "POSITIVE")
# Signed variants have some of these labels. At least one of any three is a category of moderation.
SIGNED_LABELS = ("harassment", "hate", "illicit", "ok", "other", "self-harm", "sexual", "violence")
_FEWEST_LABELS = 3
# Signed scores are a whole number of these, so that they sum to one and no route rounds them.
_SIGNED_STEPS = 1_000_000

_PIECE = re.compile(r"\S{1,6}")
_END = 2
_FIRST_PIECE_ID = 4
_PIECE_IDS = 30_000

# Fault ids are negative, because the digest of a text never is.
_RAISE, _KILL, _HANG, _GIL = -1, -2, -3, -4
_FAULT_IDS = {"raise": _RAISE, "kill": _KILL, "hang": _HANG, "gil": _GIL}
_FAULT = re.compile(r"\0(?P<name>raise|kill|hang|gil(?=:))(?::(?P<seconds>[0-9.]+))?")
_HANG_S = 3600


class StubClassifier:
    """Derives scores from a digest of the words. Sleeps `batch_ms` per call and `token_ms` per token.

    `variant` changes only the revision, for tests of a deployment, unless it is a signed one.
    """

    def __init__(self, *, batch_ms: float = 0.0, token_ms: float = 0.0, variant: str = "") -> None:
        self.text_windows = ""
        self._batch_s = batch_ms / 1000
        self._token_s = token_ms / 1000
        self._signed = variant.partition("-")[0] == "signed"
        kind = "signed stub" if self._signed else "stub"
        revision = hashlib.sha256(f"millrace {kind} 1{variant}".encode()).hexdigest()
        self.info = ModelInfo(
            name="stub",
            revision=revision,
            labels=_signed_labels(revision) if self._signed else LABELS,
            max_tokens=MAX_TOKENS,
            multi_label=False,
            engine="stub",
            precision="f32",
            layout="packed",
            parameters=0,
            tolerance=0.0,
            identity=revision,
            examples=() if self._signed else ("I hate you.", "I love you."),
        )

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Splits words into pieces of up to six characters. The first id is a digest of all pieces."""
        return [_fault(text) or _tokens(text, self.info.max_tokens, self.info.windows) for text in texts]

    def limit(self, max_tokens: int) -> None:
        """As a classifier with a model."""
        if max_tokens < self.info.max_tokens:
            self.info = self.info.under(f"at most {max_tokens} tokens", max_tokens=max_tokens)

    def read_in(self, windows: Windows, *, evaluated: bool = False) -> None:
        """As a classifier with a model, but `first_last` has all windows, and there is no temperature."""
        self.info = self.info.under(f"windows {windows}", windows=windows)

    def classify(self, batch: Sequence[Tokens]) -> list[list[float]]:
        """Scores of shape (len(batch), labels). Sleeping releases the interpreter lock, as an engine does."""
        if not batch:
            return []
        windows = self.info.windows
        if windows is not None and any(tokens.windows for tokens in batch):
            return classify_long(batch, windows, self.classify, multi_label=False)
        for tokens in batch:
            if tokens.ids[0] < 0:
                _misbehave(tokens.ids)
        service_s = self._batch_s + self._token_s * sum(map(len, batch))
        if service_s > 0:
            time.sleep(service_s)
        return [self._scores(tokens.ids[0]) for tokens in batch]

    def close(self) -> None:
        """Does nothing: there are no resources to free."""

    def _scores(self, digest: int) -> list[float]:
        return _signature(self.info, digest) if self._signed else _scores(digest)


def _signed_labels(revision: str) -> tuple[str, ...]:
    """Three or more labels, in an order that depends on the revision too."""
    order = sorted(SIGNED_LABELS, key=lambda label: _keyed(revision, label))
    return tuple(order[: _FEWEST_LABELS + _keyed(revision, "") % (len(order) - _FEWEST_LABELS)])


def _signature(info: ModelInfo, digest: int) -> list[float]:
    """Scores that only this revision gives to this text. They sum to one."""
    weights = [_keyed(info.revision, f"{digest} {label}") for label in info.labels]
    total = sum(weights)
    steps = [weight * _SIGNED_STEPS // total for weight in weights]
    steps[0] += _SIGNED_STEPS - sum(steps)
    return [count / _SIGNED_STEPS for count in steps]


def _keyed(key: str, content: str) -> int:
    return int.from_bytes(hashlib.blake2b(content.encode(), key=key[:64].encode(), digest_size=6).digest())


def _tokens(text: str, max_tokens: int, windows: Windows | None) -> Tokens:
    pieces = _PIECE.findall(text)
    size = (max_tokens if windows is None else windows.tokens) - 2
    if windows is None or len(pieces) <= size:
        return _read(pieces[:size], len(pieces) - size)
    step = size - windows.overlap
    starts = range(0, len(pieces) - windows.overlap, step)[: windows.most]
    parts = tuple(replace(_read(pieces[start : start + size], 0), part=True) for start in starts)
    ids = [piece for part in parts for piece in part.ids]
    whole = _read(pieces, len(pieces) - starts[-1] - size)
    return replace(whole, ids=ids, unknown=sum(part.unknown for part in parts), windows=parts)


def _read(kept: list[str], left_out: int) -> Tokens:
    ids = [_digest(" ".join(kept)), *(_digest(piece) % _PIECE_IDS for piece in kept), _END]
    unknown = sum(not piece.isascii() for piece in kept)
    return Tokens(ids, max(left_out, 0), unknown, foreign=2 * unknown > len(kept))


def _digest(text: str) -> int:
    return crc32(text.encode("utf-8", "surrogatepass")) + _FIRST_PIECE_ID


def _scores(digest: int) -> list[float]:
    positive = round((digest - _FIRST_PIECE_ID) / 0xFFFFFFFF, 6)
    return [round(1 - positive, 6), positive]


def _fault(text: str) -> Tokens | None:
    found = _FAULT.search(text)
    if not found:
        return None
    seconds = float(found["seconds"] or 0)
    return Tokens([_FAULT_IDS[found["name"]], int(seconds * 1e6)], truncated=0, unknown=0)


def _misbehave(ids: Sequence[int]) -> None:
    fault = ids[0]
    if fault == _RAISE:
        raise ValueError("the stub was asked to raise")
    if fault == _KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == _HANG:
        time.sleep(_HANG_S)
    if fault == _GIL:
        # Unlike CDLL, PyDLL holds the interpreter lock during the call.
        ctypes.PyDLL(None).usleep(ctypes.c_uint(ids[1]))
