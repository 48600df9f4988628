"""The in-process cache: an LRU of pre-encoded predictions, and the names of the models they come from.

The key of a prediction is (revision, text) itself, so a hit does not compute a digest. The cache is bounded
in entries and in bytes. The caller decides how long a prediction is kept.
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from api.backend import Hub
from batcher.messages import Prediction

# How many model revisions are remembered.
MOST_MODELS = 64
NOTHING: Mapping[str, Prediction] = {}
# The overhead of an entry, measured with tracemalloc: key, CachedPrediction, float, size, dictionary slot.
OVERHEAD_BYTES = 350


@dataclass(frozen=True, slots=True)
class CachedPrediction:
    """A cached prediction. `expires_at` is a time of the monotonic clock, `size` the total size in bytes."""

    fragment: bytes
    truncated: int
    expires_at: float
    size: int
    tokens: int

    def prediction(self, revision: str, model: str = "") -> Prediction:
        """The same as a result of this revision."""
        return Prediction(self.fragment, revision, self.tokens, self.truncated, model=model)


class LocalCache:
    """An LRU cache. With `max_entries` 0 it is off: every lookup misses, and nothing is stored."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self.bytes = 0
        self.evictions = 0
        self._max_entries = max_entries if max_bytes else 0
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[str, str], CachedPrediction] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, revision: str, texts: Sequence[str], tenant: str = "") -> list[CachedPrediction | None]:
        """The cached prediction of each text, in order. A tenant only gets its own results."""
        if tenant:
            texts = [_own(tenant, text) for text in texts]
        now = monotonic()
        get, used = self._entries.get, self._entries.move_to_end
        found: list[CachedPrediction | None] = []
        for text in texts:
            key = (revision, text)
            cached = get(key)
            if cached is None:
                found.append(None)
            elif cached.expires_at > now:
                used(key)
                found.append(cached)
            else:
                self._drop(key)
                found.append(None)
        return found

    def put(self, text: str, prediction: Prediction, life_s: float, tenant: str = "") -> None:
        """Stores the prediction of `text` by its revision, for at most `life_s` seconds."""
        if tenant:
            text = _own(tenant, text)
        size = sys.getsizeof(text) + sys.getsizeof(prediction.fragment) + OVERHEAD_BYTES
        if not self._max_entries or size > self._max_bytes or life_s <= 0:
            return
        key = (prediction.revision, text)
        self._drop(key)
        while len(self._entries) >= self._max_entries or self.bytes + size > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.size
            self.evictions += 1
        expires_at = monotonic() + life_s
        self._entries[key] = CachedPrediction(
            prediction.fragment, prediction.truncated, expires_at, size, prediction.tokens
        )
        self.bytes += size

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
        self.bytes = 0

    def _drop(self, key: tuple[str, str]) -> None:
        cached = self._entries.pop(key, None)
        if cached is not None:
            self.bytes -= cached.size


def _own(tenant: str, text: str) -> str:
    """A key for the text of a tenant. It is unique, because tenant names do not contain line breaks."""
    return f"{tenant}\n{text}"


class Models:
    """The current model. It is remembered while Redis or the workers are down: cached results stay valid.

    During a model rollout, results of the previous revision still arrive, so each revision keeps the name it
    was published under.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._headers: dict[str, bytes] = {}
        self._revision = ""

    @property
    def revision(self) -> str:
        """The revision that workers published last; empty until the first one."""
        model = self._hub.snapshot.model
        if model is not None and model.revision != self._revision:
            self._revision = model.revision
            if len(self._headers) >= MOST_MODELS:
                self._headers.clear()
            self._headers[model.revision] = _header(model.name, model.revision)
        return self._revision

    @property
    def name(self) -> str:
        """The name of the model; empty until the first one."""
        model = self._hub.snapshot.model
        if model is not None:
            return model.name
        return self._headers.get(self._revision, b"").decode().rpartition("@")[0]

    def header(self, revision: str, name: str = "") -> bytes:
        """The value of X-Model: name@revision, with twelve characters of the revision.

        `name` is the model name in a result. It is used if this process has not seen the revision yet.
        """
        if revision not in self._headers and revision != self.revision:
            return _header(name, revision)
        return self._headers[revision]

    def answer_header(
        self, revision: str, texts: Sequence[str], found: Mapping[str, Prediction] = NOTHING
    ) -> bytes:
        """The value of X-Model for an answer. Texts that are not among `found` were known, by `revision`."""
        if not found:
            return self.header(revision)
        names: dict[str, str] = {}
        for text in texts:
            if (result := found.get(text)) is None:
                names.setdefault(revision, "")
            else:
                names[result.revision] = result.model
        return b", ".join([self.header(*pair) for pair in names.items()])


def _header(name: str, revision: str) -> bytes:
    return re.sub(r"[^!-~]|,", "_", f"{name}@{revision[:12]}").encode("ascii")
