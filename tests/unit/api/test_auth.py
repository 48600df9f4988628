"""Authentication, rate limits and client caps."""

from __future__ import annotations

import time
from dataclasses import replace
from hashlib import sha256

import pytest

from api.asgi.http import RequestHeaders
from api.auth import Authenticator, ClientLimits
from api.errors import Problem
from api.keys import Keys
from api.rate_limit import RateCounter, parse_rate
from api.settings import ApiSettings
from batcher.core.holds import Hold
from tests.unit.fakes import RUNNING, FakeHub


def head(**found: str) -> RequestHeaders:
    names = [(name.replace("_", "-").encode(), value.encode()) for name, value in found.items()]
    return RequestHeaders({"headers": names, "client": ("10.0.0.1", 5)})


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def test_without_keys_a_client_is_its_address() -> None:
    assert Keys({}).client(head()) == "10.0.0.1"


@pytest.mark.parametrize(
    "shown", [{"authorization": "Bearer two"}, {"x_api_key": "two"}, {"authorization": "bearer  two"}]
)
def test_any_of_several_keys_is_accepted_and_known_by_its_name(shown: dict[str, str]) -> None:
    client = Keys({digest("one"): "web", digest("two"): "phone"}).client(head(**shown))
    assert client == "key:phone"


@pytest.mark.parametrize(
    "shown", [{}, {"x_api_key": "three"}, {"authorization": "Basic two"}, {"authorization": "Bearer "}]
)
def test_anything_else_is_401(shown: dict[str, str]) -> None:
    with pytest.raises(Problem) as refused:
        Keys({digest("one"): "web", digest("two"): "phone"}).client(head(**shown))
    assert refused.value.status == 401
    assert (b"www-authenticate", b"Bearer") in refused.value.headers


def test_a_rate_is_each_clients_own_and_says_when_to_come_back() -> None:
    rate = RateCounter(parse_rate("3/minute"))
    for _ in range(3):
        rate.count("a")
    with pytest.raises(Problem) as refused:
        rate.count("a")
    rate.count("b")
    assert (refused.value.status, refused.value.code) == (429, "rate_limited")
    ((_, wait_s),) = [pair for pair in refused.value.headers if pair[0] == b"retry-after"]
    # At the latest when a third of the previous window has left the sliding one.
    assert 1 <= int(wait_s) <= 81


def test_failed_attempts_count_for_their_address() -> None:
    auth = Authenticator(ApiSettings(rate_limit="2/minute", api_keys=f"web:{digest('one')}"))
    statuses = []
    for number in range(4):
        with pytest.raises(Problem) as refused:
            auth.admit(head(x_api_key=f"guess {number}"))
        statuses.append(refused.value.status)
    assert statuses == [401, 401, 429, 429]
    right = head(x_api_key="one")
    assert auth.admit(right) == "key:web", "the right key is limited separately"


def test_no_rate_is_no_limit() -> None:
    rate = RateCounter([])
    for _ in range(1000):
        rate.count("a")


def test_a_rate_that_is_none_stops_the_start_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="must be a number and a unit"):
        ApiSettings(rate_limit="often")


def test_secrets_are_not_shown() -> None:
    shown = repr(ApiSettings(api_keys=digest("one"), redis_url="redis://:password@h/0"))
    assert digest("one") not in shown
    assert "password" not in shown


def test_a_client_goes_first_until_it_has_much_waiting() -> None:
    limits = ClientLimits(ApiSettings(first_client_texts=3), FakeHub())
    assert limits.hold("a", 2)
    assert not limits.hold("a", 2)
    assert limits.hold("b", 1)
    limits.release("a", 2)
    limits.release("a", 2)
    assert limits.hold("a", 3), "what was answered counts no more"


@pytest.mark.parametrize(("left_s", "accepted"), [(0.9, False), (-0.1, True)])
def test_a_client_is_held_back_to_the_end_of_its_hold(left_s: float, accepted: bool) -> None:
    hold = Hold("uncached", time.monotonic() + left_s)
    limits = ClientLimits(ApiSettings(), FakeHub(snapshot=replace(RUNNING, holds={"a": hold})))
    assert limits.accepts("a", 1) == accepted
    assert limits.accepts("b", 1)


def test_over_the_cap_is_429_but_one_request_is_always_taken() -> None:
    limits = ClientLimits(ApiSettings(max_client_texts=10), FakeHub())
    limits.hold("a", 50)
    with pytest.raises(Problem) as refused:
        limits.hold("a", 1)
    assert (refused.value.status, refused.value.code) == (429, "client_limit")
    limits.release("a", 50)
    limits.hold("a", 1)
    limits.hold("a", 9)
