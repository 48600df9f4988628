"""Bulk beside interactive traffic: how long a batch of a job may take while clients wait on sockets."""

from __future__ import annotations

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


def test_a_text_waits_for_bulk_half_as_long_again_as_it_takes_itself() -> None:
    traffic = InteractiveTraffic()
    for at in range(200):
        traffic = traffic.seen([40], now=1000.0 + at)
    tokens = tokens_of(traffic, SLOW, now=1199.0)
    assert tokens % 16 == 0
    assert SLOW.batch_s(tokens - 16) <= 1.5 * SLOW.batch_s(40) <= SLOW.batch_s(tokens)


def test_a_text_waits_for_bulk_no_longer_than_the_settings_say() -> None:
    traffic = InteractiveTraffic().seen([40], now=1000.0)
    for wait_s in (0.016, 0.05):
        tokens = tokens_of(traffic, SLOW, now=1000.0, wait_s=wait_s)
        assert SLOW.batch_s(tokens - 16) <= wait_s <= SLOW.batch_s(tokens)
    shortest = tokens_of(traffic, SLOW, now=1000.0, wait_s=0.001)
    assert int(traffic.typical) <= shortest < traffic.typical + 16, "bulk is slow, but never stops"


def test_bulk_grows_with_the_time_since_the_last_text() -> None:
    traffic = InteractiveTraffic().seen([40], now=1000.0)
    sizes = [tokens_of(traffic, SLOW, now=1000.0 + after) for after in (0, 5, 10, 20, 59, 61)]
    assert sizes == sorted(sizes)
    assert SLOW.batch_s(sizes[2] - 16) <= 0.05 <= SLOW.batch_s(sizes[2])
    assert sizes[0] < sizes[2] < sizes[3] < sizes[-1] == BUDGET


def test_a_pass_too_short_to_be_noticed_need_not_be_shorter() -> None:
    traffic = InteractiveTraffic().seen([20], now=1000.0)
    quick = model(0.0005, 0.00001)
    tokens = tokens_of(traffic, quick, now=1000.0)
    assert 32 < tokens < BUDGET
    assert quick.batch_s(tokens) <= 0.0022


def test_a_model_that_costs_nothing_still_leaves_texts_to_be_handled() -> None:
    traffic = InteractiveTraffic().seen([20] * 200, now=1000.0)
    instant = model(0.0001, 0.000001)
    assert instant.tokens_in(0.002) > BUDGET
    assert 5 * 20 < tokens_of(traffic, instant, now=1000.0) < 8 * 20


def test_a_claim_of_bulk_alone_changes_nothing() -> None:
    traffic = InteractiveTraffic().seen([20], now=1000.0)
    assert traffic.seen([], now=1050.0) == traffic


def test_tokens_in_a_time() -> None:
    assert model(0.010, 0.0002).tokens_in(0.009) == 0
    assert 48 <= model(0.010, 0.0002).tokens_in(0.020) <= 50
