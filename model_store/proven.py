"""Remembers the settings that passed their whole proof here, so that later starts prove only a sample.

What a proof finds depends on the artefact, the kind of processor, the engine's version, the threads, the
arithmetic and the layout (docs/decisions/0803): all of them are in the name of the file.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from importlib.metadata import version
from math import isfinite
from pathlib import Path

from model_store import hardware
from model_store.artefact import Manifest
from model_store.classifier import ModelInfo, Verdict
from model_store.prepare import remember

# Increase this when a proof compares something else.
_PROOF = 1


class Proven:
    """The memory of one setting. Nothing is remembered for a card, whose kind and driver the name lacks."""

    def __init__(self, directory: Path, manifest: Manifest, info: ModelInfo, threads: int) -> None:
        setup = [
            _PROOF,
            {name: file.sha256 for name, file in manifest.files.items()},
            hardware.processor(),
            version(manifest.engine),
            threads or hardware.cores(),
            info.arithmetic,
            info.layout,
        ]
        named = sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()
        self._path = directory / "choices" / f"{manifest.revision[:12]}-proven-{named[:24]}.json"
        self._lasting = not info.device

    def verdict(self) -> Verdict | None:
        """The outcome of the whole proof, if this setting has passed it."""
        try:
            known = Verdict(**json.loads(self._path.read_text("utf-8")))
            passed = isfinite(known.answers) and isfinite(known.batched) and known.reason == ""
        except (OSError, ValueError, TypeError, RecursionError):  # another version, or a damaged file
            return None
        return known if self._lasting and passed else None

    def note(self, whole: Verdict) -> None:
        """Remembers the outcome of a whole proof, or forgets that this setting has passed one before."""
        if whole.reason:
            with suppress(OSError):  # as in a read-only directory, even if there is no such file
                self._path.unlink()
        elif self._lasting:
            remember(self._path, asdict(whole))


def with_sample(whole: Verdict, sample: Verdict) -> Verdict:
    """The outcome of a sample, with the larger differences of both: they decide about the revision."""
    return replace(
        sample,
        answers=max(whole.answers, sample.answers),
        batched=max(whole.batched, sample.batched),
    )
