"""Errors of this package. Every message is one sentence for the person who started the program."""

from __future__ import annotations

from pydantic import ValidationError

# The extra of millrace-server that installs an engine.
EXTRAS = {"openvino": "worker", "torch": "build"}
# Characters of a value in a message.
MAX_SHOWN = 100
MAX_CAUSE = 200


class ModelError(Exception):
    """Base of every error of this package."""


class ModelNotFound(ModelError):
    """The reference does not name a model on this machine."""


class ModelCorrupt(ModelError):
    """A file is missing, or differs from its recorded digest."""


class ModelUnsupported(ModelError):
    """The files exist, but they are not a supported checkpoint."""


class NotConverted(ModelUnsupported):
    """An engine has no counterpart of what the model computes; another engine may run it."""


class EngineUnavailable(ModelError):
    """The requested engine or precision is not available here."""


class GateFailed(ModelError):
    """The built model differs too much from its checkpoint."""


class NotComputed(ModelError):
    """The engine did not compute the scores of a batch."""


class Unproven(ModelError):
    """On this machine, no combination of engine, arithmetic and layout passes its proof."""


class PullFailed(ModelError):
    """The requested files could not be fetched from the hub."""


class BadTable(ModelError):
    """A file of labelled texts cannot be read."""


class BadTraining(ModelError):
    """The data, the base or the options do not allow a training run."""


class PushFailed(ModelError):
    """A checkpoint could not be uploaded to the hub."""


def wrong_value(file: object, key: str, value: object, must: str) -> ModelUnsupported:
    """The error for a value in a file, which says what it `must` be or do."""
    return ModelUnsupported(f"{file} has {key} {shown(value)}; it must {must}.")


def first_line(error: BaseException) -> str:
    """The first sentence of an error of a library, as far as it fits into one of ours."""
    first = next(filter(None, (line.strip(" -:.") for line in str(error).splitlines())), "")
    text = first.partition(". ")[0]
    cause = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return cause if len(cause) <= MAX_CAUSE else f"{cause[:MAX_CAUSE]}..."


def lacks_memory(error: Exception) -> bool:
    """Whether a card had too little free memory, of which another program may release some."""
    return "out of memory" in str(error)


def invalid(error: Exception) -> str:
    """What is wrong with the content of a file: the first value that is missing, or of the wrong kind."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"it has no {where}"
    return f"{where or 'it'} is {shown(first['input'])}: {first['msg']}"


def shown(value: object) -> str:
    """A value of a file as a message shows it: not more of it than fits into a sentence."""
    written = repr(value)
    return written if len(written) <= MAX_SHOWN else f"{written[:MAX_SHOWN]}..."
