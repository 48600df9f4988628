"""`millrace up`: runs the whole service on this machine, as separate processes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from api.settings import ApiSettings
from batcher.models import ELSEWHERE
from batcher.settings import WorkerSettings
from batcher.shards import MAX_SHARDS
from millrace.errors import CommandError
from millrace.local.embedded_redis import DataDir, EmbeddedRedis, default_data_dir
from millrace.local.operator_key import OperatorKey
from millrace.local.redis_server import find_server
from millrace.local.stack import LocalStack
from millrace.settings_loader import base_url, check_port, free_port, load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address the API listens on (MILLRACE_HOST)")
    parser.add_argument("--port", type=int, help="port of the API (MILLRACE_PORT); 0: any free port")
    parser.add_argument("--workers", type=int, default=1, help="number of workers to start (default: 1)")
    parser.add_argument(
        "--model",
        help="default, a directory, or org/name@revision; several: default,topics=DIR (MILLRACE_MODEL)",
    )
    parser.add_argument("--redis-url", help="use this Redis instead of starting one (REDIS_URL)")
    shards = "number of Redis servers to start; the queue is split over them (default: 1)"
    parser.add_argument("--shards", type=int, default=1, help=shards)
    parser.add_argument(
        "--data-dir",
        type=Path,
        help=f"where the started Redis keeps its data (default: {default_data_dir()})",
    )
    parser.add_argument(
        "--no-disk",
        action="store_true",
        help="keep all data of the started Redis in memory; it is lost when Redis stops",
    )


def run(args: argparse.Namespace) -> int:
    """Starts the service, prints when it is ready, and stops it in order on a signal."""
    if args.workers < 1:
        raise CommandError("--workers must be at least 1.")
    if not 1 <= args.shards <= MAX_SHARDS:
        raise CommandError(f"--shards must be between 1 and {MAX_SHARDS}.")
    api = load_settings(ApiSettings, host=args.host, port=args.port, redis_url=args.redis_url)
    worker = load_settings(WorkerSettings, model=args.model, redis_url=args.redis_url)
    check_port(api.host, api.port)
    if api.port == 0:
        api = api.model_copy(update={"port": free_port(api.host)})
    _check_models(worker)
    servers: list[EmbeddedRedis] = []
    try:
        if "redis_url" not in api.model_fields_set:
            _prepare_servers(args, servers)
        else:
            _check_no_options_of_servers(args)
        data = servers[0].data.path if servers else None
        with contextlib.closing(OperatorKey(data, base_url(api.host, api.port))) as operator:
            return asyncio.run(LocalStack(api, worker, args.workers, servers, operator).run())
    finally:
        for server in servers:
            server.close()


def _prepare_servers(args: argparse.Namespace, servers: list[EmbeddedRedis]) -> None:
    """Appends a server for each shard to `servers`. That of the first one is in the data directory itself."""
    directory = (args.data_dir or default_data_dir()).expanduser()
    binary = find_server(directory)
    for number in range(args.shards):
        data = DataDir(directory / f"shard-{number}" if number else directory)
        servers.append(EmbeddedRedis(binary, data, on_disk=not args.no_disk))


def _check_no_options_of_servers(args: argparse.Namespace) -> None:
    """Raises CommandError for options of servers that are not started, because a URL is set."""
    given = {"--data-dir": args.data_dir is not None, "--no-disk": args.no_disk, "--shards": args.shards > 1}
    option = next((option for option, is_given in given.items() if is_given), None)
    if option is not None:
        raise CommandError(
            f"{option} applies only to the Redis that `millrace up` starts, but a Redis URL is set: "
            "drop one of the two."
        )
    if args.redis_url and any(map(_has_password, args.redis_url.split())):
        raise CommandError(
            "--redis-url contains a password, which every user of this machine can read in the process list: "
            "set REDIS_URL instead."
        )


def _check_models(worker: WorkerSettings) -> None:
    """Raises CommandError if a worker could not find or read a model, before anything is started."""
    for reference in (spec.reference for spec in worker.model):
        known = reference in ("default", ELSEWHERE) or reference.partition("@")[0] == "stub"
        if worker.engine != "stub" and not known:
            _check_model(reference, worker)


def _check_model(reference: str, worker: WorkerSettings) -> None:
    artefacts = str(worker.artefact_dir.expanduser())
    words = ["-P", "-m", "model_store", "locate", reference, "--artefact-dir", artefacts]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode == 2:
        raise CommandError(f"the worker cannot start: {done.stderr.strip()}")


def _has_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or "password=" in parts.query
