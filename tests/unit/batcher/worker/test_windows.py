"""Windows of long texts in the loop: each text has one result, and short texts do not wait for them all."""

from __future__ import annotations

import logging
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.messages import Entry, entry_id
from batcher.worker.batching import ClaimedTexts, TokenizedEntry, TokenizedWindow, split_texts
from model_store import Layout, Tokens
from model_store.stub import StubClassifier
from model_store.windows import Join, Windows
from tests.fakes import FakeQueue, Pace
from tests.unit.batcher.worker.test_loop import Made, expect, faults, paces

SHORT = [f"text {number}" for number in range(6)]
LONG = [f"long {number} " + "word " * (30 + 20 * number) for number in range(4)]
BAD = ["\0raise one", "bad " + "word " * 60 + "poison"]


class Reader(StubClassifier):
    """A stub that reads windows of 20 tokens, and raises on those with a certain word."""

    def __init__(self, join: Join = "mean") -> None:
        super().__init__()
        self.read_in(Windows(20, 4, join, 64))
        self.poison = self.tokenize(["poison"])[0].ids[1]

    def classify(self, batch: Any) -> Any:
        if any(self.poison in tokens.ids for tokens in batch):
            raise ValueError("the model fails on this window")
        return super().classify(batch)


@given(
    st.lists(st.sampled_from([*SHORT, *LONG, *BAD]), unique=True), faults, paces,
    st.sampled_from(["interactive", "bulk"]), st.none() | st.integers(1, 400),
)  # fmt: skip
def test_every_entry_is_completed_or_left_to_others_exactly_once(
    texts: list[str], errors: list[Any], pace: Pace, lane: Any, stop_at: int | None
) -> None:
    logging.disable(logging.CRITICAL)
    try:
        queue = FakeQueue(texts)
        queue.lane = lane
        made = Made(queue, pace=pace, classifier=Reader(), batch_tokens=48)
        queue.errors = [None, *errors]
        if stop_at is not None:
            made.clock.on_look = lambda looks: made.worker.stop() if looks == stop_at else None
        made.run()
    finally:
        logging.disable(logging.NOTSET)
    assert sorted([*queue.completed, *queue.waiting, *queue.leased]) == sorted(queue.texts)
    assert made.worker.exchange.here.leases == set()
    if not any(errors) and stop_at is None:
        assert sorted(queue.completed) == sorted(queue.texts)
        assert made.worker.stats.texts == len(texts)


@pytest.mark.parametrize("pace", get_args(Pace))
def test_the_scores_are_those_of_the_text_alone(pace: Pace) -> None:
    """With any neighbours, in any batches."""
    reader = Reader()
    plain = StubClassifier()
    plain.read_in(Windows(20, 4, "mean", 64))
    made = Made(FakeQueue([*SHORT, *LONG]), pace=pace, classifier=reader, batch_tokens=48)
    seen: dict[str, Any] = {}
    send = made.worker.exchange.send

    def sending(results: Any, **more: Any) -> Any:
        seen.update(results)
        return send(results, **more)

    made.worker.exchange.send = sending  # type: ignore[method-assign]
    swap = made.worker.exchange.swap
    made.worker.exchange.swap = lambda results, command: (seen.update(results), swap(results, command))[1]  # type: ignore[method-assign, func-returns-value]
    both = made.worker.exchange.send_and_wait
    made.worker.exchange.send_and_wait = lambda results, *more: (seen.update(results), both(results, *more))[
        1
    ]  # type: ignore[method-assign, func-returns-value]
    made.run()
    for text in (*SHORT, *LONG):
        (tokens,) = plain.tokenize([text])
        (scores,) = plain.classify([tokens])
        found = seen[entry_id(text)]
        assert f'"score":{round(scores[1], 7)!r}'.encode() in found.fragment
        assert (found.tokens, found.truncated) == (len(tokens), 0)


@pytest.mark.parametrize("pace", get_args(Pace))
def test_short_texts_run_before_the_last_window_whenever_a_batch_ends(pace: Pace) -> None:
    """While batches ended before their claims were due, nothing was claimed until all windows had run."""
    queue = FakeQueue([LONG[3], *SHORT])
    made = Made(queue, pace=pace, classifier=Reader(), batch_tokens=48, batch_texts=1)
    expect(made, 0.05)
    made.run()
    assert queue.completed.index(entry_id(LONG[3])) >= 2
    assert sorted(queue.completed) == sorted(queue.texts)


def held(*texts: str, lane: Any = "interactive") -> ClaimedTexts:
    made = ClaimedTexts("packed", windows=True)
    made.add(split_texts(tokenized(*texts, lane=lane)))
    return made


def tokenized(*texts: str, lane: Any = "interactive") -> list[TokenizedEntry]:
    reader = Reader()
    return [
        TokenizedEntry(Entry(text, text, lane, 100, 0, 9000, 1), tokens, 0.0, 0.0, "full")
        for text, tokens in zip(texts, reader.tokenize(list(texts)), strict=True)
    ]


