"""Difficulties that measure the reconstruction loss itself instead of a prediction of it.

Shape suffixes: N images, L patches, M masked, V visible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.difficulty.probes import check_probes, covering_probes, mean_over_probes
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_in


class TrueLoss(DifficultyEstimator):
    """Scores patches by the teacher's reconstruction loss, measured by probe passes at the training mask ratio.

    A visible patch has no loss, so one probe scores only what it masks. With two or more probes, their visible sets
    are evenly spaced stretches of one random order of the patches: at a ratio of 0.5 or more two are disjoint,
    every patch is masked in some probe, and its score is the mean over the probes that masked it. With one probe
    (the cheap variant; AnatoMask, arXiv 2407.06468, which trains convolutional networks on 3-D scans) the visible
    patches score NaN, so that none of them is hard; AnatoMask gives them a loss of 0.

    It costs `probes` masked forward passes of encoder and reconstructor.

    Args:
        probes: passes for each batch, at least 1. Default 2.
    """

    needs = ("reconstruction_loss",)

    def __init__(self, *, probes: int = 2) -> None:
        require_in("TrueLoss", "[1, 1000]", probes=probes)
        self.probes = probes

    @classmethod
    def covering(cls, num_patches: int, num_masked: int) -> TrueLoss:
        """Build one with the fewest probes, but at least two, that together mask every patch."""
        return cls(probes=covering_probes(num_patches, num_masked))

    def check(self, num_patches: int, num_masked: int) -> None:
        """Refuse more than one probe that still leave some patch visible in all of them."""
        check_probes("TrueLoss", self.probes, num_patches, num_masked)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        self.check(batch.num_patches, num_masked)
        return mean_over_probes(
            lambda mask: teacher.reconstruction_loss(batch.images, mask),
            batch,
            probes=self.probes,
            num_masked=num_masked,
            noise=noise,
        )


class LossSpread(DifficultyEstimator):
    """Scores patches by how much the teacher's reconstruction loss varies with what else is visible.

    The score is the standard deviation of the loss over those probe passes that masked the patch. Their masks are
    independent, random and of the training ratio. It is NaN where fewer than two passes masked the patch.

    It costs `probes` masked forward passes of encoder and reconstructor.

    Args:
        probes: passes for each batch, at least 2. Default 4.
    """

    needs = ("reconstruction_loss",)

    def __init__(self, *, probes: int = 4) -> None:
        require_in("LossSpread", "[2, 1000]", probes=probes)
        self.probes = probes

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        shape, device = (len(batch), batch.num_patches), batch.images.device
        count_NL, mean_NL, squares_NL = (torch.zeros(shape, device=device) for _ in range(3))
        for probe in range(self.probes):
            mask = Mask.from_keys(noise.fold(Stream.LOSS_SPREAD_PROBE, probe).bits(batch.num_patches), num_masked)
            loss_NL = torch.zeros(shape, device=device).scatter_(
                1, mask.masked, teacher.reconstruction_loss(batch.images, mask).float()
            )
            # Welford's update, where the patch was masked.
            hidden_NL = mask.to_bool().float()
            count_NL = count_NL + hidden_NL
            step_NL = (loss_NL - mean_NL) * hidden_NL
            mean_NL = mean_NL + step_NL / count_NL.clamp(min=1)
            squares_NL = squares_NL + step_NL * (loss_NL - mean_NL)
        return torch.where(count_NL > 1, (squares_NL / (count_NL - 1)).clamp(min=0).sqrt(), float("nan"))
