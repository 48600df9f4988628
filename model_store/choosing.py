"""Chooses the arithmetic and layout for a model on this machine: the fastest that passes its proof.

Tries the following in order until one passes (see `model_store.proof`):
    1. the requested arithmetic; with `auto`, bf16 if it is faster by more than 10 %, else f32
    2. f32 with the same weights
    3. f32 with the same weights, one text per row
    4. instead of int8: float weights in f32, in packed rows and then with one text per row
    5. the engine that `auto` has not chosen, if it is installed
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from math import isfinite
from pathlib import Path

from model_store import hardware
from model_store.artefact import MANIFEST, Manifest, revision_in, verify
from model_store.classifier import Arithmetic, Classifier, Engine, Layout, ModelInfo, Verdict
from model_store.engines.runner import LayoutChoice, open_verified
from model_store.errors import EngineUnavailable, GateFailed, NotConverted, Unproven, lacks_memory
from model_store.phases import phase
from model_store.prepare import EngineChoice, PrecisionChoice, choose, locate, prepare, remember, remembered
from model_store.probes import CHOOSES, EVERY, UNBOUNDED, Probes, read_probes
from model_store.proof import BF16_MAX, SAME_ANSWERS, limits, prove
from model_store.rows import RowClassifier
from model_store.tokens import Tokens, in_groups

log = logging.getLogger(__name__)

RAISED = "the engine raised an error (MILLRACE_LOG_LEVEL=debug shows it)"
# bf16 is used if it takes less than this share of the time of f32.
_WORTH_IT = 0.9
# Outside of these, times that vary show the same.
_NEAR_WORTH_IT = 0.75, 1.1
_ROUNDS = 2
_MAX_ROUNDS = 8
# Times this near to each other are the same.
_NEAR = 1.1
# The share of a full batch that is timed.
_TIMED_SHARE = 4
# Increase this when a proof compares something else.
_PROOF = 1
_ARITHMETICS: tuple[Arithmetic, ...] = ("f32", "bf16")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The arguments of `load`."""

    reference: str
    engine: EngineChoice
    precision: PrecisionChoice
    layout: LayoutChoice
    threads: int
    artefact_dir: Path


@dataclass(frozen=True, slots=True)
class Choice:
    """The arithmetic to try first, and why it is not a faster one. `remember`: it was measured well.

    `opened` is the classifier with this arithmetic if it was measured last.
    """

    arithmetic: Arithmetic
    reason: str = ""
    remember: bool = False
    opened: RowClassifier | None = None


def load_proven(options: LoadOptions) -> RowClassifier:
    """Returns a classifier with the first setting that passes its proof. Raises ModelError."""
    failures: list[str] = []
    first, *others = _attempts(options)
    for attempt in (first, *others):
        try:
            if found := _first_proven(attempt, failures):
                return found
        except (GateFailed, NotConverted, EngineUnavailable) as error:
            if not others or (attempt is first and isinstance(error, EngineUnavailable)):
                raise
            failures.append(str(error).rstrip("."))
    raise Unproven(
        f"{options.reference} cannot be served: no setting of its engine gives the answers of transformers "
        f"to its probes ({'; '.join(failures)}); see docs/precision.md#the-proof."
    )


def _attempts(options: LoadOptions) -> Iterator[LoadOptions]:
    """The options to try one after the other: an artefact that is given is not replaced by another."""
    yield options
    if (locate(options.reference, options.artefact_dir)[1] / MANIFEST).is_file():
        return
    if options.precision == "int8":
        options = replace(options, precision="f32")
        yield options
    if options.engine == "auto":
        engine, _ = choose(options.engine, options.precision)
        other: EngineChoice = "torch" if engine == "openvino" else "openvino"
        if all(map(find_spec, ("torch", "transformers") if other == "torch" else ("openvino",))):
            yield replace(options, engine=other)


