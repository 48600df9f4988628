"""The batching policy, without a clock and without Redis."""

import random
import sys
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batcher.worker.batching import Arrivals, CostModel, choose_batch, claim_cost, keep_window_s
from model_store.rows import FILL, ROW, computed_tokens

lengths_lists = st.lists(st.integers(1, 512), max_size=60)
layouts = st.sampled_from(["packed", "padded"])


@given(lengths_lists, layouts, st.integers(1, 1024))
def test_passes_run_every_text_exactly_once(lengths, layout, budget):
    left = list(enumerate(lengths))
    seen = []
    while left:
        chosen = choose_batch([length for _, length in left], layout, budget)
        assert chosen, "a batch without texts would never end"
        seen += [left[index][0] for index in chosen]
        left = [item for index, item in enumerate(left) if index not in set(chosen)]
    assert sorted(seen) == list(range(len(lengths)))


@given(lengths_lists, layouts, st.integers(1, 1024))
def test_a_pass_keeps_its_budget_unless_one_text_alone_exceeds_it(lengths, layout, budget):
    chosen = choose_batch(lengths, layout, budget)
    texts = [lengths[index] for index in chosen]
    assert (
        len(chosen) == 1
        or (sum(texts) if layout == "packed" else len(texts) * max(texts, default=0)) <= budget
    )


@given(lengths_lists.filter(bool), layouts, st.integers(1, 1024))
def test_the_first_come_is_always_in_the_next_pass(lengths, layout, budget):
    assert 0 in choose_batch(lengths, layout, budget)


@given(lengths_lists, st.integers(1, 1024))
def test_packed_keeps_the_order_of_arrival_but_for_what_no_longer_fits(lengths, budget):
    chosen = choose_batch(lengths, "packed", budget)
    assert chosen == sorted(chosen)
    used = 0
    for index, length in enumerate(lengths):
        if index in chosen:
            used += length
        else:
            assert used + length > budget * FILL - 1


def test_padded_puts_neighbours_in_length_together():
    assert sorted(choose_batch([10, 200, 11, 190, 9, 210, 12], "padded", 48)) == [0, 2, 4, 6]


@pytest.mark.parametrize(("lengths", "chosen"), [([5, 4, 4, 4, 4], 4), ([4, 5, 5, 5, 5], 4), ([5, 5, 4], 3)])
def test_padded_takes_as_many_as_fit_on_either_side(lengths, chosen):
    assert len(choose_batch(lengths, "padded", 20)) == chosen


def test_nothing_held_is_no_pass():
    assert choose_batch([], "packed", 100) == []
    assert choose_batch([], "padded", 100) == []


@given(st.integers(0, 1000))
def test_with_a_backlog_packed_passes_waste_less_than_a_twentieth(seed):
    rng = random.Random(seed)
    lengths = [min(512, 4 + round(rng.lognormvariate(2.6, 0.7))) for _ in range(400)]
    for budget in (512, 768, 1024):
        left, real, computed = list(lengths), 0, 0
        while len(left) >= 30:
            chosen = choose_batch(left[: 2 * budget // 20], "packed", budget)
            texts = [left[index] for index in chosen]
            real, computed = real + sum(texts), computed + computed_tokens(texts, "packed")
            left = [length for index, length in enumerate(left) if index not in set(chosen)]
        assert real / computed > 0.95


def test_without_a_cost_of_tokens_any_number_or_none_runs_in_time():
    model = CostModel.start(0.5, 0.0)
    assert [model.tokens_in(seconds) for seconds in (0.4, 0.5, 0.6)] == [0, sys.maxsize, sys.maxsize]


def test_a_backlog_makes_passes_longer_but_never_long():
    quick, slow = CostModel.start(0.0, 0.00002), CostModel.start(0.0, 0.01)
    assert quick.best_tokens() == 256 < quick.best_tokens(backlog=True) == 1024
    assert slow.best_tokens() == 256 < slow.best_tokens(backlog=True) == 512


@given(st.floats(0.00001, 0.01), st.booleans())
def test_a_pass_is_made_of_whole_rows(token_s, backlog):
    model = CostModel.start(0.001, token_s)
    assert model.best_tokens(backlog=backlog) % ROW == 0


@pytest.mark.parametrize("rows", range(2, 9))
def test_whole_rows_leave_little_room_with_a_backlog(rows):
    shares = []
    for seed in range(200):
        rng = random.Random(seed)
        lengths = [min(ROW, 4 + round(rng.lognormvariate(2.6, 0.7))) for _ in range(120)]
        chosen = [lengths[index] for index in choose_batch(lengths, "packed", rows * ROW)]
        shares.append(sum(chosen) / computed_tokens(chosen, "packed"))
    assert fmean(shares) > 0.96
    assert min(shares) > 0.9


@given(st.floats(0.0001, 0.05), st.floats(0.00001, 0.001))
def test_the_cost_model_finds_the_line_behind_what_it_saw(fixed_s, token_s):
    model = CostModel.start()
    for _ in range(40):
        for tokens in (8, 30, 120, 250, 380):
            model = model.learn(tokens, fixed_s + token_s * tokens)
    assert model.fixed_s == pytest.approx(fixed_s, rel=0.2, abs=2e-4)
    assert model.token_s == pytest.approx(token_s, rel=0.2, abs=2e-6)


def test_the_cost_model_divides_by_tokens_once_all_passes_it_knows_are_of_one_size():
    model = CostModel.start()
    for _ in range(5000):
        model = model.learn(100, 0.02)
    assert model.token_s == pytest.approx(0.0002)
    assert model.fixed_s == pytest.approx(0.0)


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(1e-6, 10)), max_size=30))
def test_the_cost_model_never_predicts_less_than_nothing(passes):
    model = CostModel.start()
    for tokens, seconds in passes:
        model = model.learn(tokens, seconds)
    assert model.fixed_s >= 0
    assert model.token_s >= 0
    assert 256 <= model.best_tokens() <= 512


