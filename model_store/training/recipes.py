"""What a run does with a given amount of data, as plain options. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Name = Literal["linear", "contrastive", "full"]
NAMES: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True, slots=True)
class Options:
    """The hyperparameters of a run; those of the loop are unused by `linear`."""

    recipe: Name
    seed: int = 1
    epochs: int = 0
    batch_rows: int = 32
    batch_tokens: int = 4096
    max_tokens: int = 256
    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    average_decay: float = 0.99
    label_smoothing: float = 0.05
    patience: int = 2


def choose(rows: int, labels: int) -> Name:
    """The recipe for this many training rows: by their number per label."""
    return "linear" if rows < 5 * labels else "contrastive" if rows < 50 * labels else "full"


def options(recipe: Name, rows: int, *, seed: int, max_tokens: int) -> Options:
    """The hyperparameters of a recipe for this many rows."""
    if recipe == "linear":
        return Options(recipe, seed=seed, max_tokens=max_tokens)
    if recipe == "contrastive":
        # Enough batches to meet most pairs of a small set, and at most 600.
        batches = max(1, rows // 32)
        return Options(
            recipe,
            seed=seed,
            epochs=max(1, min(20, 600 // batches)),
            max_tokens=max_tokens,
            learning_rate=5e-5,
            average_decay=0.0,
        )
    # Early stop ends most runs before the last epoch.
    epochs = 3 if rows > 8000 else 5 if rows > 2000 else 8
    return Options(recipe, seed=seed, epochs=epochs, max_tokens=max_tokens)
