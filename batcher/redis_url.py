"""URLs of Redis, among them redis+sentinel:// and redis+cluster://, which redis-py does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

Address = tuple[str, int]
SENTINEL_SCHEMES = ("redis+sentinel://", "rediss+sentinel://")
CLUSTER_SCHEMES = ("redis+cluster://", "rediss+cluster://")
SCHEMES = ("redis://", "rediss://", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES, "unix://")


def is_sentinel(url: str) -> bool:
    """Whether the URL names sentinels."""
    return url.startswith(SENTINEL_SCHEMES)


def is_cluster(url: str) -> bool:
    """Whether the URL names the nodes of a Redis Cluster."""
    return url.startswith(CLUSTER_SCHEMES)


def _is_true(value: str) -> bool:
    return value.lower() not in ("0", "f", "false", "n", "no")


def _database(number: str) -> int:
    if number and not number.isdecimal():
        raise ValueError("a database is a number: what follows the last /, or ?db=")
    return int(number or 0)


def _seconds(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{value} is not a number of seconds") from None


# TLS options that a URL may set, by their names in redis-py.
_TLS_OPTIONS: dict[str, Callable[[str], object]] = {
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_cert_reqs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_check_hostname": _is_true,
}
# Other options of a URL of one server, by their names in redis-py.
_OPTIONS: dict[str, Callable[[str], object]] = {
    "db": _database,
    "username": str,
    "password": str,
    "client_name": str,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
}
_BY_SCHEME = {
    "unix": _OPTIONS,
    "redis": _OPTIONS | {"socket_keepalive": _is_true},
    "rediss": _OPTIONS | {"socket_keepalive": _is_true} | _TLS_OPTIONS,
}


class _Parts(NamedTuple):
    """A URL of several hosts. `secret`: username and password; `tls`: options, empty without TLS."""

    hosts: list[Address]
    path: str
    secret: dict[str, Any]
    tls: dict[str, Any]
    other: dict[str, str]


def check_url(url: str) -> None:
    """Raises ValueError if a part of the URL is not known or cannot be read. It never shows a password."""
    if not url.startswith(SCHEMES):
        raise ValueError(f"must begin with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    if is_sentinel(url):
        sentinel_parts(url)
    elif is_cluster(url):
        cluster_parts(url)
    else:
        _address(url)
        parts = urlsplit(url)
        _check_options(parts.scheme, parts.query)
        if parts.scheme != "unix":
            _database(parts.path.strip("/"))


def _check_options(scheme: str, query: str) -> None:
    known = _BY_SCHEME[scheme]
    for name, values in parse_qs(query).items():
        if name not in known:
            seen = "this option" if "@" in query else f"option {name}"  # what precedes an @ may be a password
            secure = "rediss" if scheme == "redis" else scheme
            supported = ", ".join(_BY_SCHEME[secure])
            raise ValueError(f"a {scheme}:// URL does not support {seen}; {secure}:// supports {supported}")
        known[name](values[-1])


def _address(url: str) -> tuple[str | None, int | None]:
    """The host and the port of a URL. Raises ValueError without the URL, which may have a password."""
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port
    except ValueError:
        raise ValueError(
            "the host and port cannot be read: a port is a number up to 65535, several URLs are separated by "
            "spaces, and special characters of a password are written as %2F and so on"
        ) from None


def _split(url: str, default_port: int, known: tuple[str, ...]) -> _Parts:
    """Raises ValueError for an option that is neither a TLS option (with TLS) nor in `known`."""
    scheme, rest = url.split("://", 1)
    secret, _, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    names, _, path = place.partition("/")
    hosts = []
    for host in names.split(","):
        name, port = _address(f"//{host}")
        hosts.append((name or "127.0.0.1", port or default_port))
    tls: dict[str, Any] = {"ssl": True} if scheme.startswith("rediss") else {}
    other = {}
    for name, values in parse_qs(query).items():
        if name in known:
            other[name] = values[-1]
        elif name in _TLS_OPTIONS and tls:
            tls[name] = _TLS_OPTIONS[name](values[-1])
        else:
            secure = scheme.replace("redis+", "rediss+")
            supported = ", ".join((*known, *_TLS_OPTIONS))
            raise ValueError(f"a {scheme}:// URL has no option {name}; {secure}:// supports {supported}")
    credentials: dict[str, Any] = {}
    if secret:
        user, _, password = secret.rpartition(":")
        credentials = {"username": unquote(user) or None, "password": unquote(password)}
    return _Parts(hosts, path, credentials, tls, other)


def sentinel_parts(url: str) -> tuple[list[Address], dict[str, Any], str, dict[str, Any]]:
    """The sentinels' addresses and options, then the name of the service and the options of its master."""
    parts = _split(url, 26379, ("sentinel_username", "sentinel_password"))
    service, _, db = parts.path.partition("/")
    sentinels: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, **parts.tls}
    sentinels |= {name.removeprefix("sentinel_"): value for name, value in parts.other.items()}
    options = {"db": _database(db), **parts.secret, **parts.tls}
    return parts.hosts, sentinels, service or "mymaster", options


def cluster_parts(url: str) -> tuple[list[Address], dict[str, Any]]:
    """The addresses of nodes of a cluster, and the options of a connection to any of its nodes."""
    parts = _split(url, 6379, ())
    if parts.path not in ("", "0"):
        raise ValueError("a cluster has no databases: its URL ends after the last port")
    return parts.hosts, {**parts.secret, **parts.tls}
