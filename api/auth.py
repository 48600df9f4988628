"""Decides whether a request is allowed: its host and origin, its API key, and its client's rate limit."""

from __future__ import annotations

from api.admin.access import AdminAccess, is_admin_path
from api.asgi.http import PROBES, RequestHeaders, client_address
from api.errors import Problem
from api.keys import Keys, key_name
from api.origins import Origins
from api.rate_limit import RateCounter
from api.settings import ApiSettings

# These paths never require an API key: probes, metrics, the API documentation and the web page.
OPEN_PATHS = PROBES | {"/docs", "/openapi.json", "/", "/console"}
# The static files of the web page and of /docs.
OPEN_PREFIX = "/static/"


class Authenticator:
    """Checks requests against the settings. API keys and rate limits are off by default."""

    def __init__(self, settings: ApiSettings) -> None:
        self.keys = Keys(settings.key_names)
        self._origins = Origins(settings.host_names, settings.port)
        self._rate = RateCounter(settings.rate_limit)
        self._admins = AdminAccess(settings)
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

    def client(self, headers: RequestHeaders) -> str:
        """The client of an admitted request: `key:` and the key's name, or the client's address."""
        return f"key:{headers.client_name}" if self._keys_required else client_address(headers.scope)

    def foresee(self, headers: RequestHeaders) -> str:
        """The client of a request that has yet to be admitted; "" if it will be refused."""
        try:
            return self.keys.client(headers)
        except Problem:
            return ""

    def admit_path(self, path: str, headers: RequestHeaders) -> None:
        """Like `admit`, but checks only the host of open paths, and nothing for probes.

        Paths of the console need an admin key instead, and no page of another site may lead to them.
        """
        if is_admin_path(path):
            self._origins.check_host(headers)
            self._origins.check_origin(headers, links=False)
            self._identify_admin(headers)
        elif path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
            self.admit(headers)
        elif path not in PROBES:
            self._origins.check_host(headers)

    def _identify_admin(self, headers: RequestHeaders) -> None:
        try:
            self._admins.admit(headers)
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
