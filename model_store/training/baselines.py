"""What to compare a model with: a bag of words, and linear heads on shares of the rows."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from model_store.figures import choose, right_texts
from model_store.training.data import encode
from model_store.training.head import Head, fit, fit_best, targets_of
from model_store.training.learn import features
from model_store.training.table import LabelledRow

# Rows that the comparisons use at most, so that they take seconds.
_MAX_TRAIN, _MAX_TEST = 2000, 1000
_WORDS = 1024
# The penalty of the heads of the learning curve.
_PENALTY = 0.03
_SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)


class Baselines:
    """Comparisons on the same rows as a run, or on a random sample of them."""

    def __init__(
        self,
        train: Sequence[LabelledRow],
        test: Sequence[LabelledRow],
        labels: Sequence[str],
        *,
        several: bool,
    ) -> None:
        rng = Random(1)
        self._train = rng.sample(list(train), min(len(train), _MAX_TRAIN))
        self._test = rng.sample(list(test), min(len(test), _MAX_TEST))
        self._targets, self._expected = (
            targets_of([row.labels for row in rows], labels) for rows in (self._train, self._test)
        )
        self._several = several

    def bag_of_words(self) -> float:
        """Accuracy of logistic regression on tf-idf of the commonest words."""
        words = [_words(row.text) for row in self._train]
        documents = Counter(word for of_row in words for word in set(of_row))
        index = {word: number for number, (word, _) in enumerate(documents.most_common(_WORDS))}
        rarity = torch.tensor([len(words) / documents[word] for word in index]).log() + 1
        known = _counts(words, index) * rarity
        unknown = _counts([_words(row.text) for row in self._test], index) * rarity
        several = self._several
        head, _ = fit_best(_unit(known), self._targets, multi_label=several, seed=1)
        return self._accuracy(head, _unit(unknown))

    def learning_curve(self, network: Any, tokenizer: Any, max_tokens: int) -> list[tuple[int, float]]:
        """Rows, and accuracy of a linear head on the network's features of so many rows."""
        found = [
            features(network, list(encode(tokenizer, [row.text for row in rows], max_tokens)))
            for rows in (self._train, self._test)
        ]
        counts = sorted({int(len(self._train) * share) for share in _SHARES})
        enough = [count for count in counts if bool((self._targets[:count].sum(dim=0) > 0).all())]
        heads = (
            fit(found[0][:count], self._targets[:count], _PENALTY, multi_label=self._several)
            for count in enough
        )
        return [(count, self._accuracy(head, found[1])) for count, head in zip(enough, heads, strict=True)]

    def _accuracy(self, head: Head, test: Tensor) -> float:
        logits = head(test)
        chosen = choose(logits, [0.0] * logits.shape[1] if self._several else None)
        return float(right_texts(chosen, self._expected.numpy() > 0).mean())


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _counts(texts: Sequence[Sequence[str]], index: dict[str, int]) -> Tensor:
    counts = torch.zeros(len(texts), len(index))
    for row, words in enumerate(texts):
        for word in words:
            if word in index:
                counts[row, index[word]] += 1
    return counts.log1p()


def _unit(rows: Tensor) -> Tensor:
    """Rows of mean square 1 per feature that the penalties of the head are meant for."""
    lengths: Tensor = rows.norm(dim=1, keepdim=True).clamp(min=1e-9)
    return rows / lengths * math.sqrt(rows.shape[1])
