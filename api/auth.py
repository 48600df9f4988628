"""Who may ask: host and origin of a request, its API key, and how often its client asks."""

from __future__ import annotations

from api.asgi.headers import PROBES, RequestHeaders
from api.errors import Problem
from api.keys import Keys, key_name
from api.origins import Origins
from api.rate_limit import RateCounter
from api.settings import ApiSettings

# These stay open when API keys are set: probes, scrapes and the description of the service.
OPEN_PATHS = PROBES | {"/docs", "/openapi.json", "/"}
# The files of the page.
OPEN_PREFIX = "/static/"


class Authenticator:
    """The checks of one service. Keys and rate limits are off unless the settings say otherwise."""

    def __init__(self, settings: ApiSettings) -> None:
        self.keys = Keys(settings.key_names)
        self._origins = Origins(settings.host_names, settings.port)
        self._rate = RateCounter(settings.rate_limit)

    def admit(self, headers: RequestHeaders) -> str:
        """Counts a request and returns its client: `key:` and the key's name, or the address.

        Raises Problem 403 for another host name or another site's page, 401 without a valid key, and 429
        above the rate limit. Failed authentication attempts also count towards the limit of their address.
        """
        self._origins.check_host(headers)
        self._origins.check_origin(headers)
        try:
            client = self.keys.client(headers)
        except Problem:
            self._rate.count(headers.client)
            raise
        self._rate.count(client)
        headers.client_name = key_name(client)
        return client

    def admit_path(self, path: str, headers: RequestHeaders) -> None:
        """As `admit`. Of open paths only the host is checked, and of probes nothing."""
        if path not in OPEN_PATHS and not path.startswith(OPEN_PREFIX):
            self.admit(headers)
        elif path not in PROBES:
            self._origins.check_host(headers)