def _first_proven(options: LoadOptions, failures: list[str]) -> RowClassifier | None:
    """The first setting of one artefact that passes. Adds the others to `failures`."""
    path = prepare(options.reference, options.engine, options.precision, options.artefact_dir)
    manifest = verify(path)
    found = layouts(manifest, options.layout)
    memory = _memory(manifest, options)
    choice = _choose(path, manifest, options, memory)
    for number, (arithmetic, layout) in enumerate(_settings(choice.arithmetic, found)):
        opened = None if number else choice.opened
        failed, classifier = _proven(path, manifest, arithmetic, layout, options, opened)
        if classifier is not None:
            reason = "; ".join([*failures, choice.reason] if choice.reason else failures)
            classifier.info = replace(classifier.info, fallback_reason=reason)
            if choice.remember:
                info = classifier.info
                remember(memory, {"arithmetic": info.arithmetic, "reason": info.fallback_reason})
            return classifier
        failures.append(f"{manifest.weights} weights in {arithmetic}, {layout}: {failed}")
    return None


def layouts(manifest: Manifest, layout: LayoutChoice) -> tuple[Layout, ...]:
    """Those that a model may have, the faster one first."""
    if layout != "auto":
        return (layout,)
    return ("packed", "padded") if manifest.rows else ("padded",)


def arithmetics(engine: Engine, precision: PrecisionChoice) -> tuple[Arithmetic, ...]:
    """Those that a model may be computed in on this machine."""
    if precision in ("f32", "bf16"):
        return (precision,)
    bf16 = hardware.has_bf16() or (engine == "torch" and hardware.card())
    return ("f32", "bf16") if bf16 else ("f32",)


def _settings(first: Arithmetic, layouts: tuple[Layout, ...]) -> Iterator[tuple[Arithmetic, Layout]]:
    yield first, layouts[0]
    if first != "f32":
        yield "f32", layouts[0]
    yield from (("f32", layout) for layout in layouts[1:])


def _proven(
    path: Path,
    manifest: Manifest,
    arithmetic: Arithmetic,
    layout: Layout,
    options: LoadOptions,
    classifier: RowClassifier | None,
) -> tuple[str, RowClassifier | None]:
    """Returns what failed, or the classifier, which is opened unless it is given.

    An engine that cannot run here counts as failed.
    """
    threads = options.threads
    try:
        classifier = classifier or open_verified(
            path, manifest, arithmetic=arithmetic, layout=layout, threads=threads
        )
        verdict = _proof(classifier, manifest, options)
    except EngineUnavailable:
        raise
    except Exception as error:  # an engine may raise anything, and another setting may still work
        verdict = Verdict(0, 0.0, 0.0, 0.0, 0, 0.0, _reason(error))
    if verdict.reason or classifier is None:
        if classifier is not None:
            classifier.close()
        return verdict.reason, None
    revision = manifest.revision
    if verdict.answers > SAME_ANSWERS:
        revision = revision_in(revision, arithmetic)
    classifier.info = replace(classifier.info, proof=verdict, revision=revision)
    return "", classifier


def _proof(classifier: RowClassifier, manifest: Manifest, options: LoadOptions) -> Verdict:
    """The outcome of the whole proof, or of a sample if this setting has passed the whole one before."""
    info, probes = classifier.info, classifier.probes
    allowed = limits(manifest.weights, info.arithmetic, probes.rounding)
    memory = Proven(options.artefact_dir, manifest, info, options.threads)
    setting = f"{manifest.weights} weights in {info.arithmetic}, {info.layout}"
    if (whole := memory.verdict()) is None:
        phase(f"proving all {len(probes.tokens)} probes: {setting}")
        verdict = prove(classifier, probes, allowed).verdict
    else:
        phase(f"proving a sample of {len(probes.tokens)} probes: {setting}")
        verdict = with_sample(whole, prove(classifier, probes, allowed, sample=True).verdict)
    if whole is None or verdict.reason:
        memory.note(verdict)
    return verdict


def _reason(error: Exception) -> str:
    """Why a setting is not used. Raises EngineUnavailable if memory is lacking, as for the next ones."""
    log.debug("the engine raised an error in its proof", exc_info=error, extra={"action": "model.raised"})
    if lacks_memory(error):
        raise EngineUnavailable(f"The model cannot be loaded now: {str(error).splitlines()[0]}") from error
    return RAISED


