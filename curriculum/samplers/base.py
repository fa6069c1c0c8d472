"""The interface of a sampler.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from curriculum.difficulty.base import DifficultyEstimator
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.schedulers.scheduled import Scheduled


class Sampler(Scheduled, ABC):
    """Draws masks from the difficulty of the patches.

    A sampler of one's own implements `keys`, and `needs_scores` where it can do without scores.

    Attributes:
        reversible: whether negated scores mean the opposite difficulty, as `Curriculum.polarity` needs.
        alpha_is_share: whether alpha is the share of the masked patches that follow the scores, the others being
            uniform. Where it is not, alpha controls the masks otherwise.
    """

    reversible: bool = True
    alpha_is_share: bool = False

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        """Say whether the keys depend on the difficulty at this alpha; where not, the teacher is not run."""
        return True

    @property
    def ever_needs_scores(self) -> bool:
        """Whether the keys depend on the difficulty at some alpha; where not, the difficulty decides nothing."""
        return self.needs_scores(1.0, 1)

    def check(self, num_patches: int, num_masked: int) -> None:
        """Find out before training whether M of L patches can be masked as the settings say.

        Raises:
            ValueError: where they cannot.
        """

    def check_grid(self, grid: tuple[int, int], num_masked: int) -> None:
        """Find out the same where the grid of the patches is known, its rows and columns; by default by `check`.

        Raises:
            ValueError: where M of the patches cannot be masked as the settings say.
        """
        self.check(grid[0] * grid[1], num_masked)

    def check_difficulty(self, difficulty: DifficultyEstimator) -> None:
        """Find out before training whether this sampler can use the scores of a difficulty estimator.

        Raises:
            ValueError: if it cannot; by default where the scores are the numbers of parts, which have no order. A
                sampler that takes such numbers overrides this.
        """
        if difficulty.num_parts is not None and self.ever_needs_scores:
            raise ValueError(
                f"{type(self).__name__} masks what is hard, and the scores of {type(difficulty).__name__} are the "
                "numbers of parts; choose another difficulty, or Curriculum.sampler = @Quotas()"
            )

    def check_masks_per_image(self, masks_per_image: int) -> None:
        """Find out before training whether so many masks can be drawn for each image, in rows one after the other.

        Raises:
            ValueError: if they cannot; by default they are drawn as those of different images are.
        """

    @abstractmethod
    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        """Give each patch a key; the `num_masked` patches of an image with the largest keys are masked.

        Args:
            scores_NL: difficulty, higher = harder, NaN = not scored; None where `needs_scores` said no.
            alpha: how much of the mask follows the difficulty, in [0, 1].
            num_masked: M.
            grid: rows and columns of patches; L is their product.
            noise: this batch's randomness; its rows are the N images. Further draws beside the keys fold a `Stream`
                of their own into it.

        Returns:
            [N, L], any type that sorts, on the device of `noise`.
        """

    def __call__(
        self,
        scores_NL: Tensor | None,
        *,
        alpha: float,
        num_masked: int,
        grid: tuple[int, int],
        noise: Noise,
        num_thrown: int = 0,
    ) -> Mask:
        """Draw a mask; see `keys`. The `num_thrown` patches with the next largest keys are thrown away."""
        keys_NL = self.keys(scores_NL, alpha=alpha, num_masked=num_masked, grid=grid, noise=noise)
        return Mask.from_keys(keys_NL, num_masked, num_thrown)


def count_hard(alpha: float, num_masked: int) -> int:
    """Return `int(M * alpha)`, the number of masked patches that follow the difficulty (HPM)."""
    return int(num_masked * alpha)
