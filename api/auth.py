"""Decides whether a request is allowed: its host and origin, its API key, and the limits of its client."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

from api.asgi.http import PROBES, READ, RequestHeaders, client_address, route_path
from api.errors import Problem
from api.keys import Keys, given_key, key_name, unauthorized
from api.origins import Origins
from api.rate_limit import RateCounter
from api.settings import ApiSettings
from api.traffic import Traffic
from batcher.jobs.records import Used
from batcher.lookup.backend import Hub

PREFIX = "/admin"
# Where a session begins and ends, and links to the console are made. Keys for reading may do so, too.
SESSION = f"{PREFIX}/session"
LINKS = f"{PREFIX}/links"
# As many digits of its digest tell a key from others.
_DIGITS = 16
# Finds the operator by a secret, as `Operator.encode` writes it; "" for an unknown one.
Find = Callable[[str], Awaitable[str]]
# These paths never require an API key: probes, metrics, the API documentation and the web page.
OPEN_PATHS = PROBES | {"/docs", "/openapi.json", "/", "/console"}
# Operators may see these with their key, too: `millrace top` and `millrace status`.
FOR_OPERATORS = frozenset(("/stats",))
# The static files of the web page and of /docs.
OPEN_PREFIX = "/static/"


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

    def __init__(self, settings: ApiSettings, find_session: Find, redeem: Find) -> None:
        self._find_session = find_session
        self._redeem = redeem
        admins = settings.admin_keys.get_secret_value()
        readers = settings.admin_read_keys.get_secret_value()
        self._keys = Keys({**readers, **admins})
        known = [Operator(name, digest, "reader") for digest, name in readers.items()]
        known += [Operator(name, digest, "admin") for digest, name in admins.items()]
        self._by_digest = {operator.digest: operator for operator in known}
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
        changes = headers.scope["method"] not in READ and route_path(headers.scope) not in (SESSION, LINKS)
        if changes and operator.role == "reader":
            raise Problem(403, "this key may only read: use one of MILLRACE_ADMIN_KEYS", code="read_only")
        headers.client_name = f"admin:{operator.name}"
        headers.scope.setdefault("state", {})["operator"] = operator

    def by_key(self, headers: RequestHeaders) -> Operator | None:
        """The operator whose key the request shows."""
        return self._by_digest.get(self._keys.find(headers))

    async def _by_secret(self, headers: RequestHeaders) -> Operator | None:
        """The operator of a session or, where one begins, of a link; None once its key is removed."""
        begins = route_path(headers.scope) == SESSION and headers.scope["method"] == "POST"
        secret = _text(given_key(headers)) if begins else self.session(headers)
        find = self._redeem if begins else self._find_session
        return self._known.get(await find(secret)) if secret else None

    def session(self, headers: RequestHeaders) -> str:
        """The session that the request's cookie names; "" without one."""
        for part in headers.by_name.get(b"cookie", b"").split(b";"):
            name, _, value = part.strip().partition(b"=")
            if name == self.cookie.encode():
                return _text(value)
        return ""


def _text(secret: bytes) -> str:
    return secret.decode("ascii", "replace")


async def _unknown(secret: str) -> str:
    return ""


class Authenticator:
    """Checks requests against the settings. API keys and rate limits are off by default.

    `find_session` and `redeem` are as in `AdminAccess`. Without them, operators need their keys.
    """

    def __init__(self, settings: ApiSettings, find_session: Find = _unknown, redeem: Find = _unknown) -> None:
        self.keys = Keys(settings.api_keys.get_secret_value())
        self.origins = Origins(settings.host_names, settings.port, settings.allowed_origins)
        self._rate = RateCounter(settings.rate_limit)
        self.admins = AdminAccess(settings, find_session, redeem)
        self._identifies = self.keys.required or self._rate.limited

    def admit(self, headers: RequestHeaders) -> str:
        """Counts a request, and sets the name of its API key in `headers`.

        Returns its client: `key:` and the name of the key, or the client's address without keys.

        Raises Problem 403 for an unknown host name or a cross-site request, 401 without a valid key, and 429
        above the rate limit. Failed authentication attempts also count towards the limit of their address.
        """
        found = headers.by_name
        if found.get(b"host") not in self.origins.usual:
            self.origins.check_host(headers)
        if b"origin" in found or b"sec-fetch-site" in found:
            self.origins.check_origin(headers)
        return self._identify(headers) if self._identifies else client_address(headers.scope)

    async def admit_path(self, path: str, headers: RequestHeaders) -> None:
        """Like `admit`, but checks only the host of open paths, and nothing for probes.

        Paths of the console need an admin key instead, and no page of another site may lead to them.
        """
        if is_admin_path(path):
            self.origins.check_host(headers)
            self.origins.check_origin(headers, links=False)
            await self._identify_admin(headers)
        elif path in FOR_OPERATORS and self.admins.by_key(headers) is not None:
            self.origins.check_host(headers)
            self.origins.check_origin(headers)
        elif path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
            self.admit(headers)
        elif path not in PROBES:
            self.origins.check_host(headers)

    async def _identify_admin(self, headers: RequestHeaders) -> None:
        try:
            await self.admins.admit(headers)
        except Problem:
            self._rate.count(client_address(headers.scope))
            raise

    def _identify(self, headers: RequestHeaders) -> str:
        try:
            client = self.keys.client(headers)
        except Problem:
            self._rate.count(client_address(headers.scope))
            raise
        self._rate.count(client)
        headers.client_name = key_name(client)
        return client


