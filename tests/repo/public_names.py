"""The names that docs/stability.md makes promises about, as the code has them, and as they are recorded.

python -m tests.repo.public_names     records what the code has now
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import millrace_client

from api.main import create_app
from api.settings import ApiSettings
from millrace.__main__ import COMMANDS
from millrace.settings_loader import known_variables
from tests.repo.observed import exposed

RECORD = Path(__file__).with_name("public_names.json")


def routes() -> list[str]:
    """`METHOD /path` of every route in the OpenAPI document."""
    paths = create_app(ApiSettings()).app.openapi()["paths"]
    return sorted(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)


def client_names() -> list[str]:
    """What millrace_client exports, with the parameters of the public methods of its classes."""
    found = []
    for name in millrace_client.__all__:
        found.append(name)
        for member, value in inspect.getmembers(getattr(millrace_client, name), inspect.isfunction):
            if not member.startswith("_") or member == "__init__":
                parameters = [part for part in inspect.signature(value).parameters if part != "self"]
                found.append(f"{name}.{member}({', '.join(parameters)})")
    return sorted(found)


def public_names() -> dict[str, list[str]]:
    """Every group of names, sorted."""
    metrics = (f"{one.process}: {one.name} {one.kind}({', '.join(one.labels)})" for one in exposed())
    return {
        "settings": sorted(known_variables()),
        "metrics": sorted(metrics),
        "routes": routes(),
        "client": client_names(),
        "commands": sorted(COMMANDS),
    }


if __name__ == "__main__":
    RECORD.write_text(json.dumps(public_names(), indent=1) + "\n")
