"""Token ids in batches of similar length, padded to tensors. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_store.figures import Scores

# Token ids and the target of each row; what a target is, is up to the loss.
Batch = list[tuple[Sequence[int], Any]]


def pad(ids: Sequence[Sequence[int]], padding: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, each of shape (rows, longest)."""
    width = max(map(len, ids))
    padded = torch.tensor([[*row, *[padding] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return padded, mask


def bucket(rows: Batch, *, most_rows: int, most_tokens: int, rng: Random) -> list[Batch]:
    """Divide rows into batches of similar length, in random order; `most_tokens` counts padding."""
    ordered = sorted(rows, key=lambda row: (len(row[0]), rng.random()))
    batches: list[Batch] = [[]]
    for row in ordered:
        if len(batches[-1]) >= min(most_rows, max(1, most_tokens // len(row[0]))):
            batches.append([])
        batches[-1].append(row)
    rng.shuffle(batches)
    return batches


@torch.no_grad()
def predict(model: Any, ids: Sequence[Sequence[int]], *, rows: int = 32) -> Scores:
    """Logits of shape (texts, labels), in the order of `ids`."""
    model.eval()
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    logits = torch.zeros(len(ids), model.config.num_labels)
    for first in range(0, len(order), rows):
        chosen = order[first : first + rows]
        padded, mask = pad([ids[number] for number in chosen], model.config.pad_token_id or 0)
        logits[chosen] = model(input_ids=padded, attention_mask=mask).logits.float()
    return np.asarray(logits.numpy(), dtype=np.float64)
