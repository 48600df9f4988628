"""The operator of the tests: requests to /admin need a key."""

from __future__ import annotations

from collections.abc import Generator
from hashlib import sha256

import httpx

KEY = "the-operator-of-the-tests"
# For MILLRACE_ADMIN_KEYS.
SETTING = f"ops:{sha256(KEY.encode()).hexdigest()}"
HEADERS = {"authorization": f"Bearer {KEY}"}


class OperatorAuth(httpx.Auth):
    """Shows the key in requests to /admin, and in no others."""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Adds the key unless the request shows another one."""
        if request.url.path.startswith("/admin/"):
            request.headers.setdefault("authorization", HEADERS["authorization"])
        yield request
