"""Where a run writes: a hidden directory beside the target, which takes the target's name at the end.

    NAME            the model: always complete
    .NAME.part      the run, which a repeated command continues
    .NAME.lock      held by the run, which the kernel releases if its process dies
    .NAME.replaced  the earlier model, for the moment between two renames

Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

from model_store.checkpoint import CONFIG
from model_store.errors import BadTraining


class Destination:
    """The directory `out` of one run; with `replace`, the model there is replaced at the end."""

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
