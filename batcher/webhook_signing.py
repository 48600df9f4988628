"""Signatures of webhooks by Standard Webhooks 1.0: HMAC-SHA256 over id, time and body, once for each key."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256

PREFIX = "whsec_"
# The length of keys in bytes that the specification allows.
MIN_BYTES = 24
MAX_BYTES = 64


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
