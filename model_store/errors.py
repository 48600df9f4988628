"""What can go wrong with a model. Every message is one sentence for the person who started the program."""

from __future__ import annotations


class ModelError(Exception):
    """Base of every error of this package."""


class ModelNotFound(ModelError):
    """The reference leads to no model here."""


class ModelCorrupt(ModelError):
    """A file is missing, or its bytes are not those that were recorded."""


class ModelUnsupported(ModelError):
    """The files are there, but they are not a checkpoint this program runs."""


class EngineUnavailable(ModelError):
    """The engine or the precision asked for cannot be had here."""


class GateFailed(ModelError):
    """The built model disagrees too much with the checkpoint it was built from."""


class Unproven(ModelError):
    """No setting of engine, arithmetic and layout answers here as the model should."""


class PullFailed(ModelError):
    """The hub could not deliver what was asked for."""
