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


def test_bulk_has_the_whole_pass_while_nobody_else_is_about() -> None:
    assert InteractiveTraffic().bulk_tokens(SLOW, BUDGET, now=1000.0) == BUDGET


def test_a_pass_of_bulk_is_as_long_as_a_typical_text_of_those_who_wait() -> None:
    traffic = InteractiveTraffic()
    for at in range(200):
        traffic = traffic.seen([40], now=1000.0 + at)
    tokens = traffic.bulk_tokens(SLOW, BUDGET, now=1199.0)
    assert 39 <= tokens <= 40
    assert SLOW.batch_s(tokens) <= 1.01 * SLOW.batch_s(40)


def test_bulk_gets_everything_back_a_minute_after_the_last_of_them() -> None:
    traffic = InteractiveTraffic().seen([40], now=1000.0)
    assert traffic.bulk_tokens(SLOW, BUDGET, now=1059.0) < BUDGET
    assert traffic.bulk_tokens(SLOW, BUDGET, now=1061.0) == BUDGET


def test_a_pass_too_short_to_be_noticed_need_not_be_shorter() -> None:
    traffic = InteractiveTraffic().seen([20], now=1000.0)
    quick = model(0.0005, 0.00001)
    tokens = traffic.bulk_tokens(quick, BUDGET, now=1000.0)
    assert 32 < tokens < BUDGET
    assert quick.batch_s(tokens) <= 0.0021


def test_a_model_that_costs_nothing_still_leaves_texts_to_be_handled() -> None:
    traffic = InteractiveTraffic().seen([20] * 200, now=1000.0)
    instant = model(0.0001, 0.000001)
    assert instant.tokens_in(0.002) > BUDGET
    assert 5 * 20 < traffic.bulk_tokens(instant, BUDGET, now=1000.0) < 8 * 20


def test_a_claim_of_bulk_alone_changes_nothing() -> None:
    traffic = InteractiveTraffic().seen([20], now=1000.0)
    assert traffic.seen([], now=1050.0) == traffic


def test_tokens_in_a_time() -> None:
    assert model(0.010, 0.0002).tokens_in(0.009) == 0
    assert 48 <= model(0.010, 0.0002).tokens_in(0.020) <= 50