def _choose(path: Path, manifest: Manifest, options: LoadOptions, memory: Path) -> Choice:
    """The arithmetic to try first: the requested one, the remembered one, or the faster one."""
    first, *others = arithmetics(manifest.engine, options.precision)
    rounding = read_probes(path).rounding
    if (first != "f32" or others) and rounding > BF16_MAX:
        why = CHOOSES if rounding >= UNBOUNDED else f"rounding to bf16 changes a score by {rounding:.2f}"
        return Choice("f32", why if options.precision == "bf16" else "")
    if not others:
        return Choice(first)
    match remembered(memory):
        case {"arithmetic": ("f32" | "bf16") as arithmetic, "reason": reason}:
            return Choice(arithmetic, str(reason), remember=True)
    return _measured(path, manifest, options)


def _measured(path: Path, manifest: Manifest, options: LoadOptions) -> Choice:
    phase("measuring whether bf16 is faster")
    layout = layouts(manifest, options.layout)[0]
    best: dict[Arithmetic, float] = {}
    lasting = True
    classifier = None
    try:
        for arithmetic in _ARITHMETICS:  # one after the other, since each holds the weights
            if classifier is not None:
                classifier.close()
            classifier = open_verified(
                path, manifest, arithmetic=arithmetic, layout=layout, threads=options.threads
            )
            best[arithmetic], steady = best_time(classifier, classifier.probes)
            lasting = lasting and steady
    except EngineUnavailable:
        raise
    except Exception as error:  # an engine may raise anything, and f32 may still pass its proof
        if classifier is not None:
            classifier.close()
        return Choice("f32", f"{manifest.weights} weights in bf16: {_reason(error)}")
    share = best["bf16"] / best["f32"]
    lasting = lasting or not _NEAR_WORTH_IT[0] < share < _NEAR_WORTH_IT[1]
    if share < _WORTH_IT:
        return Choice("bf16", remember=lasting, opened=classifier)
    assert classifier is not None
    classifier.close()
    return Choice("f32", remember=lasting)


def best_time(classifier: Classifier, probes: Probes) -> tuple[float, bool]:
    """The best time of a classifier on the same long and short batches, in seconds of processor time.

    Also whether it came near its best time twice: on a busy machine that takes longer, or never happens.
    """
    short = [tokens for tokens in probes.tokens if len(tokens) <= EVERY]
    longest_first = short[::-1]
    full = in_groups(map(len, longest_first), classifier.info.full_tokens // _TIMED_SHARE)[0]
    batches = [[longest_first[at] for at in full], [short[len(short) // 3]]]
    seconds: list[float] = []
    steady = False
    while not steady and len(seconds) < _MAX_ROUNDS:
        seconds.append(_seconds(classifier, batches))
        best, *others = sorted(seconds)
        steady = len(others) >= _ROUNDS and others[0] <= _NEAR * best
    return min(seconds), steady


def _seconds(classifier: Classifier, batches: list[list[Tokens]]) -> float:
    # Time of the processor hardly changes with other processes, but a card's is not part of it.
    clock = time.perf_counter if classifier.info.device else time.process_time
    began = clock()
    for batch in batches:
        classifier.classify(batch)
    return clock() - began


def _memory(manifest: Manifest, options: LoadOptions) -> Path:
    """The file of the choice for this kind of processor or card, engine version and number of threads."""
    threads = options.threads or hardware.cores()
    card = re.sub(r"\W+", "_", hardware.card()) if manifest.engine == "torch" else ""
    kind = f"{card or hardware.processor()}-{version(manifest.engine)}-{threads}-{options.layout}"
    return options.artefact_dir / "choices" / f"{manifest.revision[:12]}-{manifest.engine}-{kind}.json"


class Proven:
    """Remembers a setting that has passed its whole proof here, so that later starts prove only a sample.

    What a proof finds depends on the artefact, the kind of processor, the engine's version, the threads, the
    arithmetic and the layout (docs/decisions/0803): all of them are in the name of the file. Nothing is
    remembered for a card, whose kind and driver the name lacks.
    """

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
            known = Verdict(**remembered(self._path))
            passed = isfinite(known.answers) and isfinite(known.batched) and known.reason == ""
        except TypeError:  # another version, or a damaged file
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
