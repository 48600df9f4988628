"""Which host a request names, and which site made a browser send it.

A page of another site can make a browser send requests to every address that the browser reaches, under a
host name of the attacker's, too (DNS rebinding). Other programs send neither `Origin` nor `Sec-Fetch-Site`.
"""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
