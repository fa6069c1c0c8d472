"""Residual: what an estimator says beyond position and edges.

Shape suffixes: N images, L patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.difficulty.combined import Combination
from curriculum.difficulty.pixels import EdgeDensity
from curriculum.keys import ranks
from curriculum.noise import Noise
from curriculum.processes import sum_of_all
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_in

_KEPT = ("sums", "counts", "newest_sums", "newest_counts")


class Residual(Combination):
    """Scores patches by another estimator, less what is to be had for free: a patch's position and its edges.

    A control: is anything learned beyond them? The estimator's scores become ranks from 0 to 1. Within each image the
    part of them that is linear in the rank of `EdgeDensity` is taken out by least squares; then each position's mean
    over the images of the last steps. What is left is uncorrelated with the edges of an image and has no preferred
    position.

    It keeps the positions' means, of all processes together, and in the checkpoint. In its first step they are 0.

    Args:
        estimator: the estimator whose scores are taken.
        momentum: how much of the positions' means stays in a step, in [0, 1). Default 0.99, the last hundred steps.
    """

    outermost = True

    def __init__(self, *, estimator: DifficultyEstimator, momentum: float = 0.99) -> None:
        super().__init__(estimators=[estimator])
        require_in("Residual", "[0, 1)", momentum=momentum)
        self.stateful = True
        self.momentum = float(momentum)
        self._step: int | None = None  # of which the newest sums are; None after a resume, which begins a step

    def prepare(self, context: TrainingContext) -> None:
        """Start the positions' means."""
        super().prepare(context)
        self.module = nn.ModuleDict() if self.module is None else self.module
        for name in _KEPT:
            empty = torch.zeros(context.grid[0] * context.grid[1], device=context.device)
            self.module.register_buffer(name, empty)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        bits_NL = noise.fold(Stream.RESIDUAL_TIES).bits(batch.num_patches)
        scores_NL = self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        rank_NL = ranks(scores_NL, bits_NL)
        edges_NL = EdgeDensity()(batch, None, num_masked=num_masked, noise=noise)
        edge_rank_NL = ranks(edges_NL.masked_fill(rank_NL.isnan(), float("nan")), bits_NL)
        rank_NL, edge_rank_NL = rank_NL - _mean(rank_NL), edge_rank_NL - _mean(edge_rank_NL)
        slope_N1 = _mean(rank_NL * edge_rank_NL) / _mean(edge_rank_NL.square()).clamp(min=1e-12)
        return rank_NL - slope_N1 * edge_rank_NL - self._position_L(noise.step)

    def remember(self, outcome: StepOutcome) -> None:
        """Take a batch into the positions' means, which a step does not change before its end."""
        super().remember(outcome)
        if self.module is None or outcome.scores_NL is None:
            return
        before_NL = outcome.scores_NL + self._position_L(outcome.step)
        for kept, total_L in zip(self._kept()[:2], self._totals(outcome.step), strict=True):
            kept.copy_(total_L)
        newest_sums_L, newest_counts_L = self._kept()[2:]
        if outcome.step != self._step:
            newest_sums_L.zero_()
            newest_counts_L.zero_()
            self._step = outcome.step
        newest_sums_L.add_(sum_of_all(before_NL.nansum(dim=0)))
        newest_counts_L.add_(sum_of_all((~before_NL.isnan()).float().sum(dim=0)))

    def _position_L(self, step: int) -> Tensor | float:
        """Each position's mean in a step, 0 where nothing is known."""
        if self.module is None:
            return 0.0
        sums_L, counts_L = self._totals(step)
        return sums_L / counts_L.clamp(min=1)

    def _totals(self, step: int) -> tuple[Tensor, Tensor]:
        """Sums and counts up to the end of the step before."""
        sums_L, counts_L, newest_sums_L, newest_counts_L = self._kept()
        if step == self._step:
            return sums_L, counts_L
        return sums_L * self.momentum + newest_sums_L, counts_L * self.momentum + newest_counts_L

    def _kept(self) -> list[Tensor]:
        assert self.module is not None
        return [self.module.get_buffer(name) for name in _KEPT]


def _mean(values_NL: Tensor) -> Tensor:
    """Return each image's mean over its scored patches, [N, 1]; NaN where none is."""
    return values_NL.nanmean(dim=1, keepdim=True)
