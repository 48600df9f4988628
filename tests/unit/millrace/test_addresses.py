"""What commands make of the errors of services, Millrace's and others'."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from millrace.errors import CommandError
from millrace.service_client import AdminClient, refusal


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"detail": "no such model", "code": "not_found"}, ("no such model", "not_found")),
        ({"detail": [{"msg": "too long", "loc": []}, {"msg": "empty"}]}, ("too long; empty", "")),
        ({"detail": ["too long"]}, ("", "")),
        ({"detail": None}, ("", "")),
        ({"error": {"message": "bad gateway"}}, ("", "")),
        (["bad gateway"], ("", "")),
        ("bad gateway", ("", "")),
    ],
)
def test_an_error_says_why_if_millrace_has_sent_it(body: Any, said: tuple[str, str]) -> None:
    assert refusal(httpx.Response(502, json=body)) == said


def test_operators_got_a_traceback_or_a_bare_full_stop_for_errors_of_other_services() -> None:
    client = AdminClient("localhost:8000")
    for body in (["bad gateway"], {"detail": ["bad gateway"]}, {"detail": ""}):
        transport = httpx.MockTransport(lambda _, body=body: httpx.Response(502, json=body))  # type: ignore[misc]
        client._http = httpx.Client(base_url="http://localhost:8000", transport=transport)
        with pytest.raises(CommandError) as caught:
            client.get("/admin/workers")
        assert str(caught.value) == (
            "http://localhost:8000/admin/workers answered 502: is this a Millrace API?"
        )
