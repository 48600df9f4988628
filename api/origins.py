"""Which host a request names, and which site made a browser send it.

A page of another site can make a browser send requests to every address that the browser reaches, under a
host name of the attacker's, too (DNS rebinding). Other programs send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address

from api.asgi.headers import RequestHeaders
from api.errors import Problem

_name = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*").fullmatch
_host = re.compile(rb"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,255})(?::[0-9]{1,5})?").fullmatch


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_hosts(value: str) -> tuple[str, ...]:
    """The host names in a comma-separated list, in lower case; "*" stands for all. Raises ValueError."""
    names = tuple(filter(None, (part.strip().lower() for part in value.split(","))))
    if any(name != "*" and _name(name) is None for name in names):
        raise ValueError(
            "hosts are names without scheme or port: mill.example, api.backend.svc; * is every name"
        )
    return names


class Origins:
    """The checks of one service. `names` are the host names it is known by; empty: loopback names only."""

    def __init__(self, names: Sequence[str], port: int) -> None:
        self._any = "*" in names
        self._names = frozenset(name.encode() for name in names if name != "*")
        known = (b"localhost", b"127.0.0.1", *self._names)
        # As nearly every request has it; anything else is taken apart.
        self._usual = frozenset((*known, *(b"%b:%d" % (name, port) for name in known)))

    def check_host(self, head: RequestHeaders) -> None:
        """Raises Problem 403 for a host name that is not the service's. Addresses cannot be rebound."""
        host = head.found.get(b"host")
        if host is None or host in self._usual or self._any or self._is_ours(host):
            return
        raise Problem(
            403,
            "this host name is not one of the service's; MILLRACE_ALLOWED_HOSTS adds names",
            code="host_not_allowed",
        )

    def check_origin(self, head: RequestHeaders) -> None:
        """Raises Problem 403 for what a page of another site sends; a link that is followed may look."""
        found = head.found
        site, origin = found.get(b"sec-fetch-site"), found.get(b"origin")
        if (site is None and origin is None) or site in (b"same-origin", b"none"):
            return
        if origin is not None:
            if self._is_own(origin, found.get(b"host", b"")):
                return
        elif head.scope["method"] in ("GET", "HEAD") and found.get(b"sec-fetch-mode") == b"navigate":
            return
        raise Problem(
            403,
            "a page of another site made the browser send this request; use the service's own page, or ask "
            "from a program that is not a browser",
            code="cross_site",
        )

    def _is_ours(self, host: bytes) -> bool:
        match = _host(host.lower())
        if match is None:
            return False
        name = match[1]
        if name in self._names or name == b"localhost" or name.endswith(b".localhost"):
            return True
        try:
            ip_address(name.strip(b"[]").decode())
        except ValueError:
            return False
        return True

    def _is_own(self, origin: bytes, host: bytes) -> bool:
        place = origin.lower().partition(b"://")[2]
        match = _host(place)
        return match is not None and (place == host.lower() or match[1] in self._names)
