"""What this code leans on in its dependencies beyond what they promise, by name.

Classes of uvicorn, RQ and redis-py are subclassed, and attributes used that no documentation has. An upgrade
that renames one would leave an override that is never called, or fail under load. Here it fails by name.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    path
    for name in ("api", "batcher", "millrace", "model_store", "text_files")
    for path in (ROOT / name).rglob("*.py")
]
LIBRARIES = ("uvicorn", "redis", "rq", "starlette", "fastapi", "hiredis", "huggingface_hub")
# `module:Class` or a module, and the names of it that are overridden, called or read.
# Public methods of named tuples, whose names begin so that no field has them.
OF_NAMED_TUPLES = {"_asdict", "_replace"}
LEANT_ON = {
    "uvicorn.protocols.http.httptools_impl": "STATUS_LINE HttpToolsProtocol",
    "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol": """
        app_state connection_lost connection_made connections cycle data_received eof_received flow headers
        _start_asgi_task _unset_keepalive_if_required
        expect_100_continue limit_concurrency logger
        loop on_body on_header on_headers_complete on_message_complete on_url parser pause_writing pipeline
        resume_writing scope send_400_response shutdown timeout_keep_alive_task transport url""",
    "uvicorn.protocols.http.httptools_impl:RequestResponseCycle": """
        keep_alive more_body response_complete response_started scope""",
    "logging": "_srcfile",
    "argparse:ArgumentParser": "_actions",
    "starlette.responses:StreamingResponse": "__call__ stream_response",
    "uvicorn.protocols.http.flow_control:FlowControl": "pause_reading resume_reading",
    "uvicorn.server": "ServerState",
    "uvicorn.supervisors:Multiprocess": "run terminate_all",
    "uvicorn.middleware.proxy_headers:ProxyHeadersMiddleware": "__call__ trusted_hosts",
    "starlette.convertors:StringConvertor": "regex",
    "starlette.responses:Response": "__call__",
    "starlette.routing": "Match",
    "redis.asyncio:Redis": "aclose connection_pool",
    "redis.asyncio.connection:Connection": """
        _parser _writer connect connect_check_health host is_connected on_connect_check_health pack_commands
        port read_response send_command send_packed_command socket_connect_timeout socket_timeout""",
    "redis:Redis": "close connection_pool",
    "redis:Connection": """
        connect connect_check_health host is_connected on_connect_check_health port read_response send_command
        socket_connect_timeout""",
    "redis.asyncio.connection:BlockingConnectionPool": "connection_class connection_kwargs make_connection",
    "redis.asyncio.sentinel:SentinelConnectionPool": "get_master_address",
    "redis.asyncio.sentinel:SentinelManagedConnection": "connect send_packed_command",
    "redis.sentinel:SentinelConnectionPool": "get_master_address",
    "redis._parsers:_HiredisParser": "parse_error",
    "redis.maint_notifications": "MaintNotificationsConfig",
    "rq:Queue": """
        canceled_job_registry connection create_job enqueue_job failed_job_registry
        finished_job_registry intermediate_queue_key key started_job_registry""",
    "rq.executions:Execution": "create delete heartbeat",
    "rq.job:Job": "key_for set_status to_dict worker_name",
    "rq:SimpleWorker": """
        _set_ip_address connection_timeout heartbeat ip_address register_birth register_death set_state""",
    "os": "_exit",
    "torch": "_foreach_lerp_",
}


def find(place: str) -> Any:
    """A module, or a class in one."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


@cache
def names_of(found: Any) -> frozenset[str]:
    """The attributes of a module, or of a class's instances: defined, annotated, or set on `self`."""
    if inspect.ismodule(found):
        return frozenset(vars(found))
    names: set[str] = set()
    for base in found.__mro__[:-1]:
        names |= vars(base).keys() | inspect.get_annotations(base).keys()
        names |= set_in(base.__module__).get(base.__qualname__, set())
    return frozenset(names)


