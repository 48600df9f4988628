"""Decides whether a request is allowed: its host and origin, its API key, and the limits of its client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from api.admin.access import AdminAccess, is_admin_path
from api.asgi.http import PROBES, RequestHeaders, client_address
from api.backend import Hub
from api.errors import Problem
from api.keys import Keys, key_name
from api.origins import Origins
from api.rate_limit import RateCounter
from api.settings import ApiSettings
from api.traffic import Traffic

# These paths never require an API key: probes, metrics, the API documentation and the web page.
OPEN_PATHS = PROBES | {"/docs", "/openapi.json", "/", "/console"}
# Operators may see these with their key, too: `millrace top` and `millrace status`.
FOR_OPERATORS = frozenset(("/stats",))
# The static files of the web page and of /docs.
OPEN_PREFIX = "/static/"


class Authenticator:
    """Checks requests against the settings. API keys and rate limits are off by default."""

    def __init__(self, settings: ApiSettings) -> None:
        self.keys = Keys(settings.key_names)
        self._origins = Origins(settings.host_names, settings.port)
        self._rate = RateCounter(settings.rate_limit)
        self.admins = AdminAccess(settings)
        self._keys_required = self.keys.required
        self._identifies = self._keys_required or self._rate.limited

    def admit(self, headers: RequestHeaders) -> None:
        """Counts a request, and sets the name of its API key in `headers`.

        Raises Problem 403 for an unknown host name or a cross-site request, 401 without a valid key, and 429
        above the rate limit. Failed authentication attempts also count towards the limit of their address.
        """
        found = headers.found
        if found.get(b"host") not in self._origins.usual:
            self._origins.check_host(headers)
        if b"origin" in found or b"sec-fetch-site" in found:
            self._origins.check_origin(headers)
        if self._identifies:
            self._identify(headers)

    def admit_open(self, headers: RequestHeaders) -> None:
        """Like `admit`, for a request that needs no key. Raises Problem 403 for an unknown host name."""
        self._origins.check_host(headers)

    def client(self, headers: RequestHeaders) -> str:
        """The client of an admitted request: `key:` and the key's name, or the client's address."""
        return f"key:{headers.client_name}" if self._keys_required else client_address(headers.scope)

    def foresee(self, headers: RequestHeaders) -> str:
        """The client of a request that has yet to be admitted; "" if it will be refused."""
        try:
            return self.keys.client(headers)
        except Problem:
            return ""

    async def admit_path(self, path: str, headers: RequestHeaders) -> None:
        """Like `admit`, but checks only the host of open paths, and nothing for probes.

        Paths of the console need an admin key instead, and no page of another site may lead to them.
        """
        if is_admin_path(path):
            self._origins.check_host(headers)
            self._origins.check_origin(headers, links=False)
            await self._identify_admin(headers)
        elif path in FOR_OPERATORS and self.admins.by_key(headers) is not None:
            self._origins.check_host(headers)
            self._origins.check_origin(headers)
        elif path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
            self.admit(headers)
        elif path not in PROBES:
            self._origins.check_host(headers)

    async def _identify_admin(self, headers: RequestHeaders) -> None:
        try:
            await self.admins.admit(headers)
        except Problem:
            self._rate.count(client_address(headers.scope))
            raise

    def _identify(self, headers: RequestHeaders) -> None:
        try:
            client = self.keys.client(headers)
        except Problem:
            self._rate.count(client_address(headers.scope))
            raise
        self._rate.count(client)
        headers.client_name = key_name(client)


class ClientLimits:
    """Refuses texts of clients that an operator holds back, or that have reached a quota or a cap.

    `traffic` counts what clients send, and knows what is left of their quotas.
    """

    def __init__(self, settings: ApiSettings, hub: Hub) -> None:
        self._hub = hub
        self._most = settings.max_client_texts
        self._first = settings.first_client_texts
        self._waiting: dict[str, int] = {}
        self.traffic = Traffic(settings, hub, self._waiting)

    @property
    def checks(self) -> bool:
        """Whether there is a hold or a quota, so that `check` is needed."""
        return self.traffic.has_quotas or bool(self._hub.snapshot.holds)

    def check(self, client: str) -> None:
        """Raises Problem 429 `client_paused` or `quota_exceeded`."""
        hold = self._hub.snapshot.holds.get(client)
        if hold is not None and hold.what == "all" and (left_s := hold.left_s):
            raise _paused("requests", left_s)
        self.traffic.check_quota(client)

    def accepts(self, client: str, texts: int) -> bool:
        """Whether `wait` would accept these texts."""
        hold = self._hub.snapshot.holds.get(client)
        return self._has_room(client, texts) and not (hold is not None and hold.left_s > 0)

    @contextmanager
    def wait(self, client: str, texts: int) -> Iterator[bool]:
        """Counts texts while they wait. Yields whether they go before those of heavier clients.

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
        try:
            yield waiting + texts <= self._first
        finally:
            left = self._waiting[client] - texts
            if left:
                self._waiting[client] = left
            else:
                del self._waiting[client]

    def _has_room(self, client: str, texts: int) -> bool:
        waiting = self._waiting.get(client, 0)
        return not (self._most and waiting and waiting + texts > self._most)


def _paused(what: str, left_s: float) -> Problem:
    detail = f"an operator has paused {what} of this client; try again later"
    return Problem(429, detail, code="client_paused", retry_after_s=left_s)
