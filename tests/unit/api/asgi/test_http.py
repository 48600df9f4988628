from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.asgi.http import Preference, RequestHeaders, below, client_address, parse_prefer


@pytest.mark.parametrize(
    ("lines", "meant"),
    [
        ([b"wait=5"], Preference(5.0)),
        ([b"WAIT = 5"], Preference(5.0)),
        ([b"respond-async"], Preference(None, True)),
        ([b"respond-async, wait=5"], Preference(5.0, True)),
        ([b"respond-async", b"wait=5"], Preference(5.0, True)),
        ([b"wait=5, wait=9"], Preference(5.0)),
        ([b"wait=x, wait=9"], Preference(9.0)),
        ([b'wait="5"; a=b'], Preference(5.0)),
        ([b"wait=0"], Preference(0.0)),
        ([b"wait=1e9"], Preference()),
        ([b"wait=nan"], Preference()),
        ([b"wait=-5"], Preference()),
        ([b"=5, ,,wait"], Preference()),
        ([b"waiting=5, respond-asynchronously"], Preference()),
        ([b""], Preference()),
    ],
)
def test_preferences(lines: list[bytes], meant: Preference) -> None:
    assert parse_prefer(lines) == meant


@given(st.lists(st.binary(max_size=40), max_size=3))
def test_no_preference_is_too_odd_to_be_read(lines: list[bytes]) -> None:
    wait_s = parse_prefer(lines).wait_s
    assert wait_s is None or wait_s >= 0


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=200)), max_size=5))
def test_no_head_is_too_odd_to_be_read(headers: list[tuple[bytes, bytes]]) -> None:
    named = [(b"x-request-id", value) for _, value in headers]
    head = RequestHeaders({"headers": headers + named})
    assert 0 < len(head.id) <= 128
    assert head.id.isascii()
    assert head.trace == ""
    assert client_address(head.scope) == ""


async def test_only_paths_of_location_and_link_get_the_prefix() -> None:
    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [
        (b"location", b"/docs"),
        (b"location", b"https://elsewhere.example/docs"),
        (b"link", b'</docs>; rel="help", <https://elsewhere.example/>; rel="author"'),
        (b"x-path", b"/docs"),
        (b"x-link", b"</docs>"),
    ]
    start = {"type": "http.response.start", "status": 307, "headers": headers}
    body = {"type": "http.response.body", "body": b"/docs"}
    for message in (start, body):
        await below("/a b%2F", send)(message)
    moved = [
        (b"location", b"/a%20b%2F/docs"),
        (b"location", b"https://elsewhere.example/docs"),
        (b"link", b'</a%20b%2F/docs>; rel="help", <https://elsewhere.example/>; rel="author"'),
        *headers[3:],
    ]
    assert sent == [{**start, "headers": moved}, body]
