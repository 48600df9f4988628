"""One training run from files to a served checkpoint. Repeating an interrupted one continues it.

Everything is written to a hidden directory beside the target, which gets its name at the end: a directory
with the target's name is always complete.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

import numpy as np

from model_store.checkpoint import CONFIG
from model_store.errors import BadTraining
from model_store.figures import (
    Chosen,
    Scores,
    choose,
    figures,
    fit_temperature,
    fit_thresholds,
    label_matrix,
    right_texts,
)
from model_store.model_card import CARD
from model_store.rows import sigmoid, softmax
from model_store.training.data import Data, Order, encode, read_data
from model_store.training.recipes import Options, options
from model_store.training.report import Mistake, Result, card, page

Say = Callable[[str], None]
_MAX_MISTAKES, _MAX_TEXT = 30, 400


def train(order: Order, say: Say) -> Result:
    """Train a classifier into `order.out`. Raises ModelError, in one sentence."""
    destination = Destination(order.out, replace=order.replace)
    with destination.held():
        return _train(order, destination, say)


def _train(order: Order, destination: Destination, say: Say) -> Result:
    began, used = time.monotonic(), time.process_time()
    # Waiting threads of OpenMP spin by default, which makes training many times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch

    from model_store.hardware import cores
    from model_store.training.base import find_base, load_tokenizer, max_tokens
    from model_store.training.learn import CHECKPOINT

    torch.set_num_threads(order.threads or cores())
    base = find_base(order.base)
    tokenizer, limit = load_tokenizer(base), max_tokens(base)
    data = read_data(order.source, tokenizer, limit, order.recipe)
    for line in data.survey.lines():
        say(line)
    chosen = options(data.recipe, len(data.train), seed=order.source.seed, max_tokens=limit)
    counts = f"{len(data.train):,} rows; {len(data.test):,} others are the test"
    say(f"recipe               {data.recipe}, on {counts}")
    destination.clear(CHECKPOINT)
    found = _Run(order, base, tokenizer, data, chosen)
    result = found.carry_out(
        destination.work, say, lambda: (time.monotonic() - began, time.process_time() - used)
    )
    destination.publish()
    return result


class _Run:
    def __init__(self, order: Order, base: Path, tokenizer: Any, data: Data, chosen: Options) -> None:
        self._order, self._base, self._tokenizer = order, base, tokenizer
        self._data, self._options = data, chosen
        self._several = data.survey.multi_label

    def carry_out(self, work: Path, say: Say, clock: Callable[[], tuple[float, float]]) -> Result:
        """Train, calibrate, test, and write everything to `work`."""
        from model_store.training.baselines import Baselines
        from model_store.training.learn import CHECKPOINT, Learner, writing
        from model_store.training.loop import predict

        data, limit = self._data, self._options.max_tokens
        learner = Learner(self._base, self._tokenizer, data, self._options)
        baselines = Baselines(data.train, data.test, data.labels, several=self._several)
        curve = baselines.learning_curve(learner.network, self._tokenizer, limit)
        learned = learner.learn(work, say, checkpoint_s=self._order.checkpoint_s)
        network = learned.network.half().float()  # as it is stored
        temperature, thresholds = self._calibrate(learned.logits, learned.expected)
        ids = list(encode(self._tokenizer, [row.text for row in data.test], limit))
        logits = predict(network, ids)
        scores = (sigmoid if self._several else softmax)(logits, temperature)
        expected = label_matrix([row.labels for row in data.test], data.labels)
        seconds, processor_seconds = clock()
        result = Result(
            name=self._order.out.name,
            base=self._order.base,
            options=self._options,
            survey=data.survey,
            rows={name: len(getattr(data, name)) for name in ("train", "tune", "test")},
            temperature=temperature,
            thresholds=tuple(thresholds) if thresholds else None,
            figures=figures(data.labels, scores, expected, thresholds),
            bag_of_words=baselines.bag_of_words(),
            learning_curve=curve,
            history=learned.history,
            mistakes=_mistakes(data, scores, expected, thresholds),
            seconds=seconds,
            processor_seconds=processor_seconds,
        )
        with writing(work):
            self._write(work, network, result, scores)
        (work / CHECKPOINT).unlink(missing_ok=True)
        return result

    def _calibrate(self, logits: Scores, expected: Chosen) -> tuple[float, list[float] | None]:
        if not self._several:
            return fit_temperature(logits, expected.argmax(axis=1)), None
        temperature = fit_temperature(logits, expected)
        return temperature, fit_thresholds(sigmoid(logits, temperature), expected)

    def _write(self, work: Path, network: Any, result: Result, scores: Scores) -> None:
        from model_store.convert import export

        # First the weights, whose error is the clearest one if the disk is full.
        export(network, work, work, temperature=result.temperature, thresholds=result.thresholds or None)
        self._tokenizer.save_pretrained(work)
        (work / CARD).write_text(card(result), "utf-8")
        (work / "report.html").write_text(page(result, serve_command(self._order.out)), "utf-8")
        (work / "metrics.json").write_text(json.dumps(result.as_dict(), indent=2) + "\n", "utf-8")
        _write_reference(work, self._data, scores, self._options.max_tokens)


def serve_command(out: Path) -> str:
    """The command that serves the checkpoint."""
    return f"millrace up --model {out}"


def _mistakes(
    data: Data, scores: Scores, expected: Chosen, thresholds: list[float] | None
) -> tuple[Mistake, ...]:
    """The wrong predictions with the highest scores against the text's labels."""
    chosen = choose(scores, thresholds)
    wrong = np.flatnonzero(~right_texts(chosen, expected))
    # How sure the model is of what is wrong: a chosen label that the text lacks, or a missed one.
    sure = np.where(expected, 1 - scores, scores)[wrong]
    doubt = np.where(chosen[wrong] != expected[wrong], sure, 0.0).max(axis=1, initial=0.0)
    return tuple(
        Mistake(
            text=data.test[wrong[number]].text[:_MAX_TEXT],
            expected=data.test[wrong[number]].labels,
            predicted=tuple(np.array(data.labels, dtype=object)[chosen[wrong[number]]]),
            score=float(doubt[number]),
        )
        for number in np.argsort(-doubt)[:_MAX_MISTAKES]
    )


