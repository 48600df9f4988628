"""Who may use the console: a request with an operator's key, or one of a session that such a key began."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from api.asgi.http import RequestHeaders, route_path
from api.errors import Problem
from api.keys import Keys, given_key, key_name, parse_keys, unauthorized
from api.settings import ApiSettings

PREFIX = "/admin"
# Where a session begins and ends, and links to the console are made. Keys for reading may do so, too.
SESSION, LINKS = f"{PREFIX}/session", f"{PREFIX}/links"
_READ = frozenset(("GET", "HEAD"))
# As many digits of its digest tell a key from others.
_DIGITS = 16

# Finds the operator by a secret, as `Operator.encode` writes it; "" for an unknown one.
Find = Callable[[str], Awaitable[str]]


def is_admin_path(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


class Operator(NamedTuple):
    """The name and the digest of an operator's key, and whether it is for changes or only for reading."""

    name: str
    digest: str
    role: Literal["admin", "reader"]

    def encode(self) -> str:
        """What a session or link keeps. It ends with its key, also if another has the same name."""
        return f"{self.role}:{self.name}:{self.digest[:_DIGITS]}"


class AdminAccess:
    """Checks the operator of a request to /admin. The keys of clients do not count here.

    `find_session` and `redeem` ask for the operator of a session, and for that of a link, which ends with it.
    """

    find_session: Find
    redeem: Find

    def __init__(self, settings: ApiSettings) -> None:
        admins = parse_keys(settings.admin_keys.get_secret_value())
        readers = parse_keys(settings.admin_read_keys.get_secret_value())
        self._admins, self._readers = Keys(admins), Keys(readers)
        known = [Operator(name, digest, "admin") for digest, name in admins.items()]
        known += [Operator(name, digest, "reader") for digest, name in readers.items()]
        self._known = {operator.encode(): operator for operator in known}
        # Browsers send a cookie to every port of a host, so that services need different names.
        self.cookie = f"millrace-operator-{settings.port}"

    async def admit(self, headers: RequestHeaders) -> None:
        """Sets the operator in the state of the request, and `client_name`: `admin:` and the name of the key.

        Raises Problem 401 without a key or session, 403 `read_only` for a change with a key for reading, and
        what the two functions raise.
        """
        operator = self.by_key(headers) or await self._by_secret(headers)
        if operator is None:
            raise unauthorized("an admin key is required (MILLRACE_ADMIN_KEYS)")
        changes = headers.scope["method"] not in _READ and route_path(headers.scope) not in (SESSION, LINKS)
        if changes and operator.role == "reader":
            raise Problem(403, "this key may only read: use one of MILLRACE_ADMIN_KEYS", code="read_only")
        headers.client_name = f"admin:{operator.name}"
        headers.scope.setdefault("state", {})["operator"] = operator

    def by_key(self, headers: RequestHeaders) -> Operator | None:
        """The operator whose key the request shows."""
        client, digest = self._admins.find_with_digest(headers)
        if client:
            return Operator(key_name(client), digest, "admin")
        client, digest = self._readers.find_with_digest(headers)
        return Operator(key_name(client), digest, "reader") if client else None

    async def _by_secret(self, headers: RequestHeaders) -> Operator | None:
        """The operator of a session or, where one begins, of a link; None once its key is removed."""
        begins = route_path(headers.scope) == SESSION and headers.scope["method"] == "POST"
        secret = _text(given_key(headers)) if begins else self.session(headers)
        find = self.redeem if begins else self.find_session
        return self._known.get(await find(secret)) if secret else None

    def session(self, headers: RequestHeaders) -> str:
        """The session that the request's cookie names; "" without one."""
        for part in headers.found.get(b"cookie", b"").split(b";"):
            name, _, value = part.strip().partition(b"=")
            if name == self.cookie.encode():
                return _text(value)
        return ""


def _text(secret: bytes) -> str:
    return secret.decode("ascii", "replace")
