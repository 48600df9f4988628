"""URLs of Redis, among them redis+sentinel:// and redis+cluster://, which redis-py does not know."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

Address = tuple[str, int]
# How long a sentinel may take before the next one is asked.
SENTINEL_S = 0.5
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


def _verification(value: str) -> str:
    if value not in ("none", "optional", "required"):
        raise ValueError(f"ssl_cert_reqs is none, optional or required, and not {value[:32]}")
    return value


# How the value of an option is read, by the option's name in redis-py.
Options = Mapping[str, Callable[[str], object]]
_TLS_OPTIONS: Options = {
    "ssl_ca_certs": str,
    "ssl_ca_path": str,
    "ssl_cert_reqs": _verification,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_check_hostname": _is_true,
}
_UNIX_OPTIONS: Options = {
    "db": _database,
    "username": str,
    "password": str,
    "client_name": str,
    "socket_timeout": _seconds,
    "socket_connect_timeout": _seconds,
}
_OPTIONS: Options = {**_UNIX_OPTIONS, "socket_keepalive": _is_true}
_SENTINEL_OPTIONS: Options = {"sentinel_username": str, "sentinel_password": str}


class _Parts(NamedTuple):
    """A URL of several hosts. `secret`: username and password; `tls`: options, empty without TLS."""

    hosts: list[Address]
    path: str
    secret: dict[str, Any]
    tls: dict[str, Any]
    other: dict[str, Any]


def check_url(url: str) -> None:
    """Raises ValueError if a part of the URL is not known or cannot be read. It never shows a password."""
    if not url.startswith(SCHEMES):
        raise ValueError(f"must begin with {', '.join(SCHEMES[:-1])} or {SCHEMES[-1]}")
    if is_sentinel(url):
        *_, options = sentinel_parts(url)
    elif is_cluster(url):
        _, options = cluster_parts(url)
    else:
        host, _ = _address(url)
        parts = urlsplit(url)
        if parts.scheme == "unix" and (host or not parts.path.strip("/")):
            raise ValueError("a unix:// URL needs the whole path of a socket: unix:///run/redis.sock")
        options = _read_options(
            parts.scheme, parts.query, _UNIX_OPTIONS if parts.scheme == "unix" else _OPTIONS
        )
        if parts.scheme != "unix":
            _database(parts.path.strip("/"))
    _check_files(options)


def _read_options(scheme: str, query: str, known: Options) -> dict[str, Any]:
    """The options of a URL: those in `known`, and with TLS its own. Raises ValueError for any other."""
    plain = not scheme.startswith("rediss")
    most = known if scheme == "unix" else {**known, **_TLS_OPTIONS}
    options = {}
    for name, values in parse_qs(query).items():
        if name not in (known if plain else most):
            seen = "this option" if "@" in query else f"option {name}"  # what precedes an @ may be a password
            secure = scheme.replace("redis", "rediss") if plain else scheme
            raise ValueError(
                f"a {scheme}:// URL does not support {seen}; {secure}:// supports {', '.join(most)}"
            )
        options[name] = most[name](values[-1])
    return options


def _check_files(options: Mapping[str, Any]) -> None:
    """Raises ValueError if certificates cannot be loaded, which redis-py finds out when it connects."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca_file, ca_path = options.get("ssl_ca_certs"), options.get("ssl_ca_path")
    certificate, key = options.get("ssl_certfile"), options.get("ssl_keyfile")
    what = f"ssl_ca_certs={ca_file}" if ca_file else f"ssl_ca_path={ca_path}"
    try:
        if ca_file or ca_path:
            context.load_verify_locations(ca_file, ca_path)
        what = f"ssl_certfile={certificate}" + (f" with ssl_keyfile={key}" if key else "")
        if certificate:
            context.load_cert_chain(certificate, key)
    except OSError as error:  # SSLError is one
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"{what} cannot be loaded: {why}") from None
    if key and not certificate:
        raise ValueError("ssl_keyfile needs ssl_certfile")


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


def _split(url: str, default_port: int, known: Options) -> _Parts:
    scheme, rest = url.split("://", 1)
    secret, _, place = rest.rpartition("@")
    place, _, query = place.partition("?")
    names, _, path = place.partition("/")
    hosts = []
    for host in names.split(","):
        name, port = _address(f"//{host}")
        hosts.append((name or "127.0.0.1", port or default_port))
    options = _read_options(scheme, query, known)
    tls = {name: options.pop(name) for name in _TLS_OPTIONS if name in options}
    if scheme.startswith("rediss"):
        tls["ssl"] = True
    credentials: dict[str, Any] = {}
    if secret:
        user, _, password = secret.rpartition(":")
        credentials = {"username": unquote(user) or None, "password": unquote(password)}
    return _Parts(hosts, path, credentials, tls, options)


def sentinel_parts(url: str) -> tuple[list[Address], dict[str, Any], str, dict[str, Any]]:
    """The sentinels' addresses and options, then the name of the service and the options of its master."""
    parts = _split(url, 26379, _SENTINEL_OPTIONS)
    service, _, db = parts.path.partition("/")
    sentinels: dict[str, Any] = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), SENTINEL_S)
    sentinels |= parts.tls | {name.removeprefix("sentinel_"): value for name, value in parts.other.items()}
    options = {"db": _database(db), **parts.secret, **parts.tls}
    return parts.hosts, sentinels, service or "mymaster", options


def cluster_parts(url: str) -> tuple[list[Address], dict[str, Any]]:
    """The addresses of nodes of a cluster, and the options of a connection to any of its nodes."""
    parts = _split(url, 6379, {})
    if parts.path not in ("", "0"):
        raise ValueError("a cluster has no databases: its URL ends after the last port")
    return parts.hosts, {**parts.secret, **parts.tls}
