"""`millrace api`: only the HTTP API, as a container starts it."""

from __future__ import annotations

import argparse

from api.settings import ApiSettings
from millrace.settings_loader import check_port, load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", help="address to listen on (MILLRACE_HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (MILLRACE_PORT)")
    parser.add_argument("--processes", type=int, help="processes sharing the port (MILLRACE_PROCESSES)")


def run(args: argparse.Namespace) -> int:
    settings = load_settings(ApiSettings, host=args.host, port=args.port, processes=args.processes)
    check_port(settings.host, settings.port)
    from api.server.run import serve

    serve(settings)
    return 0
