"""Checks that Python would import this project's packages, and not others of the same names.

`api` and `batcher` are common names. Another distribution may install files under them, which pip permits and
which overwrites ours, and a folder of that name may come first on sys.path.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from millrace.errors import CommandError

DISTRIBUTION = "millrace-server"  # as in batcher/version.py
# The embedded model is a separate distribution, so that an API can be installed without it.
MODEL_DISTRIBUTION = "millrace-server-model"
PACKAGES = ("api", "batcher", "model_store", "millrace", "text_files")

_OURS = (DISTRIBUTION, MODEL_DISTRIBUTION)


def missing(error: ModuleNotFoundError, extra: str) -> CommandError:
    """What to say of a package that an installation without an extra lacks."""
    name = (error.name or "").partition(".")[0]
    return CommandError(
        f"{name} is not installed: pip install 'millrace-server[{'build' if name == 'torch' else extra}]'."
    )


def check_packages() -> None:
    """Raises CommandError that names the stranger.

    A package that is missing is not an error here: the image of the API has no model_store.
    """
    root = Path(__file__).resolve().parents[1]
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None:
            continue
        folder = Path(next(iter(spec.submodule_search_locations or ()), spec.origin or "")).resolve()
        if folder != root / package:
            raise CommandError(
                f"Python finds the package {package} in {folder}, which does not belong to this program: "
                "remove it from the current directory or from PYTHONPATH."
            )
    for other in distributions():
        # Names are compared last, because reading one parses the whole metadata.
        record = "\n" + (other.read_text("RECORD") or "")
        taken = next((one for one in PACKAGES if f"\n{one}/" in record), None)
        if taken and re.sub(r"[-_.]+", "-", other.name).lower() not in _OURS:
            raise CommandError(
                f"the distribution {other.name} {other.version} installed files into the package {taken}, "
                f"which belongs to this program: uninstall {other.name}, then install {DISTRIBUTION} again."
            )