def test_a_short_text_never_waits_for_more_than_one_batch_of_windows() -> None:
    waiting = held("word " * 300)
    batches = 0
    while waiting.texts:
        late = f"short {batches}"
        waiting.add(tokenized(late))
        first = waiting.next_batch(64, lambda: 64)
        second = waiting.next_batch(64, lambda: 64) if waiting.texts else []
        ran = [one.entry.id for one in (*first, *second)]
        assert late in ran
        assert any(isinstance(one, TokenizedWindow) for one in (*first, *second)) or not waiting.texts
        batches += 1
    assert batches > 2, "windows do not run all at once"


def test_a_batch_of_bulk_windows_is_short_beside_interactive_traffic() -> None:
    bulk, mixed = held(LONG[3], lane="bulk"), held(LONG[3], lane="bulk")
    assert len(bulk.next_batch(200, lambda: 20)) == 1
    for late in ("short", "shorter", "shortest"):
        mixed.add(tokenized(late))
        batch = mixed.next_batch(200, lambda: 20)
        assert late in [one.entry.id for one in batch]
        assert sum(isinstance(one, TokenizedWindow) for one in batch) <= 1
    full = held("word " * 300, lane="bulk")
    assert len(full.next_batch(200, lambda: 200)) > 4, "without interactive traffic before it is full"
    full.add(tokenized("short"))
    batch = full.next_batch(200, lambda: 200)
    assert [one.entry.id for one in batch] == ["short"], "the first one does not wait for a whole batch"


def test_windows_of_a_job_get_an_eighth_of_the_batches_beside_texts_that_keep_coming() -> None:
    waiting = held("word " * 300, lane="bulk")
    ran = []
    for number in range(24):
        waiting.add(tokenized(f"short {number}"))
        batch = waiting.next_batch(64, lambda: 4)
        assert f"short {number}" in [one.entry.id for one in batch]
        ran.append(sum(isinstance(one, TokenizedWindow) for one in batch))
    assert sum(ran) == 3
    assert max(ran) == 1


def test_while_windows_fill_a_batch_no_bulk_entry_is_claimed() -> None:
    waiting = held(LONG[3])
    held_tokens = waiting.tokens
    assert waiting.limits(1000, 1000) == (1250 - held_tokens, 1000)
    assert waiting.limits(64, 64) == (16, -1)
    assert waiting.limits(4, 4) == (0, -1), "memory is bounded"
    del waiting.texts[4:]
    assert waiting.tokens == 80
    assert (waiting.limits(8, 8), waiting.limits(5, 5)) == ((2, -1), (0, -1)), "to 16 batches"
    of_job = held(LONG[3], lane="bulk")
    assert of_job.limits(1000, 1000) == (1250, 1000 - held_tokens)
    assert of_job.limits(1000, held_tokens) == (1250, -1)
    assert of_job.limits(1000, 20) == (1250, -1)
    assert of_job.limits(4, 4) == (5, -1), "a job keeps no short text waiting"


def test_windows_that_keep_coming_leave_a_place_to_bulk_once_in_eight_batches() -> None:
    waiting = held(LONG[3])
    claimed, ran = [], []
    for number in range(24):
        _, bulk = waiting.limits(32, 32)
        if bulk >= 0:
            assert bulk == 1, "a single entry"
            claimed.append(number)
            waiting.add(whole(f"bulk {number}", lane="bulk"))
        waiting.add(tokenized(LONG[3]))
        ran += [one.entry.id for one in waiting.next_batch(32, lambda: 4) if one.entry.lane == "bulk"]
    assert claimed == [6, 14, 22]
    assert ran == [f"bulk {number}" for number in claimed]


def whole(*texts: str, lane: Any = "interactive", tokens: int = 20) -> list[TokenizedEntry]:
    return [
        TokenizedEntry(Entry(text, text, lane, 20, 0, 9000, 1), Tokens([1] * tokens, 0, 0), 0.0, 0.0, "full")
        for text in texts
    ]


lengths = st.lists(st.integers(1, 60), max_size=6)


@given(st.lists(st.tuples(lengths, lengths), min_size=1, max_size=40), st.sampled_from(get_args(Layout)))
def test_texts_that_keep_coming_and_bulk_entries_wait_for_few_batches(
    arrivals: list[tuple[list[int], list[int]]], layout: Layout
) -> None:
    """The oldest text is in every batch, but for those that are one bulk entry. Bulk has an eighth."""
    claimed, budget, without = ClaimedTexts(layout), 64, 0
    for number, (texts, bulk) in enumerate(arrivals):
        for at, length in enumerate(texts):
            claimed.add(whole(f"text {number} {at}", tokens=length))
        for at, length in enumerate(bulk):
            claimed.add(whole(f"bulk {number} {at}", lane="bulk", tokens=length))
        texts_held = [one for one in claimed.texts if one.entry.lane == "interactive"]
        bulk_held = [one for one in claimed.texts if one.entry.lane == "bulk"]
        batch = claimed.next_batch(budget, lambda: 16)
        ran = [one for one in batch if one.entry.lane == "bulk"]
        room = max(map(len, batch), default=0) * len(batch) if layout == "padded" else sum(map(len, batch))
        assert room <= budget or len(batch) == 1
        if not (texts_held and bulk_held):
            without = without if texts_held else 0
            continue
        without = 0 if ran else without + 1
        assert texts_held[0] in batch or (batch == bulk_held[:1])
        assert ran == bulk_held[: len(ran)], "in their order"
        assert without <= 8
        if len(ran) > 1:
            own = [one for one in batch if one not in ran]
            needed = max(map(len, own)) * len(own) if layout == "padded" else sum(map(len, own)) / 0.975
            assert room <= needed * 8 / 7 + 17


