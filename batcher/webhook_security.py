"""Where webhooks may be sent, and how they are signed.

They may be sent to public addresses over https, and to networks that the operator allows.

A name is resolved once for each request, all of its addresses are checked, and the connection is made to an
address that was checked. So a name that resolves differently the next time (DNS rebinding) reaches nothing.
Signatures are those of Standard Webhooks 1.0: HMAC-SHA256 over id, time and body, once for each key.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

MAX_URL = 2048
PREFIX = "whsec_"
# The length of keys in bytes that the specification allows.
MIN_BYTES = 24
MAX_BYTES = 64
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
# The only IPv6 addresses that are given to hosts of the internet. Others are reserved or local, or contain an
# IPv4 address, as ::10.0.0.1 and those of NAT64 do.
_UNICAST = IPv6Network("2000::/3")
# What `ipaddress` calls global although it is not: 6to4 and its relays, Teredo, networks for protocols and
# documentation.
_SPECIAL = tuple(map(ip_network, ("2002::/16", "2001::/23", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24")))


class AddressRefused(ValueError):
    """The URL of a webhook, or an address of its host, is not allowed. The message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, in parts. `path` includes the query."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The host as headers have it, with the port unless it is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_networks(value: str) -> list[Network]:
    """Reads a comma-separated list of addresses or networks. Raises ValueError."""
    try:
        return [ip_network(part.strip(), strict=False) for part in value.split(",") if part.strip()]
    except ValueError as error:
        raise ValueError("must be addresses or networks: 10.0.0.0/8, fd00::/8") from error


def parse_url(url: str) -> Target:
    """Reads the URL of a webhook. Raises AddressRefused."""
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url:
        raise AddressRefused(f"must have at most {MAX_URL} printable ASCII characters, without spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise AddressRefused("is not a valid URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AddressRefused("must begin with https:// and a host")
    try:
        parts.hostname.encode("idna")
    except UnicodeError:
        raise AddressRefused("has a host with an empty label, or one of more than 63 characters") from None
    if parts.username is not None or parts.password is not None:
        raise AddressRefused("must not contain a user or a password")
    secure = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(secure, parts.hostname, port or (443 if secure else 80), path)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host. Raises OSError."""
    return [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def checked_address(target: Target, allowed: Sequence[Network], resolver: Resolve = resolve) -> str:
    """An address of the target. Raises AddressRefused if any of its addresses is not allowed, and OSError."""
    addresses = resolver(target.host, target.port)
    for address in addresses:
        _check(address, target.secure, allowed)
    if not addresses:
        raise OSError("the host has no address")
    return addresses[0]


def _check(given: str, secure: bool, allowed: Sequence[Network]) -> None:
    try:
        address = _plain(ip_address(given.partition("%")[0]))
    except ValueError:
        raise AddressRefused("the host has an address of an unknown kind") from None
    if any(address in network for network in allowed if network.version == address.version):
        return
    special = any(address in network for network in _SPECIAL if network.version == address.version)
    elsewhere = isinstance(address, IPv6Address) and address not in _UNICAST
    if not address.is_global or address.is_multicast or special or elsewhere:
        raise AddressRefused("the host has an address that is not public")
    if not secure:
        raise AddressRefused("must begin with https://")


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def parse_secrets(value: str) -> list[bytes]:
    """Reads a comma-separated list of keys: `whsec_` and 24 to 64 bytes in base64. Raises ValueError."""
    keys = []
    for part in filter(None, map(str.strip, value.split(","))):
        try:
            key = base64.b64decode(part.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            key = b""
        if not part.startswith(PREFIX) or not MIN_BYTES <= len(key) <= MAX_BYTES:
            raise ValueError(
                f"each key must be {PREFIX} and {MIN_BYTES} to {MAX_BYTES} bytes in base64, e.g. of "
                "`openssl rand -base64 32`"
            )
        keys.append(key)
    return keys


def signed_headers(keys: Sequence[bytes], message_id: str, time_s: int, body: bytes) -> dict[str, str]:
    """The headers of a message. With several keys it has several signatures, so that keys can be replaced."""
    content = b"%b.%d.%b" % (message_id.encode(), time_s, body)
    digests = [hmac.new(key, content, sha256).digest() for key in keys]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(time_s),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
    }
