"""Bandit: a scheduler that finds out under which value the learner makes most progress."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from curriculum.noise import hash_words
from curriculum.schedulers.base import Feedback, Scheduler
from curriculum.streams import Stream
from curriculum.validation import require_in

_LOW, _HIGH = 0.2, 0.8  # quantiles of the progress so far that are worth -1 and 1
_REMEMBERED = 1000  # intervals whose progress decides the quantiles


class Bandit(Scheduler):
    """Plays one of several values in each interval by Exp3.S, whose reward is how far a metric fell meanwhile.

    After Graves et al. 2017 (arXiv 1704.03003), whose learning progress is the fall of the loss of one task's sample by
    a step that was trained on it. Here it is the metric's fall over an interval. The default metric is the loss of
    fixed images under fixed random masks, which do not depend on the value that is played: the loss of training would
    reward whatever makes the masks easier. The value is a hash of (seed, interval): a resumed run plays the same. An
    evaluation after an interval's end asks for the value that the next one would play.

    Args:
        values: the values to choose from, at least two. Default (0, 0.25, 0.5).
        metric: name of the metric in the feedback, which falls as the learner improves. Default "probe_loss".
        eta: step size of the weights, positive. About sqrt(2 log(K) / (K T)) suits T intervals and K values. Default
            0.2, for tens to hundreds of intervals; published: 1e-3, for 1e5.
        beta: what is added to every reward before it is divided by its probability, at least 0. Default 0.
        epsilon: share of uniform exploration, in (0, 1]. Default 0.05.
        seed: the seed of the choices. Default 0.
    """

    def __init__(
        self,
        *,
        values: Sequence[float] = (0.0, 0.25, 0.5),
        metric: str = "probe_loss",
        eta: float = 0.2,
        beta: float = 0.0,
        epsilon: float = 0.05,
        seed: int = 0,
    ) -> None:
        if len(values) < 2:
            raise ValueError(f"Bandit.values = {values!r} must hold at least two values to choose from")
        require_in("Bandit", "(0, 1000]", eta=eta)
        require_in("Bandit", "[0, 1000]", beta=beta)
        require_in("Bandit", "(0, 1]", epsilon=epsilon)
        self.values = tuple(map(float, values))
        self.metric = metric
        self.watches = (metric,)
        self.eta = float(eta)
        self.beta = float(beta)
        self.epsilon = float(epsilon)
        self.seed = seed
        self._weights = [0.0] * len(self.values)
        self._interval = 0
        self._last: float | None = None
        self._progress: list[float] = []

    def __call__(self, progress: float) -> float:
        return self.values[self._arm()]

    def reaches(self) -> list[tuple[str, float]]:
        return [("Bandit.values", min(self.values)), ("Bandit.values", max(self.values))]

    def probabilities(self) -> list[float]:
        """Return each value's probability in this interval: `(1 - epsilon) softmax(weights) + epsilon / number`."""
        top, count = max(self._weights), len(self._weights)
        powers = [math.exp(weight - top) for weight in self._weights]
        return [(1 - self.epsilon) * power / sum(powers) + self.epsilon / count for power in powers]

    def _arm(self) -> int:
        place = hash_words(self.seed, Stream.BANDIT, self._interval) / 2**64
        summed = 0.0
        for arm, probability in enumerate(self.probabilities()):
            summed += probability
            if place < summed:
                return arm
        return len(self.values) - 1

    def observe(self, feedback: Feedback) -> None:
        if self.metric not in feedback:
            raise ValueError(f"Bandit.metric = {self.metric!r} is not measured; choose one of {sorted(feedback)}")
        value = feedback[self.metric]
        if not math.isfinite(value):
            return
        if self._last is not None:
            self._learn(self._last - value)
        self._last = value
        self._interval += 1

    def _learn(self, progress: float) -> None:
        """Update the weights by the current interval's reward, as Exp3.S does."""
        self._progress = [*self._progress[1 - _REMEMBERED :], progress]
        reward = self._scaled(progress)
        arm = self._arm()
        share = 1 / (self._interval + 1)
        count, probabilities = len(self.values), self.probabilities()
        gains = [
            weight + self.eta * ((reward if number == arm else 0.0) + self.beta) / probabilities[number]
            for number, weight in enumerate(self._weights)
        ]
        top = max(gains)
        powers = [math.exp(gain - top) for gain in gains]
        self._weights = [
            top + math.log((1 - share) * power + share / (count - 1) * (sum(powers) - power)) for power in powers
        ]

    def _scaled(self, progress: float) -> float:
        """Scale progress into [-1, 1] by the 20 and 80 % quantiles of the progress so far."""
        known = sorted(self._progress)
        low, high = (_quantile(known, share) for share in (_LOW, _HIGH))
        if high <= low:
            return 0.0
        return min(1.0, max(-1.0, 2 * (progress - low) / (high - low) - 1))

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": list(self._weights),
            "interval": self._interval,
            "last": self._last,
            "progress": list(self._progress),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if len(state["weights"]) != len(self.values):
            raise ValueError(f"Bandit.values are {len(self.values)}, and were {len(state['weights'])}")
        self._weights = list(state["weights"])
        self._progress = list(state["progress"])
        self._interval = state["interval"]
        self._last = state["last"]


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Return a quantile, interpolated linearly between neighbors."""
    place = share * (len(ascending) - 1)
    below = int(place)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (place - below) * (ascending[above] - ascending[below])
