"""A Redis server with the users of the manifests, a password for each: its own name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.servers import RedisServer, needs_server, server_binary

RULES = Path(__file__).parents[1] / "k8s/base/redis/users.acl"
ROLES = ("api", "worker", "jobs", "autoscaler")


def rules() -> str:
    """The file of the users. Redis 6 has neither read-only keys nor rules in parentheses."""
    text = re.sub(r">([A-Z]+)_PASSWORD", lambda found: f">{found[1].lower()}", RULES.read_text())
    return text if redis_version() >= 7 else re.sub(r" \(.*?\)", "", text).replace("%R~", "~")


def redis_version() -> int:
    said = subprocess.run([str(server_binary()), "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v=(\d+)", said.stdout)
    assert found
    return int(found[1])


def server_with_users(folder: Path) -> RedisServer:
    """Not started yet. Its `url` is the administrator's, and `users` has those of the roles."""
    binary = needs_server()
    path = folder / "users.acl"
    path.write_text(rules())
    made = RedisServer(binary, ("--aclfile", str(path)), tcp=True)
    made.url = f"redis://admin:admin@127.0.0.1:{made.port}/0"
    made.users = {role: f"redis://{role}:{role}@127.0.0.1:{made.port}/0" for role in ROLES}
    return made
