"""What a setting answers, alone and batched, in a process that is limited to one instruction set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.texts import texts
from model_store import Classifier, Tokens, load
from model_store.rows import share_out
from tests.forkserver import CONTEXT

BATCH_TOKENS = 512
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is asked of `load`. Only every `step`-th text is measured: some settings are slow."""

    engine: str
    precision: str
    layout: str
    threads: int
    step: int = 1


@dataclass(frozen=True, slots=True)
class Answers:
    """What a setting answered: scores of each text alone, the same texts in batches, and what really ran."""

    setting: Setting
    alone: Scores
    batched: Scores
    tolerance: float
    ran: str
    capability: str
    openvino: tuple[str, ...]

    @property
    def difference(self) -> float:
        """The largest change of a score by the batch that a text was in."""
        return float(np.abs(self.alone - self.batched).max())

    def error(self, reference: Scores) -> float:
        """The largest distance of a score from the reference, alone or batched."""
        return float(max(np.abs(self.alone - reference).max(), np.abs(self.batched - reference).max()))

    def agreement(self, reference: Scores) -> float:
        """The share of labels that are those of the reference, alone and batched."""
        labels = reference.argmax(axis=1)
        return float(np.mean([(one.argmax(axis=1) == labels).mean() for one in (self.alone, self.batched)]))

    def flips(self, reference: Scores, margin: float) -> int:
        """How many labels are not the reference's where its best two are further apart than `margin`."""
        best = np.sort(reference, axis=1)
        clear = best[:, -1] - best[:, -2] > margin
        labels = reference.argmax(axis=1)
        return sum(int(((one.argmax(axis=1) != labels) & clear).sum()) for one in (self.alone, self.batched))


def probe_texts(lengths: Sequence[int]) -> list[str]:
    """One text of each number of words: rows of every length are what small batches are made of."""
    words = " ".join(texts(60, seed=9)).split()
    return [" ".join(words[start : start + length]) for start, length in enumerate(lengths)]


def scores(classifier: Classifier, tokens: Sequence[Tokens]) -> Scores:
    """The tokens of one batch."""
    return np.array(classifier.classify(tokens))


def in_batches(classifier: Classifier, tokens: Sequence[Tokens]) -> Scores:
    """The same texts in batches of BATCH_TOKENS, as a worker lays them out."""
    plan = share_out([len(one) for one in tokens], classifier.info.layout, BATCH_TOKENS)
    found: dict[int, Any] = {}
    for chosen in plan:
        found |= zip(chosen, scores(classifier, [tokens[index] for index in chosen]), strict=True)
    return np.array([found[index] for index in range(len(tokens))])


def answers(model: str, setting: Setting, asked: Sequence[str], artefact_dir: Path) -> Answers:
    """Loads the model, asks it, closes it."""
    import openvino
    import torch

    choice: dict[str, Any] = {
        "engine": setting.engine,
        "precision": setting.precision,
        "layout": setting.layout,
        "threads": setting.threads,
    }
    classifier = load(model, artefact_dir=artefact_dir, **choice)
    try:
        tokens = classifier.tokenize(asked[:: setting.step])
        info = classifier.info
        ran = f"{info.precision} in {info.arithmetic}, {info.layout}"
        return Answers(
            setting=setting,
            alone=np.concatenate([scores(classifier, [one]) for one in tokens]),
            batched=in_batches(classifier, tokens),
            tolerance=info.tolerance,
            ran=ran,
            capability=torch.backends.cpu.get_cpu_capability(),
            openvino=tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        )
    finally:
        classifier.close()


def _child(
    out: Connection,
    environment: Mapping[str, str],
    model: str,
    settings: Sequence[Setting],
    asked: Sequence[str],
    artefact_dir: Path,
) -> None:
    os.environ.update(environment)
    for setting in settings:
        try:
            out.send(answers(model, setting, asked, artefact_dir))
        except Exception as error:  # the parent decides what a failure means
            out.send(RuntimeError(f"{setting}: {type(error).__name__}: {error}"))
    out.close()


def measured(
    environment: Mapping[str, str],
    model: str,
    settings: Sequence[Setting],
    asked: Sequence[str],
    artefact_dir: Path,
) -> Iterator[Answers]:
    """The answers of each setting, all from one new process with `environment`. Raises what it met there."""
    reading, writing = CONTEXT.Pipe(duplex=False)
    arguments = (writing, dict(environment), model, list(settings), list(asked), artefact_dir)
    child = CONTEXT.Process(target=_child, args=arguments)
    child.start()
    writing.close()
    try:
        for setting in settings:
            try:
                answer = reading.recv()
            except EOFError:
                child.join()
                raise RuntimeError(f"{setting}: the process ended with {child.exitcode}") from None
            if isinstance(answer, Exception):
                raise answer
            yield answer
    finally:
        reading.close()
        child.join()
