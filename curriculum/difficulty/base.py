"""The interface of a difficulty estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from curriculum.batch import Batch
from curriculum.noise import Noise
from curriculum.teacher import Teacher


class DifficultyEstimator(ABC):
    """Scores every patch of every image, higher = harder.

    `needs` names the methods of `Teacher` it calls, so that an estimator that asks for what the teacher does not
    have is refused before training starts.
    """

    needs: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        """Score a batch.

        Args:
            batch: N images with L patches each, and where they come from.
            teacher: what may be asked about them; None only where `needs` is empty.
            num_masked: M, how many patches of each image will be masked.
            noise: this batch's randomness; an estimator's own stream of it.

        Returns:
            Float [N, L]. NaN means not scored: the patch is counted neither hard nor easy.
        """

    def check(self, num_patches: int, num_masked: int) -> None:  # noqa: B027 - optional
        """Find out before training whether L patches with M masked can be scored.

        Raises:
            ValueError: where they cannot.
        """
