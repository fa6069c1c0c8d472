"""Difficulties that measure the reconstruction loss itself instead of a prediction of it.

Shape suffixes: N images, L patches, M masked, V visible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator
from curriculum.mask import Mask
from curriculum.noise import Noise
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_at_least


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
        require_at_least("TrueLoss", 1, probes=probes)
        self.probes = probes

    @classmethod
    def covering(cls, num_patches: int, num_masked: int) -> TrueLoss:
        """Build one with the fewest probes, but at least two, that together mask every patch."""
        return cls(probes=max(2, -(-num_patches // num_masked)))

    def check(self, num_patches: int, num_masked: int) -> None:
        """Refuse more than one probe that still leave some patch visible in all of them."""
        if self.probes > 1 and num_masked < -(-num_patches // self.probes):
            needed = self.covering(num_patches, num_masked).probes
            raise ValueError(
                f"TrueLoss.probes = {self.probes} probes that mask {num_masked} of {num_patches} patches leave some "
                f"patch visible in all of them; use TrueLoss.probes = {needed}, or 1 to leave patches unscored"
            )

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        assert teacher is not None
        num_patches = batch.num_patches
        self.check(num_patches, num_masked)
        # A patch's place in a random order; probe k sees the V places from k L / probes on, cyclically.
        place_NL = noise.fold(Stream.TRUE_LOSS_PROBES).bits(num_patches).argsort(dim=1).argsort(dim=1)
        total_NL = torch.zeros(place_NL.shape, dtype=torch.float32, device=place_NL.device)
        count_NL = torch.zeros_like(total_NL)
        for probe in range(self.probes):
            key_NL = (place_NL - probe * num_patches // self.probes) % num_patches
            mask = Mask.from_keys(key_NL, num_masked)
            loss_NM = teacher.reconstruction_loss(batch.images, mask).float()
            total_NL.scatter_add_(1, mask.masked, loss_NM)
            count_NL.scatter_add_(1, mask.masked, torch.ones_like(loss_NM))
        return total_NL / count_NL  # 0 / 0 is NaN: not scored


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
        require_at_least("LossSpread", 2, probes=probes)
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
