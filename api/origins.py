"""Checks the host name of a request, and the site whose page made a browser send it.

A page of another site can make a browser send requests to any address that the browser can reach, and with
DNS rebinding under the attacker's host name. Other clients send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address

from api.asgi.http import READ, RequestHeaders
from api.errors import Problem

_name = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*").fullmatch
_origin = re.compile(r"https?://(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?").fullmatch
_host = re.compile(rb"(\[[0-9a-f:.]{2,45}\]|[a-z0-9_.-]{1,255})(?::[0-9]{1,5})?").fullmatch


def is_loopback(host: str) -> bool:
    """Whether a server that listens on `host` can only be reached from this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def parse_hosts(value: str) -> tuple[str, ...]:
    """The host names in a comma-separated list, in lower case; "*" stands for all. Raises ValueError."""
    forms = "host names without scheme or port: api.example, api.backend.svc; * allows every name"
    return _parsed(value, _name, forms)


def parse_origins(value: str) -> tuple[str, ...]:
    """The origins in a comma-separated list; "*" stands for all. Raises ValueError."""
    forms = "origins as browsers send them, without a path: https://app.example, http://localhost:3000"
    return _parsed(value, _origin, f"{forms}; * allows every one")


def _parsed(value: str, fits: Callable[[str], object], forms: str) -> tuple[str, ...]:
    parts = tuple(filter(None, (part.strip().lower() for part in value.split(","))))
    if any(part != "*" and fits(part) is None for part in parts):
        raise ValueError(f"must be {forms}")
    return parts


class Origins:
    """Checks host and origin. `names` are the allowed host names; loopback names are always allowed.

    Pages of the `allowed` origins may send requests, too.
    """

    def __init__(self, names: Sequence[str], port: int, allowed: Sequence[str] = ()) -> None:
        self._allowed = frozenset(origin.encode() for origin in allowed)
        self._any = "*" in names
        self._names = frozenset(name.encode() for name in names if name != "*")
        known = (b"localhost", b"127.0.0.1", *self._names)
        # The usual values of the Host header, which need not be parsed; None if the request has none.
        self.usual = frozenset((None, *known, *(b"%b:%d" % (name, port) for name in known)))

    def allows(self, origin: bytes | None) -> bool:
        """Whether pages of this origin may send requests and read the answers."""
        return origin is not None and not self._allowed.isdisjoint((origin.lower(), b"*"))

    def check_host(self, headers: RequestHeaders) -> None:
        """Raises Problem 403 for a host name that is not allowed. IP addresses are always allowed.

        DNS rebinding needs a host name, so an address is safe.
        """
        host = headers.by_name.get(b"host")
        if not (host is None or self._any):
            self._check_name(host)

    def _check_name(self, host: bytes) -> None:
        if host in self.usual or self._is_ours(host):
            return
        raise Problem(
            403, "this host name is not allowed; add it to MILLRACE_ALLOWED_HOSTS", code="host_not_allowed"
        )

    def check_origin(self, headers: RequestHeaders, *, links: bool = True) -> None:
        """Raises Problem 403 for a cross-site request, or one of a page under a name that is not allowed.

        With `links`, it may be a GET or HEAD from following a link, or come from an allowed origin.
        """
        found = headers.by_name
        if links and self.allows(found.get(b"origin")):
            return
        site = found.get(b"sec-fetch-site")
        origin = found.get(b"origin")
        if site == b"same-origin" and origin is not None and not self._any:
            # A proxy that rewrites Host hides the name by which the browser knows this service.
            self._check_name(origin.lower().partition(b"://")[2])
        if (site is None and origin is None) or site in (b"same-origin", b"none"):
            return
        if origin is not None:
            if self._is_own(origin, found.get(b"host", b"")):
                return
        elif links and headers.scope["method"] in READ and found.get(b"sec-fetch-mode") == b"navigate":
            return
        raise Problem(
            403,
            "cross-site request: a page of another site made the browser send it; use the service's own page "
            "or a client that is not a browser",
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