def test_bulk_entries_that_are_held_give_way_to_texts() -> None:
    claimed = ClaimedTexts("packed")
    claimed.add(whole(*(f"bulk {number}" for number in range(20)), lane="bulk"))
    assert claimed.gives_way
    batch = claimed.next_batch(512, lambda: 64)
    assert [(one.entry.id, one.reason) for one in batch] == [
        (f"bulk {number}", "bulk") for number in range(3)
    ]
    claimed.add(whole("late"))
    assert [one.entry.id for one in claimed.next_batch(512, lambda: 64)] == ["late"]
    assert len(claimed.next_batch(512, lambda: 512)) == 17
    assert not claimed.gives_way


def test_bulk_entries_get_an_eighth_beside_texts_that_keep_coming() -> None:
    claimed, ran = ClaimedTexts("packed"), []
    claimed.add(whole(*(f"bulk {number}" for number in range(60)), lane="bulk"))
    for number in range(16):
        claimed.add(whole(*(f"text {number} {place}" for place in range(30))))
        ran.append(sum(one.entry.lane == "bulk" for one in claimed.next_batch(512, lambda: 64)))
    assert set(ran) == {3}, "64 of 512 tokens"


@pytest.mark.parametrize(("lengths", "beside"), [([22, 19, 20], 2), ([42, 9], 1), ([43, 9], 0)])
def test_a_bulk_entry_is_passed_over_seven_times_and_then_leaves_what_room_it_can(
    lengths: list[int], beside: int
) -> None:
    """Beside its 20 tokens and another 42, packing leaves no room in a batch of 64."""
    claimed = ClaimedTexts("packed")
    claimed.add(whole("bulk", "more bulk", lane="bulk"))
    for number in range(7):
        claimed.add(whole(f"text {number}", tokens=54))
        assert [one.entry.id for one in claimed.next_batch(64, lambda: 64)] == [f"text {number}"]
    late = [f"late {number}" for number in range(len(lengths))]
    for name, length in zip(late, lengths, strict=True):
        claimed.add(whole(name, tokens=length))
    assert [one.entry.id for one in claimed.next_batch(64, lambda: 64)] == ["bulk", *late[:beside]]


def test_a_batch_of_bulk_that_is_not_cut_short_keeps_its_reason() -> None:
    claimed = ClaimedTexts("padded")
    claimed.add(whole("one", "two", lane="bulk"))
    assert [one.reason for one in claimed.next_batch(512, lambda: 64)] == ["full", "full"]


def test_windows_share_the_cost_of_their_text() -> None:
    windows = split_texts(tokenized(LONG[3]))
    assert len(windows) > 3
    assert sum(window.entry.cost for window in windows) <= 100
    assert [window.tokens for window in windows] == list(tokenized(LONG[3])[0].tokens.windows)
    assert all(isinstance(window.tokens, Tokens) for window in windows)


def test_a_text_that_fails_runs_no_more_windows_and_fails_once() -> None:
    logging.disable(logging.CRITICAL)
    try:
        reader = Reader()
        queue = FakeQueue(["poison " + "word " * 300])
        made = Made(queue, classifier=reader, batch_tokens=48)
        runs: list[int] = []
        classify = reader.classify
        reader.classify = lambda batch: (runs.append(len(batch)), classify(batch))[1]  # type: ignore[method-assign, func-returns-value]
        made.run()
    finally:
        logging.disable(logging.NOTSET)
    assert queue.completed == list(queue.texts)
    assert runs[:3] == [2, 1, 1], "a batch, and its windows alone"
    assert len(runs) == 5, "the rest is the self-test, in two calls"


@pytest.mark.parametrize("pace", get_args(Pace))
def test_nothing_is_claimed_beside_the_windows_of_a_quarantined_text(pace: Pace) -> None:
    """One of them may crash the worker, and the texts beside it would be suspects, too."""
    queue = FakeQueue(SHORT, solo=[LONG[3]])
    queue.waiting.sort(key=lambda entry: entry not in queue.solo)
    made = Made(queue, pace=pace, classifier=Reader(), batch_tokens=48)
    expect(made, 0.05)
    made.run()
    alone = [{entry.id for entry in report.entries} for report in made.reports if report.reason == "solo"]
    assert len(alone) > 3
    assert set(map(len, alone)) == {1}
    assert queue.log[:2] == ["claim 1", "complete 1"]
    assert sorted(queue.completed) == sorted(queue.texts)