def _write_reference(work: Path, data: Data, scores: Scores, limit: int) -> None:
    """The distribution of the test texts, against which a worker compares its traffic, if they are enough."""
    from model_store.artefact import identity
    from model_store.checkpoint import read_checkpoint
    from model_store.drift_reference import MIN_TEXTS, build_reference, measure
    from model_store.measuring import write_reference
    from model_store.rows import Tokenizer

    if len(scores) < MIN_TEXTS:
        return
    tokens = Tokenizer(work / "tokenizer.json", limit)([row.text for row in data.test])
    measured = [
        measure(of_text, list(map(float, row)), multi_label=data.survey.multi_label)
        for of_text, row in zip(tokens, scores, strict=True)
    ]
    named = identity(read_checkpoint(work).files())
    write_reference(build_reference(named, len(data.labels), measured), work)


class Destination:
    """The directory `out` of one run; with `replace`, the model there is replaced at the end.

    A run writes to a hidden directory beside it, which takes its name at the end:

        NAME            the model: always complete
        .NAME.part      the run, which a repeated command continues
        .NAME.lock      held by the run, which the kernel releases if its process dies
        .NAME.replaced  the earlier model, for the moment between two renames
    """

    def __init__(self, out: Path, *, replace: bool) -> None:
        self.out, self._replace = out, replace
        self.work = out.parent / f".{out.name}.part"
        self._replaced = out.parent / f".{out.name}.replaced"
        self._lock = out.parent / f".{out.name}.lock"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other runs away. Raises BadTraining if there is one, or if the model could not be written."""
        try:
            lock = self._begin()
        except OSError as error:
            raise BadTraining(f"{self.out} cannot be written: {error.strerror}.") from error
        with lock:
            try:
                self._settle()
                self._check()
                yield
            finally:
                self._lock.unlink(missing_ok=True)

    def clear(self, *kept: str) -> None:
        """Removes what another run has left in the working directory, except the files `kept`."""
        self.work.mkdir(exist_ok=True)
        for path in self.work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in kept:
                path.unlink()

    def publish(self) -> None:
        """Gives the finished model its name. If it is interrupted, the next run has one of both models."""
        if self._replace and os.path.lexists(self.out):
            self._check()
            self.out.rename(self._replaced)
        try:
            self.work.rename(self.out)
        except OSError as error:
            raise BadTraining(
                f"{self.out} cannot be written: {error.strerror}; the model is in {self.work}."
            ) from error
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _begin(self) -> TextIO:
        """The lock, once it is sure that the model can be written."""
        self._check()
        if not os.path.exists(self.out.parent):
            self.out.parent.mkdir(parents=True, exist_ok=True)
        lock = self._locked()
        try:
            self._try()
        except OSError:
            self._lock.unlink(missing_ok=True)
            lock.close()
            raise
        return lock

    def _locked(self) -> TextIO:
        """The lock file. It is removed at the end of a run, so the locked one may no longer be there."""
        while True:
            lock = self._lock.open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._lock.exists() and os.path.samestat(os.fstat(lock.fileno()), self._lock.stat()):
                    return lock
            except BlockingIOError:
                lock.close()
                raise BadTraining(
                    f"Another run is training {self.out}: wait until it ends, or choose another directory "
                    "with -o."
                ) from None
            lock.close()

    def _settle(self) -> None:
        """Ends or takes back a replacement that was interrupted."""
        if not os.path.lexists(self.out) and (self._replaced / CONFIG).is_file():
            self._replaced.rename(self.out)
        elif self._replaced.exists():
            shutil.rmtree(self._replaced)

    def _check(self) -> None:
        """Raises BadTraining if the target must not be replaced."""
        try:
            str(self.out).encode()
        except UnicodeEncodeError:
            raise BadTraining(f"{str(self.out)!a} is not UTF-8: choose another directory with -o.") from None
        if os.path.islink(self.out):
            raise BadTraining(
                f"{self.out} is a link, so no directory can replace it: give its target with -o."
            )
        if os.path.exists(self.out) and not self._replace:  # that of Path may raise OSError
            raise BadTraining(f"{self.out} exists: choose another directory with -o, or add --replace.")
        if os.path.exists(self.out) and not (self.out / CONFIG).is_file():
            raise BadTraining(f"{self.out} is not a checkpoint, so it is not replaced.")

    def _try(self) -> None:
        """Raises OSError if nothing can be written to the working directory."""
        new = not os.path.exists(self.work)
        self.work.mkdir(exist_ok=True)
        TemporaryFile(dir=self.work).close()
        if new:
            self.work.rmdir()
