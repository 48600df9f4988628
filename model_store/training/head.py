"""A linear head on frozen features: logistic regression, its penalty chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_store.figures import Scores, label_matrix

# Strengths of the penalty that cross-validation compares, for features of mean square 1.
_PENALTIES = (0.1, 0.01, 0.001)
_FOLDS = 3
# More rows than this are not needed to choose a penalty.
_MAX_TO_CHOOSE = 1000
_MAX_STEPS = 60


@dataclass(frozen=True, slots=True)
class Head:
    """Weights (labels, features) and biases (labels)."""

    weights: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Scores:
        """Logits (texts, labels) of features (texts, features)."""
        return np.asarray((features @ self.weights.T + self.bias).numpy(), dtype=np.float64)


def fit(features: Tensor, targets: Tensor, penalty: float, *, multi_label: bool) -> Head:
    """Logistic regression of targets (texts, labels) in [0, 1] on features (texts, features), by L-BFGS."""
    labels, size = targets.shape[1], features.shape[1]
    weights = torch.zeros(labels, size, requires_grad=True)
    bias = torch.zeros(labels, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weights, bias], max_iter=_MAX_STEPS, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(features @ weights.T + bias, targets, multi_label=multi_label)
        value = value + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    optimiser.step(closure)
    return Head(weights.detach(), bias.detach())


def loss(logits: Tensor, targets: Tensor, *, multi_label: bool) -> Tensor:
    """Cross-entropy against soft targets; with several labels a text, the sum over the labels."""
    if multi_label:
        each = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return each.sum(dim=1).mean()
    return torch.nn.functional.cross_entropy(logits, targets)


def fit_best(
    features: Tensor, targets: Tensor, *, multi_label: bool, seed: int
) -> tuple[Head, tuple[Scores, Tensor]]:
    """The head with the penalty of the least cross-validated loss.

    Also returns logits by heads that have not seen the row, and the numbers of these rows, at most 1,000.
    """
    order = list(range(len(features)))
    Random(seed).shuffle(order)
    chosen = torch.tensor(order[:_MAX_TO_CHOOSE])
    some, wanted = features[chosen], targets[chosen]
    unseen = [_unseen(some, wanted, penalty, multi_label=multi_label) for penalty in _PENALTIES]
    losses = [float(loss(logits, wanted, multi_label=multi_label)) for logits in unseen]
    best = int(np.argmin(losses))
    head = fit(features, targets, _PENALTIES[best], multi_label=multi_label)
    return head, (np.asarray(unseen[best].numpy(), dtype=np.float64), chosen)


def _unseen(features: Tensor, targets: Tensor, penalty: float, *, multi_label: bool) -> Tensor:
    """Logits of each row by a head fitted on the other folds."""
    logits = torch.zeros_like(targets)
    fold = torch.arange(len(features)) % min(_FOLDS, len(features))
    for number in range(int(fold.max()) + 1):
        out = fold == number
        head = fit(features[~out], targets[~out], penalty, multi_label=multi_label)
        logits[out] = features[out] @ head.weights.T + head.bias
    return logits


@torch.no_grad()
def put(head: Head, network: Any) -> None:
    """Make the network's head compute exactly `head`, though a ReLU lies between its two layers.

    The head's factors are computed twice, once with the opposite sign: relu(z) - relu(-z) = z. With more than
    half as many labels as features, the weights are first reduced to that rank.
    """
    size = network.config.dim
    left, right = torch.eye(len(head.weights)), head.weights
    if 2 * len(right) > size:
        u, s, v = torch.linalg.svd(head.weights, full_matrices=False)
        left, right = u[:, : size // 2] * s[: size // 2], v[: size // 2]
    rank = len(right)
    first, second = network.pre_classifier, network.classifier
    first.weight[: 2 * rank] = torch.cat((right, -right))
    first.bias.zero_()
    second.weight.zero_()
    second.weight[:, : 2 * rank] = torch.cat((left, -left), dim=1)
    second.bias.copy_(head.bias)


def targets_of(labels: Sequence[Sequence[str]], names: Sequence[str]) -> Tensor:
    """Targets (texts, labels): 1 where a text has the label."""
    return torch.from_numpy(label_matrix(labels, names)).float()
