"""`millrace trace`: where the time of one request went."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

from millrace.errors import CommandError
from millrace.service_client import AdminClient, add_client_arguments

# Dots alone would be another path.
_is_id = re.compile(r"(?!\.\.?$)[A-Za-z0-9._-]{1,128}").fullmatch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help="the X-Request-ID of an answer, or request_id of a log line")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_client_arguments(parser, AdminClient)


def run(args: argparse.Namespace) -> int:
    """Prints the timeline of a request."""
    if not _is_id(args.id):
        raise CommandError("an id has up to 128 letters, digits, dots, dashes and underscores.")
    found = AdminClient.of(args).get(f"/admin/traces/{args.id}")
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    size = f"({_texts(found['texts'])}, {found['tokens']} tokens)"
    print(f"request {found['request_id']}  {found['client']}  received {found['received_at']}  {size}")
    for step in found["timeline"]:
        print(f"{step['at_ms']:8.1f} ms  {step['step']:<8}  {_words(step)}".rstrip())
    return 0


def _texts(count: int) -> str:
    return "1 text" if count == 1 else f"{count} texts"


def _words(step: Mapping[str, Any]) -> str:
    """What happened in one step."""
    match step["step"]:
        case "cache":
            return f"{step['in_process']} from the process, {step['shared']} shared"
        case "claimed":
            again = f", attempt {step['attempts']}" if step["attempts"] > 1 else ""
            return f"{_texts(step['texts'])} by {step['worker']}{again}"
        case "batch":
            return _batch(step)
        case "answered":
            return f"{step['status']} {step['code']}"
    return _texts(step["texts"])


def _batch(step: Mapping[str, Any]) -> str:
    parts = [f"{step['texts']} of {_texts(step['size'])}"]
    if step["worker"] is not None:
        parts = [f"{step['batch']}: {parts[0]}", f"{step['tokens']} tokens"]
        parts += [f"{step['computed_tokens']} computed", step["reason"]]
    else:
        parts.append("by a worker that does not remember it")
    parts.append(f"{step['model_ms']:.1f} ms in the model")
    if step["joined"]:
        parts.append("queued by another request before")
    return ", ".join(parts)
