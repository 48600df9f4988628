"""The profile `cluster` of compose.yaml: it agrees with the plain Redis, and its script makes a cluster."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis.crc import key_slot

from batcher.settings import QueueSettings
from batcher.shards import shards_of
from tests.servers import RedisServer

ROOT = Path(__file__).parents[2]
NODES = ["redis-1", "redis-2", "redis-3"]
# The documented trial: which node is killed, and the shard that is down then.
KILLED = re.compile(r"kill redis-(\d)`: `shards_up` is 2 and `warning` names shard (\d)")


def chosen() -> dict[str, str]:
    """The variables of compose.cluster.env."""
    lines = (ROOT / "compose.cluster.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def set_to(text: str, variables: dict[str, str]) -> str:
    """A value of compose.yaml with these variables, others with their defaults."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), text)


def test_the_variables_choose_the_profile_with_a_shard_for_each_node(services: dict[str, Any]) -> None:
    assert [name for name, one in services.items() if one.get("profiles") == ["cluster"]] == [
        *NODES,
        "redis-cluster",
    ]
    variables = chosen()
    assert variables["COMPOSE_PROFILES"] == "cluster"
    for role in ("api", "worker", "jobs"):
        environment = services[role]["environment"]
        for own, count in (({}, 1), (variables, len(NODES))):
            settings = QueueSettings(
                redis_url=set_to(environment["MILLRACE_REDIS_URL"], own),
                shards=set_to(environment["MILLRACE_SHARDS"], own),
            )
            assert len(settings.queue_shards) == count
        nodes = ",".join(f"{node}:6379" for node in NODES)
        assert settings.redis_urls == [f"redis+cluster://{role}:local-{role}@{nodes}"]
        assert services[role]["depends_on"]["redis-cluster"] == {
            "condition": "service_completed_successfully",
            "required": False,
        }


def test_nodes_are_started_as_the_plain_redis_is_with_data_of_their_own(services: dict[str, Any]) -> None:
    plain = services["redis"]
    for node in NODES:
        own = services[node]
        assert own["command"][:2] == plain["command"]
        options = dict(zip(own["command"][2::2], own["command"][3::2], strict=True))
        assert options == {"--cluster-enabled": "yes", "--cluster-require-full-coverage": "no"}
        assert own["volumes"] == [
            volume.replace("redis:/data", f"{node}:/data") for volume in plain["volumes"]
        ]
        same = ("image", "user", "read_only", "tmpfs", "healthcheck", "cap_drop", "security_opt", "restart")
        assert {key: own[key] for key in same} == {key: plain[key] for key in same}
        password = services["redis-cluster"]["environment"]["REDISCLI_AUTH"]
        assert own["environment"] == plain["environment"] | {"REDIS_CLUSTER_PASSWORD": password}
    forming = services["redis-cluster"]
    assert forming["command"] == ["sh", "/form-cluster", *NODES]
    assert set(forming["depends_on"]) == set(NODES)
    override = (ROOT / "scripts/podman/override.yaml").read_text()
    assert all(f"  {name}: *image\n" in override for name in ("redis", *NODES, "redis-cluster"))


@pytest.fixture
def nodes(redis_servers: Callable[..., RedisServer]) -> list[RedisServer]:
    """Three nodes that do not know each other."""
    options = ("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
    return [redis_servers(*options, tcp=True) for _ in NODES]


# What the script needs of redis-cli, which packages of servers may lack.
CLI = """#!{python} -IS
import os, socket, sys
node, *words = sys.argv[sys.argv.index("-h") + 1 :]
if words[1] == "meet":
    words[2:] = words[2].split(":")
with socket.create_connection(("127.0.0.1", {ports}[node])) as connection:
    user = "AUTH cluster " + os.environ["REDISCLI_AUTH"]
    connection.sendall(f"{{user}}\\r\\n{{' '.join(words)}}\\r\\n".encode())
    replies = connection.makefile(newline="")
    said, reply = replies.readline(), replies.readline()
    if not said.startswith("+OK") or reply[0] == "-":
        sys.exit(said + reply)
    print(replies.read(int(reply[1:])) if reply[0] == "$" else reply[1:].strip())
"""


def form(nodes: list[RedisServer], folder: Path) -> None:
    """Runs the script where each name leads to one of these servers: they differ in port, not in address."""
    ports = {name: server.port for name, server in zip(NODES, nodes, strict=True)}
    cases = "".join(f"{name}) port={port};; " for name, port in ports.items())
    tools = {
        "getent": f'#!/bin/sh\ncase $2 in {cases}esac\necho "127.0.0.1:$port $2"\n',
        "redis-cli": CLI.format(python=sys.executable, ports=ports),
    }
    for name, text in tools.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "REDISCLI_AUTH": "cluster"}
    done = subprocess.run(
        ["sh", ROOT / "packaging/compose/form-cluster", *NODES],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.redis
def test_the_script_gives_each_node_one_shard_and_may_run_again(
    nodes: list[RedisServer], tmp_path: Path
) -> None:
    slots = [key_slot(shard.prefix.encode()) for shard in shards_of("default", ["redis+cluster://"], 3)]
    for _ in range(2):
        form(nodes, tmp_path)
        clients = [server.client() for server in nodes]
        for client in clients:
            # Even parts of the slots would leave one node without a shard.
            owners = {
                slot: port
                for slot in slots
                for first, last, (_, port, *_), *_ in client.execute_command("CLUSTER", "SLOTS")
                if first <= slot <= last
            }
            assert set(owners.values()) == {server.port for server in nodes}
            client.close()
    (node, shard) = KILLED.search((ROOT / "docs/deploy.md").read_text()).groups()  # type: ignore[union-attr]
    assert owners[slots[int(shard)]] == nodes[int(node) - 1].port, (
        "docs/deploy.md kills the master of another shard"
    )
