"""`millrace up`: everything on this machine, as processes; it imports none of their insides."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from api.settings import ApiSettings
from batcher.settings import WorkerSettings
from millrace import jobs
from millrace.embedded import DataDir, EmbeddedRedis, default_data_dir, find_server
from millrace.errors import CommandError
from millrace.mill import Mill
from millrace.startup import check_port, free_port, load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to listen, how many workers, which model, which Redis."""
    parser.add_argument("--host", help="address of the API (MILLRACE_HOST)")
    parser.add_argument("--port", type=int, help="port of the API (MILLRACE_PORT); 0: a free one")
    parser.add_argument("--workers", type=int, default=1, help="how many workers to start")
    parser.add_argument("--model", help="default, a directory, or org/name@revision (MILLRACE_MODEL)")
    parser.add_argument("--redis-url", help="a Redis to use instead of starting one (REDIS_URL)")
    parser.add_argument(
        "--data-dir", type=Path, help=f"where the Redis started here keeps its data ({default_data_dir()})"
    )


def run(args: argparse.Namespace) -> int:
    """Starts everything, says when it is ready, and stops it in order when told to."""
    if args.workers < 1:
        raise CommandError("--workers must be at least 1.")
    api = load_settings(ApiSettings, host=args.host, port=args.port, redis_url=args.redis_url)
    worker = load_settings(WorkerSettings, model=args.model, redis_url=args.redis_url)
    check_port(api.host, api.port)
    if api.port == 0:
        api = api.model_copy(update={"port": free_port(api.host)})
    redis = None
    if "redis_url" not in api.model_fields_set:
        redis = EmbeddedRedis(find_server(), DataDir(args.data_dir or default_data_dir()))
    elif args.data_dir is not None:
        raise CommandError("--data-dir is for the Redis that is started here, and another one was given.")
    try:
        mill = Mill(api, worker, args.workers, redis, with_jobs=jobs.available())
        return asyncio.run(mill.run())
    finally:
        if redis is not None:
            redis.close()
