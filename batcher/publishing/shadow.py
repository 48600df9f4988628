"""Shadows: candidates that answer nothing, but compute a share of the texts again to compare the results.

Texts go to its queue in the bulk lane, after the answer of the revision that answers. Failures
there are counted and affect neither requests nor jobs (decision 0017).

A text counts once each time that the revision that answers has computed it; no text is kept. Scores are
compared as in answers, in steps of SCORE_STEP, and every sum is a whole number: the order of additions has no
effect.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, NamedTuple, Protocol

from batcher.core.keys import Kept
from batcher.errors import MillraceError
from batcher.messages import Lane, Outcome, Prediction, entry_id

# The most texts that wait in this process, and their characters; any beyond either are dropped.
MAX_TEXTS = 1000
MAX_CHARS = 4_000_000
# As jobs do: few enough texts in a request that its scripts do not delay a caller's single text.
REQUEST_TEXTS = 32
REQUESTS = 4
# How long a text may wait in the candidate's queue.
BUDGET_S = 30.0
REPORT_EVERY_S = 1.0
# The last digit of a score in an answer.
SCORE_STEP = 1e-7
# Models with more labels have no matrix: it would have a field for each pair of labels.
MAX_LABELS = 200
KEEP_S = 30 * 86_400
# A shadow that has not written for this long has ended, so that its last call cannot be sent again.
SHADOW_S = 600
_MATRIX = "labels:"
_REVISION = "revision:"
_TIMES = ("current_us", "candidate_us", "current_text_us", "candidate_text_us")
_COUNTS = [b"texts", b"agree", b"scores", b"difference", b"failed", b"dropped", *map(str.encode, _TIMES)]
# The model, the revision that answers, and the candidate.
Pair = tuple[str, int, int]
# Adds the counts of one report: of which pair; by which shadow; its number; the counts. Returns whether they
# are stored.
Store = Callable[[Pair, str, int, Counter[str]], Awaitable[bool]]


class Hub(Protocol):
    """What a shadow needs of `batcher.hub.hub.ReplyHub`."""

    async def classify(
        self, ids: Sequence[str], texts: Sequence[str], *, budget_s: float, lane: Lane = ...
    ) -> list[Outcome]: ...


class _Text(NamedTuple):
    """A text with its id in the queue, and what the revision that answers has computed."""

    id: str
    text: str
    answer: Prediction


@dataclass(eq=False)
class Shadow:
    """Compares the candidate, whose queue is that of `hub`, with the one that answers. Needs a running loop.

    `store` stores counts, under a number by which it recognises those that are sent again. `counted` is
    called with all counts at once.
    """

    _hub: Hub
    _store: Store
    _pair: Pair
    _counted: Callable[[Counter[str]], None] = lambda counts: None

    def __post_init__(self) -> None:
        self._waiting: asyncio.Queue[_Text] = asyncio.Queue(MAX_TEXTS)
        self._chars = 0
        # Requests that waited for the same computation have the same object.
        self._held: dict[int, _Text] = {}
        self._counts: Counter[str] = Counter()
        self._unsent: Counter[str] = Counter()
        self._name = token_hex(8)
        self._number = 0
        self._tasks = [
            asyncio.create_task(self._repeat(), name="shadow-report"),
            *(asyncio.create_task(self._work(), name=f"shadow-{n}") for n in range(REQUESTS)),
        ]

    def offer(self, entry: str, text: str, answer: Prediction) -> None:
        """Takes a text of the share, with its id in the queue and what the answering revision computed."""
        if id(answer) in self._held:
            return
        if self._waiting.full() or self._chars + len(text) > MAX_CHARS:
            self._count(Counter(dropped=1))
            return
        self._held[id(answer)] = one = _Text(entry, text, answer)
        self._chars += len(text)
        self._waiting.put_nowait(one)

    def holds(self, entry: str) -> bool:
        """Whether the text with this id, as that of a request without a tenant, is yet to be compared."""
        return entry in (entry_id(one.text) for one in self._held.values())

    @property
    def idle(self) -> bool:
        """Whether all texts that it took are compared."""
        return not self._held

    async def stop(self) -> None:
        """Drops what waits, and reports the rest."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._count(Counter(dropped=self._waiting.qsize()))
        await self._send()
        await self._send()  # a report that failed before goes first

    async def _work(self) -> None:
        while True:
            texts = [await self._waiting.get()]
            while len(texts) < REQUEST_TEXTS and not self._waiting.empty():
                texts.append(self._waiting.get_nowait())
            try:
                await self._classify(texts)
            finally:
                for one in texts:
                    self._chars -= len(one.text)
                    del self._held[id(one.answer)]

    async def _classify(self, texts: list[_Text]) -> None:
        ids = [one.id for one in texts]
        contents = [one.text for one in texts]
        try:
            outcomes = await self._hub.classify(ids, contents, budget_s=BUDGET_S, lane="bulk")
        except (MillraceError, asyncio.CancelledError) as error:
            self._count(Counter(dropped=len(texts)))
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        for one, outcome in zip(texts, outcomes, strict=True):
            self._count(_compared(one.answer, outcome))

    def _count(self, counts: Counter[str]) -> None:
        self._counts += counts
        self._counted(counts)

    async def _repeat(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            await self._send()

    async def _send(self) -> None:
        """Reports what was counted. A report that fails is sent again as it was, under the same number."""
        if not self._unsent:
            self._unsent = self._counts
            self._counts = Counter()
            self._number += 1
        if self._unsent and await self._store(self._pair, self._name, self._number, self._unsent):
            self._unsent = Counter()


def _compared(answer: Prediction, outcome: Outcome) -> Counter[str]:
    if isinstance(outcome, MillraceError):
        return Counter(failed=1)
    try:
        return compare(answer, outcome)
    except ValueError:
        return Counter(failed=1)


def compare(current: Prediction, candidate: Prediction) -> Counter[str]:
    """What one text adds to the counts. Raises ValueError if the labels differ."""
    one = _scores(current)
    other = _scores(candidate)
    if one.keys() != other.keys():
        raise ValueError("the labels differ")
    top = max(one, key=one.__getitem__)
    other_top = max(other, key=other.__getitem__)
    counts = Counter(
        texts=1,
        agree=int(top == other_top),
        scores=len(one),
        difference=sum(abs(score - other[label]) for label, score in one.items()),
        current_us=round(current.model_ms * 1000),
        candidate_us=round(candidate.model_ms * 1000),
        current_text_us=round(current.model_ms * 1000 / max(current.batch_size, 1)),
        candidate_text_us=round(candidate.model_ms * 1000 / max(candidate.batch_size, 1)),
    )
    counts[_REVISION + current.revision[:12]] = 1
    if len(one) <= MAX_LABELS:
        counts[_MATRIX + json.dumps([top, other_top])] = 1
    return counts


def _scores(prediction: Prediction) -> dict[str, int]:
    """The scores by label, in steps of SCORE_STEP."""
    return {pair["label"]: round(pair["score"] / SCORE_STEP) for pair in json.loads(prediction.fragment)}


def label_pairs(counts: Mapping[str, int]) -> Mapping[tuple[str, str], int]:
    """How often the label of the revision that answers, the first, became that of the candidate."""
    names = [name for name in counts if name.startswith(_MATRIX)]
    pairs = json.loads(f"[{','.join([name.removeprefix(_MATRIX) for name in names])}]")
    return {(str(one), str(other)): counts[name] for name, (one, other) in zip(names, pairs, strict=True)}


def report(counts: Mapping[str, int]) -> dict[str, Any]:
    """The counts in readable form. Means are None without texts, and times in ms.

    `revisions` are those that answered, with the texts of each: several if workers were replaced meanwhile.
    """
    texts = counts.get("texts", 0)
    scores = counts.get("scores", 0)
    matrix: dict[str, dict[str, int]] = {}
    for (current, candidate), count in label_pairs(counts).items():
        matrix.setdefault(current, {})[candidate] = count
    revisions = {
        name.removeprefix(_REVISION): count for name, count in counts.items() if name.startswith(_REVISION)
    }
    times = {name: counts.get(name, 0) / texts / 1000 if texts else None for name in _TIMES}
    return {
        "texts": texts,
        "agree": counts.get("agree", 0),
        "agreement": counts.get("agree", 0) / texts if texts else None,
        "mean_difference": counts.get("difference", 0) * SCORE_STEP / scores if scores else None,
        "labels": {label: dict(sorted(row.items())) for label, row in sorted(matrix.items())},
        "batch_ms": {"current": times["current_us"], "candidate": times["candidate_us"]},
        "text_ms": {"current": times["current_text_us"], "candidate": times["candidate_text_us"]},
        "failed": counts.get("failed", 0),
        "dropped": counts.get("dropped", 0),
        "revisions": dict(sorted(revisions.items())),
    }


class ComparisonStore(Kept):
    """The counts of all API processes, for each pair of revisions of a model."""

    below = ":compared"

    def add(self, pair: Pair, shadow: str, number: int, counts: Mapping[str, int]) -> None:
        """Adds what a shadow of a process has counted. Sent again with the same `number`, it adds nothing."""
        key = self._key(pair)
        last = f"{key}:{shadow}"

        def update(pipe: Any) -> None:
            known = pipe.get(last) == b"%d" % number
            pipe.multi()
            for name, count in () if known else counts.items():
                pipe.hincrby(key, name, count)
            pipe.expire(key, KEEP_S)
            pipe.set(last, number, ex=SHADOW_S)

        self._client.transaction(update, last)

    def read(self, pair: Pair, labels: bool = True) -> Mapping[str, int]:
        """The sums over all processes, with those of all pairs of `labels`; empty if nothing was compared."""
        key, client = self._key(pair), self._client
        raw: Any = (
            client.hgetall(key) if labels else dict(zip(_COUNTS, client.hmget(key, _COUNTS), strict=True))
        )
        return {name.decode(): int(count) for name, count in raw.items() if count}

    def _key(self, pair: Pair) -> str:
        model, current, candidate = pair
        return f"{self._root}:{model}@{current}:{candidate}"
