"""Checks that Python would import this project's packages, and not others of the same names.

`api` and `batcher` are common names. Another distribution may install files under them, which pip permits and
which overwrites ours, and a folder of that name may come first on sys.path.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from millrace.errors import CommandError

DISTRIBUTION = "millrace-server"  # as in batcher/version.py
# The extra with what a command needs; "cli" for the others.
EXTRAS = {"worker": "worker", "train": "build", "evaluate": "models", "pull": "models", "push": "models"}
# The embedded model is a separate distribution, so that an API can be installed without it.
MODEL_DISTRIBUTION = "millrace-server-model"
PACKAGES = ("api", "batcher", "model_store", "millrace", "text_files")

_OURS = (DISTRIBUTION, MODEL_DISTRIBUTION)


@contextmanager
def reporting_models() -> Iterator[None]:
    """Reports what is wrong with a model, or with what to do with it, as CommandError."""
    from model_store.errors import ModelError  # which the image of the API lacks

    try:
        yield
    except (ModelError, ArgumentTypeError) as error:
        raise CommandError(str(error)) from None


def missing(error: ModuleNotFoundError, command: str) -> CommandError:
    """What to say of a package that a command needs and an installation without an extra lacks."""
    name = (error.name or "").partition(".")[0]
    extra = "build" if name == "torch" else EXTRAS.get(command, "cli")
    return CommandError(f"{name} is not installed: pip install 'millrace-server[{extra}]'.")


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
