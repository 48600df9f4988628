"""Bulk beside interactive traffic: how long a batch of a job may take while clients wait on sockets."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from batcher.worker.batching import CostModel, InteractiveTraffic

BUDGET = 512


def model(fixed_s: float, token_s: float) -> CostModel:
    """A cost model that has learnt this line."""
    cost = CostModel.start(fixed_s, token_s)
    for tokens in (16, 64, 128, 256) * 20:
        cost = cost.learn(tokens, fixed_s + token_s * tokens)
    return cost


SLOW = model(0.010, 0.0002)


def tokens_of(traffic: InteractiveTraffic, cost: CostModel, *, now: float, wait_s: float = 0.0) -> int:
    return traffic.bulk_tokens(cost, BUDGET, now, wait_s)


def test_bulk_has_the_whole_pass_while_nobody_else_is_about() -> None:
    assert tokens_of(InteractiveTraffic(), SLOW, now=1000.0) == BUDGET


def busy(length: int, claims_per_s: float = 50.0, until: float = 1000.0) -> InteractiveTraffic:
    """That of ten seconds of texts of this length."""
    traffic = InteractiveTraffic()
    for number in reversed(range(int(10 * claims_per_s))):
        traffic = traffic.seen([length] * 20, now=until - number / claims_per_s)
    return traffic


def test_a_text_waits_for_bulk_half_as_long_again_as_it_takes_itself() -> None:
    tokens = tokens_of(busy(40), SLOW, now=1000.0)
    assert tokens % 16 == 0
    assert SLOW.batch_s(tokens - 16) <= 1.5 * SLOW.batch_s(40) <= SLOW.batch_s(tokens)


def test_a_text_waits_for_bulk_no_longer_than_the_settings_say() -> None:
    traffic = busy(40)
    for wait_s, after in itertools.product((0.02, 0.05), (0, 5, 59)):
        tokens = tokens_of(traffic, SLOW, now=1000.0 + after, wait_s=wait_s)
        assert SLOW.batch_s(tokens - 16) <= wait_s <= SLOW.batch_s(tokens)
    assert tokens_of(traffic, SLOW, now=1061.0, wait_s=0.02) == BUDGET
    shortest = tokens_of(traffic, SLOW, now=1000.0, wait_s=0.001)
    assert int(traffic.typical) <= shortest < traffic.typical + 16, "bulk is slow, but never stops"


def test_a_text_waits_longer_for_bulk_the_rarer_such_texts_are() -> None:
    sizes = [tokens_of(busy(40, claims_per_s), SLOW, now=1000.0) for claims_per_s in (50, 1, 0.6, 0.1)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2]
    assert SLOW.batch_s(sizes[3] - 16) <= SLOW.efficient_s(BUDGET) <= SLOW.batch_s(sizes[3])
    once_a_second = [tokens_of(busy(40, 1), SLOW, now=1000.0 + after) for after in (0, 1)]
    assert SLOW.batch_s(once_a_second[0]) < 1 / 20 + 0.003 < 1 / 20 + 0.01 < SLOW.batch_s(once_a_second[1])


@given(fixed_s=st.floats(0, 0.05), token_s=st.floats(1e-6, 0.001), budget=st.integers(64, 1024))
def test_what_makes_bulk_efficient_is_less_than_the_whole_pass(
    fixed_s: float, token_s: float, budget: int
) -> None:
    cost = CostModel.start(fixed_s, token_s)
    seconds = cost.efficient_s(budget)
    tokens = (seconds - cost.fixed_s) / cost.token_s
    rate = tokens / seconds if seconds else 0.0
    assert 0 <= tokens <= budget
    assert rate <= 0.94 * budget / cost.batch_s(budget)
    assert fixed_s < 1e-4 or rate >= 0.90 * budget / cost.batch_s(budget)


def test_a_model_whose_passes_take_no_time_has_no_efficient_size() -> None:
    assert CostModel.start(0.0, 0.0).efficient_s(BUDGET) == 0.0


def test_bulk_grows_with_the_time_since_the_last_text() -> None:
    traffic = busy(40)
    sizes = [tokens_of(traffic, SLOW, now=1000.0 + after) for after in (0, 5, 9, 12, 59, 61)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] <= sizes[3] == sizes[4] < sizes[5] == BUDGET


def test_a_pass_too_short_to_be_noticed_need_not_be_shorter() -> None:
    quick = model(0.0005, 0.00001)
    tokens = tokens_of(busy(20), quick, now=1000.0)
    assert 32 < tokens < BUDGET
    assert quick.batch_s(tokens) <= 0.0022


def test_a_model_that_costs_nothing_still_leaves_texts_to_be_handled() -> None:
    instant = model(0.0001, 0.000001)
    assert instant.tokens_in(0.002) > BUDGET
    assert 5 * 20 < tokens_of(busy(20), instant, now=1000.0) < 8 * 20


def test_a_claim_of_bulk_alone_changes_nothing() -> None:
    traffic = InteractiveTraffic().seen([20], now=1000.0)
    assert traffic.seen([], now=1050.0) == traffic


def test_tokens_in_a_time() -> None:
    assert model(0.010, 0.0002).tokens_in(0.009) == 0
    assert 48 <= model(0.010, 0.0002).tokens_in(0.020) <= 50