@cache
def set_in(module: str) -> dict[str, set[str]]:
    """The names that each class of a module sets on `self`; none of a module that is compiled or built in."""
    path = getattr(sys.modules[module], "__file__", None) or ""
    if not path.endswith(".py"):
        return {}
    return {
        node.name: {
            part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and _is_self(part.value)
        }
        for node in ast.parse(Path(path).read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def _is_self(node: ast.AST) -> bool:
    """Whether it is `self`, `cls` or `super()`."""
    called = node.func if isinstance(node, ast.Call) and not (node.args or node.keywords) else None
    if called is not None:
        return isinstance(called, ast.Name) and called.id == "super"
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@pytest.mark.parametrize("place", LEANT_ON)
def test_finding_26_every_name_is_still_there(place: str) -> None:
    gone = set(LEANT_ON[place].split()) - names_of(find(place))
    assert not gone, f"{place} has no {', '.join(sorted(gone))} any more: look for what used it"


def subclasses() -> Iterator[tuple[Path, ast.ClassDef, Any]]:
    """Every class of ours that has a base in one of the libraries, at one remove too, and that base."""
    trees = [(path, ast.parse(path.read_text())) for path in MODULES]
    direct = [*_direct_subclasses(trees)]
    bases = {node.name: base for _, node, base in direct if not issubclass(base, Exception)}
    yield from direct
    for path, tree in trees:
        for node in ast.walk(tree):
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                if isinstance(base, ast.Name) and base.id in bases:
                    yield path, node, bases[base.id]


def _direct_subclasses(
    trees: Iterable[tuple[Path, ast.Module]],
) -> Iterator[tuple[Path, ast.ClassDef, Any]]:
    for path, tree in trees:
        imported: dict[str, Any] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LIBRARIES:
                module = import_module(node.module)
                imported |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
        for node in ast.walk(tree):
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                words = ast.unparse(base)
                if words in imported:
                    yield path, node, imported[words]
                elif words.split(".")[0] in LIBRARIES and "." in words:
                    yield path, node, find(":".join(words.rsplit(".", 1)))


def used_by(node: ast.ClassDef) -> set[str]:
    """The names that a class defines or uses of itself."""
    used = {part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)}
    for part in node.body:
        targets = part.targets if isinstance(part, ast.Assign) else []
        targets += [part.target] if isinstance(part, ast.AnnAssign) else []
        used |= {target.id for target in targets if isinstance(target, ast.Name)}
    used |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and _is_self(part.value)}
    return used - {"__init__"}


def test_every_name_that_a_subclass_leans_on_is_listed() -> None:
    listed: dict[Any, set[str]] = {find(place): set(names.split()) for place, names in LEANT_ON.items()}
    found = list(subclasses())
    assert {"Connection", "LimitedProtocol", "_Worker"} <= {node.name for _, node, _ in found}
    missing = [
        (str(path.relative_to(ROOT)), node.name, base.__name__, sorted(names))
        for path, node, base in found
        if not issubclass(base, Exception)
        if (names := (used_by(node) & names_of(base)) - listed.get(base, set()))
    ]
    assert missing == [], "add them to LEANT_ON"


def test_every_private_name_of_another_s_object_is_listed() -> None:
    """`connection._writer`: a name with an underscore that the module which uses it does not define."""
    foreign = set()
    for path in MODULES:
        text = path.read_text()
        own = set(re.findall(r"(?:def |class |self\.|cls\.)(_\w+)", text))
        own |= set(re.findall(r"^\s*(_\w+)\s*[:=]", text, re.MULTILINE)) | OF_NAMED_TUPLES
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and re.fullmatch(r"_[a-z]\w*", node.attr):
                foreign |= {node.attr} - own
    assert {"_writer", "_parser"} <= foreign
    assert foreign - {name for names in LEANT_ON.values() for name in names.split()} == set()
