"""What the difficulty of a curriculum may turn out to be, where that follows what is learned."""

from __future__ import annotations

import copy
import itertools

from curriculum import DifficultyEstimator, Scheduler, Switched
from curriculum.difficulty.combined import Combination


def choices(difficulty: DifficultyEstimator) -> list[DifficultyEstimator]:
    """What a difficulty may turn out to be: each estimator in the place of a `Switched` that follows what is learned.

    Args:
        difficulty: a curriculum's.
    """
    if (
        isinstance(difficulty, Switched)
        and isinstance(difficulty.scheduler, Scheduler)
        and difficulty.scheduler.watches
    ):
        return [choice for estimator in difficulty.estimators for choice in choices(estimator)]
    if not isinstance(difficulty, Combination):
        return [difficulty]
    made: list[DifficultyEstimator] = []
    for estimators in itertools.product(*map(choices, difficulty.estimators)):
        one = copy.copy(difficulty)
        one.estimators = estimators
        made.append(one)
    return made
