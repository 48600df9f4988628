"""Hosts in network namespaces, joined by a router that loses packets of chosen pairs of hosts.

Each host has its own namespace, with one address of 198.18.N.0/24 (RFC 2544), and a link to the router. A
cut is a rule `blackhole` of the router's routing policy, from one address to another: packets in this
direction vanish, as on a broken link, and those in the other direction arrive. Connections stay open and
see nothing but silence. This process has a link to the router too, which is never cut.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

HERE, ROUTER = 253, 254
Way = tuple[str, str]


def unavailable() -> str:
    """Why namespaces cannot be made here; empty if they can."""
    if shutil.which("ip") is None:
        return "no `ip` (iproute2)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"millrace-probe-{os.getpid()}"  # several processes of pytest-xdist may ask at once
    try:
        _ip(f"netns add {probe}")
        _ip(f"netns delete {probe}")
    except OSError as error:
        return f"no network namespaces: {error}"
    return ""


@dataclass(frozen=True, slots=True)
class Host:
    """A namespace with one address."""

    name: str
    namespace: str
    address: str

    def command(self, *words: str) -> list[str]:
        """The command line that runs this here."""
        return ["ip", "netns", "exec", self.namespace, *words]


class Network:
    """Hosts by name. `cut` and `heal` act at once, on packets of connections that are open too."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}
        self._cut: set[Way] = set()
        self._number = self._claim()
        self._router = f"millrace-{self._number}-router"
        self._add_router()

    def host(self, name: str) -> Host:
        """One more host."""
        at = len(self.hosts) + 1
        made = Host(name, f"millrace-{self._number}-{name}", f"198.18.{self._number}.{at}")
        space, router, gateway = made.namespace, self._router, self._address(ROUTER)
        _ip(
            f"netns add {space}",
            f"link add v{at} netns {router} type veth peer name eth0 netns {space}",
        )
        _ip(
            "link set lo up",
            f"addr add {made.address}/32 dev eth0",
            "link set eth0 up",
            f"route add default via {gateway} dev eth0 onlink",
            space=space,
        )
        _ip(f"link set v{at} up", f"route add {made.address}/32 dev v{at}", space=router)
        self.hosts[name] = made
        return made

    def cut(self, ways: Iterable[Way]) -> None:
        """From now on, nothing arrives that goes from the first to the second host of each."""
        new = set(ways) - self._cut
        self._rules("add", new)
        self._cut |= new

    def heal(self) -> None:
        """Everything arrives again."""
        self._rules("del", self._cut)
        self._cut.clear()

    def close(self) -> None:
        """Removes all namespaces, and with them all links. Their processes must have ended."""
        for host in self.hosts.values():
            _ip(f"netns delete {host.namespace}")
        _ip(f"netns delete {self._router}")

    def _rules(self, verb: str, ways: Iterable[Way]) -> None:
        address = {name: host.address for name, host in self.hosts.items()}
        lines = [f"rule {verb} from {address[a]} to {address[b]} blackhole" for a, b in ways]
        if lines:
            _ip(*lines, space=self._router)

    def _claim(self) -> int:
        """A number that no other network here has; its router's namespace exists then."""
        for number in range(1, 250):
            try:
                _ip(f"netns add millrace-{number}-router")
            except OSError:
                continue
            return number
        raise OSError("249 networks are in use: remove them with `ip netns delete`")

    def _add_router(self) -> None:
        leg, router = f"millrace-{self._number}", self._router
        _ip(f"link add {leg} type veth peer name here netns {router}")
        _ip(
            f"addr add {self._address(HERE)}/32 dev {leg}",
            f"link set {leg} up",
            f"route add 198.18.{self._number}.0/24 via {self._address(ROUTER)} dev {leg} onlink",
        )
        _ip(
            "link set lo up",
            f"addr add {self._address(ROUTER)}/32 dev lo",
            "link set here up",
            f"route add {self._address(HERE)}/32 dev here",
            space=router,
        )
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        subprocess.run(["ip", "netns", "exec", router, "sh", "-c", forward], check=True)

    def _address(self, host: int) -> str:
        return f"198.18.{self._number}.{host}"


def _ip(*lines: str, space: str = "") -> None:
    """Runs commands of `ip`, in a namespace or here. Raises OSError with what it said."""
    words: Sequence[str] = ["ip", *(["-n", space] if space else []), "-batch", "-"]
    done = subprocess.run(words, input="\n".join(lines) + "\n", capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
