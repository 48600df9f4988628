"""What Kubernetes and KEDA make of a ScaledObject: depth in, replicas out. The clock is passed in.

The rules are those of the HorizontalPodAutoscaler (autoscaling/v2) for an external metric with an average
value, which is what KEDA creates: tolerance, stabilisation windows, then the rates of the behaviour.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SCALED_OBJECT = Path(__file__).parents[1] / "k8s/components/keda/scaledobject.yaml"
# How often the controller looks, and which deviation it ignores. Not to be set on a managed cluster.
SYNC_S = 15.0
TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction of a `behavior`: its window, and each rate as (type, value, period in seconds)."""

    window_s: float
    rates: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """What a ScaledObject says. `target` is work per worker, in texts."""

    target: float
    least: int
    most: int
    up: Rules
    down: Rules


def read_policy(path: Path = SCALED_OBJECT) -> Policy:
    """The policy in the manifest: simulated is what is deployed."""
    spec = yaml.safe_load(path.read_text())["spec"]
    advanced = spec["advanced"]
    behaviour = advanced["horizontalPodAutoscalerConfig"]["behavior"]
    return Policy(
        target=float(advanced["scalingModifiers"]["target"]),
        least=spec["minReplicaCount"],
        most=spec["maxReplicaCount"],
        up=_rules(behaviour["scaleUp"]),
        down=_rules(behaviour["scaleDown"]),
    )


def _rules(direction: dict[str, Any]) -> Rules:
    assert direction["selectPolicy"] == "Max"
    rates = tuple(
        (rate["type"], rate["value"], float(rate["periodSeconds"])) for rate in direction["policies"]
    )
    return Rules(float(direction["stabilizationWindowSeconds"]), rates)


class Autoscaler:
    """Replicas over time. Call `look` every SYNC_S seconds."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.replicas = policy.least
        self._wishes: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def look(self, now: float, work: float) -> int:
        """The replicas wanted from `now` on, given the work (texts waiting and running) at this moment."""
        wish = self._stable(now, self._wish(work))
        if wish > self.replicas:
            wish = min(wish, self._most_upwards(now))
        elif wish < self.replicas:
            wish = max(wish, self._least_downwards(now))
        if wish != self.replicas:
            self._changes.append((now, wish - self.replicas))
            self.replicas = wish
        return wish

    def _wish(self, work: float) -> int:
        wish = self.replicas
        if abs(work / (self.policy.target * self.replicas) - 1.0) > TOLERANCE:
            wish = math.ceil(work / self.policy.target)
        return min(max(wish, self.policy.least), self.policy.most)

    def _stable(self, now: float, wish: int) -> int:
        """Up only to what was wished throughout the window upwards, down only likewise."""
        self._wishes.append((now, wish))
        longest = max(self.policy.up.window_s, self.policy.down.window_s)
        while now - self._wishes[0][0] > longest:
            self._wishes.popleft()
        up = min(w for at, w in self._wishes if now - at <= self.policy.up.window_s)
        down = max(w for at, w in self._wishes if now - at <= self.policy.down.window_s)
        return min(max(self.replicas, up), down)

    def _before(self, now: float, period_s: float, sign: int) -> int:
        """How many there were before the changes of one sign within the period."""
        return self.replicas - sum(
            change for at, change in self._changes if now - at < period_s and change * sign > 0
        )

    def _most_upwards(self, now: float) -> int:
        limits = []
        for kind, value, period_s in self.policy.up.rates:
            start = self._before(now, period_s, +1)
            limits.append(start + value if kind == "Pods" else math.ceil(start * (1 + value / 100)))
        return max(limits)

    def _least_downwards(self, now: float) -> int:
        limits = []
        for kind, value, period_s in self.policy.down.rates:
            start = self._before(now, period_s, -1)
            limits.append(start - value if kind == "Pods" else int(start * (1 - value / 100)))
        return min(limits)
