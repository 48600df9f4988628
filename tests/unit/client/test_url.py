"""The URL that a client is made with."""

from __future__ import annotations

import pytest
from millrace_client import AsyncClient, Client


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8000", "//localhost", "http://", "ftp://localhost", "http://localhost:port"],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_url_that_no_request_can_be_sent_to_is_refused_at_once(kind: type, url: str) -> None:
    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        kind(url)


def test_a_password_in_a_url_is_not_part_of_the_error() -> None:
    with pytest.raises(ValueError, match="must begin") as caught:
        Client("htp://user:secret@localhost")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://localhost:8000", "https://host/below/", "HTTP://[::1]:8000"])
def test_other_urls_are_accepted(url: str) -> None:
    Client(url).close()
