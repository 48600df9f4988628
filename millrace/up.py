"""`millrace up`: runs the whole service on this machine, as separate processes."""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from api.settings import ApiSettings
from batcher.settings import WorkerSettings
from millrace import jobs
from millrace.errors import CommandError
from millrace.local.embedded_redis import DataDir, EmbeddedRedis, default_data_dir, find_server
from millrace.local.stack import LocalStack
from millrace.settings_loader import check_port, free_port, load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address the API listens on (MILLRACE_HOST)")
    parser.add_argument("--port", type=int, help="port of the API (MILLRACE_PORT); 0: any free port")
    parser.add_argument("--workers", type=int, default=1, help="number of workers to start")
    parser.add_argument("--model", help="default, a directory, or org/name@revision (MILLRACE_MODEL)")
    parser.add_argument("--redis-url", help="use this Redis instead of starting one (REDIS_URL)")
    parser.add_argument(
        "--data-dir", type=Path, help=f"where the started Redis keeps its data ({default_data_dir()})"
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
    api = load_settings(ApiSettings, host=args.host, port=args.port, redis_url=args.redis_url)
    worker = load_settings(WorkerSettings, model=args.model, redis_url=args.redis_url)
    check_port(api.host, api.port)
    if api.port == 0:
        api = api.model_copy(update={"port": free_port(api.host)})
    _check_model(worker)
    redis = None
    if "redis_url" not in api.model_fields_set:
        data = DataDir(args.data_dir or default_data_dir())
        redis = EmbeddedRedis(find_server(), data, on_disk=not args.no_disk)
    elif args.data_dir is not None or args.no_disk:
        option = "--data-dir" if args.data_dir is not None else "--no-disk"
        raise CommandError(
            f"{option} applies only to the Redis that `millrace up` starts, but a Redis URL is set: "
            "drop one of the two."
        )
    elif args.redis_url and _has_password(args.redis_url):
        raise CommandError(
            "--redis-url contains a password, which every user of this machine can read in the process list: "
            "set REDIS_URL instead."
        )
    try:
        stack = LocalStack(api, worker, args.workers, redis, with_jobs=jobs.available())
        return asyncio.run(stack.run())
    finally:
        if redis is not None:
            redis.close()


def _check_model(worker: WorkerSettings) -> None:
    """Raises CommandError if a worker could not find or read the model, before anything is started."""
    if worker.engine == "stub" or worker.model == "default" or worker.model.partition("@")[0] == "stub":
        return
    artefacts = str(worker.artefact_dir.expanduser())
    words = ["-P", "-m", "model_store", "locate", worker.model, "--artefact-dir", artefacts]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode == 2:
        raise CommandError(f"the worker cannot start: {done.stderr.strip()}")


def _has_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or "password=" in parts.query