class ClientLimits:
    """Refuses texts of clients that an operator holds back, or that have reached a quota or a cap.

    `traffic` counts what clients send, and knows what is left of their quotas.
    """

    def __init__(
        self,
        settings: ApiSettings,
        hub: Hub,
        jobs_used: Callable[[Sequence[str]], Awaitable[Used]] | None = None,
    ) -> None:
        self._hub = hub
        self._most = settings.max_client_texts
        self._first = settings.first_client_texts
        self._waiting: dict[str, int] = {}
        self.traffic = Traffic(settings, hub, self._waiting, jobs_used)

    @property
    def checks(self) -> bool:
        """Whether there is a hold or a quota, so that `check` is needed."""
        return self.traffic.has_quotas or bool(self._hub.snapshot.holds)

    def check(self, client: str, keyed: bool = False, *, job: bool = False) -> None:
        """Raises Problem 429 `client_paused`, or `quota_exceeded` if nothing is left of the quota.

        A hold of new texts refuses a `job` as a whole, since no cache is asked before it is accepted. What is
        `keyed`, with an Idempotency-Key, may repeat what was accepted, which uses nothing of the quota.
        """
        self._check_hold(client, job)
        if not keyed:
            self.traffic.check_quota(client)

    def reserve(self, client: str, texts: int, reserved: int = 0, *, job: bool = False) -> int:
        """Checks as `check` does, and reserves so many texts as `Traffic.reserve` does."""
        self._check_hold(client, job)
        return self.traffic.reserve(client, texts, reserved)

    def _check_hold(self, client: str, job: bool) -> None:
        hold = self._hub.snapshot.holds.get(client)
        if hold is not None and (job or hold.what == "all") and (left_s := hold.left_s):
            raise _paused("requests" if hold.what == "all" else "new texts", left_s)

    def accepts(self, client: str, texts: int) -> bool:
        """Whether `hold` would accept these texts."""
        hold = self._hub.snapshot.holds.get(client)
        return self._has_room(client, texts) and not (hold is not None and hold.left_s > 0)

    def hold(self, client: str, texts: int) -> bool:
        """Counts texts that wait, for `release`. Whether they go before those of heavier clients.

        Raises Problem 429 `client_paused` or `client_limit`. A client with nothing waiting is never refused
        for its limit, because the size of a single request is limited elsewhere.
        """
        hold = self._hub.snapshot.holds.get(client)
        if hold is not None and (left_s := hold.left_s):
            raise _paused("new texts", left_s)
        waiting = self._waiting.get(client, 0)
        if not self._has_room(client, texts):
            detail = (
                f"this client has {waiting} texts waiting already, of at most {self._most}: wait for results"
            )
            raise Problem(429, detail, code="client_limit")
        self._waiting[client] = waiting + texts
        return waiting + texts <= self._first

    def release(self, client: str, texts: int) -> None:
        """These texts no longer wait."""
        if left := self._waiting[client] - texts:
            self._waiting[client] = left
        else:
            del self._waiting[client]

    def _has_room(self, client: str, texts: int) -> bool:
        waiting = self._waiting.get(client, 0)
        return not (self._most and waiting and waiting + texts > self._most)


def _paused(what: str, left_s: float) -> Problem:
    detail = f"an operator has paused {what} of this client; try again later"
    return Problem(429, detail, code="client_paused", retry_after_s=left_s)
