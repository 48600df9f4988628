"""Who may use the console: an operator's key, or this machine while the service is open."""

from __future__ import annotations

from api.asgi.http import RequestHeaders
from api.errors import Problem
from api.keys import Keys, key_name, parse_keys, unauthorized
from api.origins import is_loopback
from api.settings import ApiSettings

PREFIX = "/admin"
LOCAL = "this machine"
_READ = frozenset(("GET", "HEAD"))
# A proxy on this machine connects from a loopback address on behalf of others.
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


def is_admin_path(path: str) -> bool:
    return path == PREFIX or path.startswith(f"{PREFIX}/")


class AdminAccess:
    """Checks the key of a request to /admin. The keys of clients do not count here."""

    def __init__(self, settings: ApiSettings) -> None:
        self._admins = Keys(parse_keys(settings.admin_keys.get_secret_value()))
        self._readers = Keys(parse_keys(settings.admin_read_keys.get_secret_value()))
        keys = self._admins.required or self._readers.required or settings.key_names
        self._local = not keys and settings.open != "false" and is_loopback(settings.host)

    def admit(self, headers: RequestHeaders) -> None:
        """Sets the operator as `client_name`: `admin:` and the name of the key, or LOCAL.

        Raises Problem 401 without a valid key, and 403 `read_only` for a change with a key for reading.
        """
        if found := self._admins.find(headers):
            headers.client_name = f"admin:{key_name(found)}"
        elif found := self._readers.find(headers):
            if headers.scope["method"] not in _READ:
                raise Problem(403, "this key may only read: use one of MILLRACE_ADMIN_KEYS", code="read_only")
            headers.client_name = f"admin:{key_name(found)}"
        elif self._local and _from_this_machine(headers):
            headers.client_name = LOCAL
        else:
            raise unauthorized("an admin key is required (MILLRACE_ADMIN_KEYS)")


def _from_this_machine(headers: RequestHeaders) -> bool:
    address, _ = headers.scope.get("client") or ("", 0)
    return is_loopback(address) and headers.found.keys().isdisjoint(_FORWARDED)
