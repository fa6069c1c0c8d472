"""PartialReconstruction: which of the masked patches are reconstructed.

Shape suffixes: N images, L patches, H masked patches before some of them are left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.checks import POLARITIES, require_reversible
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.samplers import Random, Sampler
from curriculum.schedulers import Scalar, Scheduled, values_of
from curriculum.streams import Stream
from curriculum.validation import require_choice, require_instance


class PartialReconstruction(Scheduled):
    """Has some of the masked patches reconstructed, and the others not: CrossMAE's (Fu et al., arXiv 2401.14391).

    All masked patches are hidden from the encoder. A decoder that does not attend from one masked patch to another, as
    that of `CrossMAE`, costs as much less as fewer are reconstructed; in any other those that are not reconstructed
    are missing from its tokens.

    What is reconstructed has a curriculum of its own: a sampler draws it among the masked patches, from the scores
    of `Curriculum.difficulty`.

    Args:
        share: of the masked patches, `int(M * share)` are reconstructed; in (0, 1). Default 1/3: of 147 masked
            patches 49, as published for ViT-B and ViT-L; CAPI (arXiv 2502.08769): 0.05.
        sampler: draws them. Patches that are not masked have no score. Default `Random`, as published.
        alpha: how much of the choice follows the difficulty, in [0, 1], or a scheduler of it. `Random` ignores it.
            Default 1.
        polarity: "hardest", the default, prefers the patches with the highest difficulty, "easiest" the lowest.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(
        self,
        *,
        share: float = 1 / 3,
        sampler: Sampler | None = None,
        alpha: Scalar = 1.0,
        polarity: str = "hardest",
    ) -> None:
        if not 0.0 < share < 1.0:
            raise ValueError(
                f"PartialReconstruction.share = {share} must lie strictly between 0 and 1; to have every masked patch "
                "reconstructed, set Curriculum.reconstruction = None"
            )
        require_instance("PartialReconstruction", Sampler | None, sampler=sampler)
        require_choice("PartialReconstruction", POLARITIES, polarity=polarity)
        for value in values_of(alpha):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"PartialReconstruction.alpha = {value} must stay in [0, 1]")
        self.share = float(share)
        self.sampler = Random() if sampler is None else sampler
        self.alpha = alpha
        self.polarity = polarity
        require_reversible("PartialReconstruction", polarity, sampler=self.sampler)

    def count(self, num_masked: int) -> int:
        """Return how many of the masked patches are reconstructed."""
        return int(num_masked * self.share)

    def alpha_at(self, progress: float) -> float | None:
        """Return how much of the choice follows the difficulty; None where the sampler ignores it."""
        return self.at(progress)._alpha if self.sampler.ever_needs_scores else None

    def needs_scores(self, num_masked: int) -> bool:
        """Say whether the choice depends on the difficulty, at a progress that `at` was given."""
        return self.sampler.needs_scores(self._alpha, self.count(num_masked))

    def __call__(self, mask: Mask, scores_NL: Tensor | None, *, grid: tuple[int, int], noise: Noise) -> Mask:
        """Choose, at a progress that `at` was given: the same mask, where what is left out is thrown away.

        Args:
            mask: the mask that was drawn.
            scores_NL: difficulty, higher = harder, NaN = not scored; None where `needs_scores` said no.
            grid: rows and columns of patches.
            noise: the noise of the mask.
        """
        count = self.count(mask.num_masked)
        if scores_NL is not None:
            priority_NL = scores_NL if self.polarity == "hardest" else -scores_NL
            scores_NL = priority_NL.masked_fill(~mask.to_bool(), float("nan"))
        keys_NL = self.sampler.keys(
            scores_NL,
            alpha=self._alpha if scores_NL is not None else 0.0,
            num_masked=count,
            grid=grid,
            noise=noise.fold(Stream.RECONSTRUCTED),
        )
        # Among the masked patches alone, whatever the keys of others.
        chosen = Mask.from_keys(mask.gather_masked(keys_NL), count)
        left_out = mask.masked.gather(1, chosen.visible)
        if mask.thrown is not None:
            left_out = torch.cat([left_out, mask.thrown], dim=1).sort(dim=1).values
        return Mask(mask.visible, mask.masked.gather(1, chosen.masked), left_out, mask.blanked)

    @property
    def _alpha(self) -> float:
        assert isinstance(self.alpha, float | int)
        return float(self.alpha)
