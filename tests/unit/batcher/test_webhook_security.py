"""Which URLs and addresses webhooks may be sent to."""

from __future__ import annotations

import pytest

from batcher.webhook_security import AddressRefused, checked_address, parse_networks, parse_url

PUBLIC = "https://example.com/hook"


def check(url: str, *addresses: str, allowed: str = "") -> str:
    return checked_address(parse_url(url), parse_networks(allowed), lambda host, port: addresses)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://example.com", "example.com", "/"),
        ("https://Example.com:443/a?b=c#d", "example.com", "/a?b=c"),
        ("https://example.com:8443/", "example.com:8443", "/"),
        ("http://[2001:db8::1]:8080/x", "[2001:db8::1]:8080", "/x"),
    ],
)
def test_a_url_is_read(url: str, authority: str, path: str) -> None:
    target = parse_url(url)
    assert (target.authority, target.path) == (authority, path)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "ftp://example.com",
        "https://",
        "https://user:secret@example.com",
        "https://user@example.com",
        "https://example.com:99999",
        "https://example.com/\r\nhost: other",
        "https://example.com/ x",
        "https://exämple.com",
        "https://[::1",
        "https://example.com/" + "x" * 3000,
    ],
)
def test_a_url_that_is_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        parse_url(url)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_a_public_address(address: str) -> None:
    assert check(PUBLIC, address) == address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
        "2001:0:53aa:64c:0:fbff:5601:fefe",
        "240.0.0.1",
        "192.0.0.8",
        "192.88.99.1",
        "not an address",
    ],
)
def test_an_address_that_is_not_public(address: str) -> None:
    with pytest.raises(AddressRefused):
        check(PUBLIC, address)


@pytest.mark.parametrize(
    "address",
    [
        "::127.0.0.1",
        "::10.0.0.1",
        "::ffff:0:10.0.0.1",
        "fec0::1",
        "3fff::1",
        "4000::1",
        "5f00::1",
        "2001:3::1",
    ],
)
def test_reserved_and_site_local_addresses_of_ipv6_counted_as_public(address: str) -> None:
    with pytest.raises(AddressRefused, match="not public"):
        check(PUBLIC, address)


def test_every_address_of_a_name_counts() -> None:
    with pytest.raises(AddressRefused):
        check(PUBLIC, "93.184.215.14", "10.0.0.1")


def test_a_name_without_an_address() -> None:
    with pytest.raises(OSError, match="no address"):
        check(PUBLIC)


def test_without_tls_only_to_networks_that_the_operator_allows() -> None:
    with pytest.raises(AddressRefused, match="https"):
        check("http://example.com", "93.184.215.14")
    assert check("http://hooks.local:8080", "10.1.2.3", allowed="10.0.0.0/8, fd00::/8") == "10.1.2.3"
    assert check("https://hooks.local", "fd00::2", allowed="10.0.0.0/8, fd00::/8") == "fd00::2"
    with pytest.raises(AddressRefused):
        check("http://hooks.local", "192.168.0.1", allowed="10.0.0.0/8")
