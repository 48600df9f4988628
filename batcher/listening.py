"""Binds the ports on which API, workers and jobs workers listen."""

from __future__ import annotations

import socket


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address of this machine, a port of 0 to one that is free.

    `::` is every address of both families, also where the system separates them, and of IPv4 where there is
    no IPv6. Raises OSError.
    """
    every = host == "::"
    if every and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104  # as asked
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if every and family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