def test_a_token_costs_no_more_than_the_mean_so_that_no_pass_begins_below_nothing():
    """Passes of 10 and of 100 tokens that took 1 and 100 ms lie on a line through -10 ms."""
    model = CostModel(weight=2.0, tokens=110.0, seconds=0.101, tokens2=10_100.0, product=10.01)
    assert model.token_s == pytest.approx(0.101 / 110)
    assert model.fixed_s == pytest.approx(0)


def test_the_cost_model_follows_a_machine_that_slows_down():
    model = CostModel.start(0.001, 0.0001)
    for _ in range(300):
        model = model.learn(100, 0.5)
    assert model.batch_s(100) == pytest.approx(0.5, rel=0.05)


def test_a_pass_grows_until_its_fixed_cost_hardly_counts():
    assert CostModel.start(0.0001, 0.0001).best_tokens() == 256
    assert CostModel.start(0.0018, 0.0001).best_tokens() == 384
    assert CostModel.start(0.1, 0.0001).best_tokens() == 512


def test_one_user_never_waits_for_company():
    cost = CostModel.start(0.002, 0.0001)
    arrivals = Arrivals()
    now = 0.0
    for _ in range(100):
        now += 0.006  # asks again as soon as it is answered
        arrivals = arrivals.seen(1, now)
    assert keep_window_s(arrivals, cost, 20, 0.005) == 0.0


def test_a_crowd_is_waited_for_but_never_longer_than_half_a_pass_or_the_window():
    cost = CostModel.start(0.004, 0.0001)
    crowd = Arrivals(rate=2000.0, at=1.0)
    assert keep_window_s(crowd, cost, 40, 0.1) == pytest.approx(cost.batch_s(40) / 2)
    assert keep_window_s(crowd, cost, 40, 0.001) == 0.001
    assert keep_window_s(crowd, cost, 40, 0.0) == 0.0


def test_one_that_is_expected_during_a_pass_is_not_waited_for():
    cost = CostModel.start(0.004, 0.0001)  # 8 ms for 40 tokens
    assert keep_window_s(Arrivals(rate=124.0, at=1.0), cost, 40, 0.1) == 0.0
    assert keep_window_s(Arrivals(rate=126.0, at=1.0), cost, 40, 0.1) == pytest.approx(0.004)
    exact = CostModel.start(2**-7, 2**-13)  # 1/64 s for 64 tokens
    assert keep_window_s(Arrivals(rate=64.0, at=1.0), exact, 64, 0.1) == 0.0


def test_arrivals_settle_on_the_rate_and_forget_it():
    arrivals, now = Arrivals(), 10.0
    for _ in range(400):
        now += 0.01
        arrivals = arrivals.seen(3, now)
    assert arrivals.rate == pytest.approx(300, rel=0.1)
    assert arrivals.seen(0, now + 5).rate == 0.0
    assert Arrivals(100.0, 10.0).seen(3, 10.25) == Arrivals(0.75 * 100 + 0.25 * 12, 10.25)
    assert Arrivals(100.0, 10.0).seen(3, 12.0) == Arrivals(1.5, 12.0)


def test_a_worker_claims_what_it_can_start_soon():
    assert claim_cost(0, 256, "packed") == 320
    assert claim_cost(320, 256, "packed") == 0
    assert claim_cost(0, 256, "padded") == 4 * 256 + 64
