"""Controls: what is to be had of a difficulty for free, and difficulties without it.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.difficulty.combined import Combination
from curriculum.difficulty.loss_memory import standardized
from curriculum.difficulty.pixels import EdgeDensity
from curriculum.keys import ranks
from curriculum.noise import Noise
from curriculum.processes import sum_of_all
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_in


class PositionMeans(nn.Module):
    """The mean of a value at every position, over the images of the last steps and of all processes.

    All images of a step are given the means of the steps before, however the step is divided into micro-batches.

    Args:
        num_patches: L.
        momentum: how much stays in a step, in [0, 1).
        device: of the images.

    Attributes:
        sums: float32 [L], up to the end of the step before.
        counts: float32 [L], likewise.
        newest_sums: float32 [L], of the present step.
        newest_counts: float32 [L], likewise.
    """

    sums: Tensor
    counts: Tensor
    newest_sums: Tensor
    newest_counts: Tensor

    def __init__(self, num_patches: int, momentum: float, device: torch.device) -> None:
        super().__init__()
        self.momentum = momentum
        self._step: int | None = None  # the present one; None after a resume, which begins one
        for name in ("sums", "counts", "newest_sums", "newest_counts"):
            self.register_buffer(name, torch.zeros(num_patches, device=device))

    def mean_L(self, step: int) -> Tensor:
        """Return what the images of a step are given, [L]; 0 where nothing is known."""
        sums_L, counts_L = self._totals(step)
        return torch.where(counts_L > 0, sums_L / counts_L, 0.0)

    def add(self, values_NL: Tensor, step: int) -> None:
        """Count the values of images of a step; NaN does not count. Every process must call this."""
        if step != self._step:
            for kept, total_L in zip((self.sums, self.counts), self._totals(step), strict=True):
                kept.copy_(total_L)
            self.newest_sums.zero_()
            self.newest_counts.zero_()
            self._step = step
        self.newest_sums.add_(sum_of_all(values_NL.nansum(dim=0)))
        self.newest_counts.add_(sum_of_all((~values_NL.isnan()).float().sum(dim=0)))

    def _totals(self, step: int) -> tuple[Tensor, Tensor]:
        if step == self._step:
            return self.sums, self.counts
        return self.sums * self.momentum + self.newest_sums, self.counts * self.momentum + self.newest_counts


class PositionLoss(DifficultyEstimator):
    """Scores a patch by its position alone: the mean loss that training measured there, over all images.

    Losses are standardized over the masked patches of each image. Whatever a curriculum gains by this difficulty it
    gains without looking at the image.

    Args:
        momentum: how much of the positions' means stays in a step, in [0, 1). Default 0.99, the last hundred steps.
    """

    stateful = True

    def __init__(self, *, momentum: float = 0.99) -> None:
        require_in("PositionLoss", "[0, 1)", momentum=momentum)
        self.momentum = float(momentum)

    def prepare(self, context: TrainingContext) -> None:
        """Start the positions' means."""
        self.module = PositionMeans(context.grid[0] * context.grid[1], self.momentum, context.device)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        if self.module is None:
            return torch.full((len(batch), batch.num_patches), float("nan"), device=batch.images.device)
        assert isinstance(self.module, PositionMeans)
        return self.module.mean_L(noise.step).expand(len(batch), -1)

    def remember(self, outcome: StepOutcome) -> None:
        """Take the losses of the patches that a step masked."""
        if self.module is None:
            return
        assert isinstance(self.module, PositionMeans)
        loss_NM = standardized(outcome.true_NM)
        unknown_NL = torch.full((len(loss_NM), outcome.mask.num_patches), float("nan"), device=loss_NM.device)
        loss_NM = torch.where(loss_NM.isfinite(), loss_NM, torch.nan)
        self.module.add(unknown_NL.scatter(1, outcome.mask.masked, loss_NM), outcome.step)


class Residual(Combination):
    """Scores patches by another estimator, less what is to be had for free: a patch's position and its edges.

    Is anything learned beyond them? The estimator's scores become ranks from 0 to 1. Within each image the part of
    them that is linear in the rank of `EdgeDensity` is taken out by least squares; then each position's mean over the
    images of the last steps. What is left is uncorrelated with the edges of an image and has no preferred position.

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

    def prepare(self, context: TrainingContext) -> None:
        """Start the positions' means."""
        super().prepare(context)
        kept = {} if self.module is None else {"0": self.module}
        means = PositionMeans(context.grid[0] * context.grid[1], self.momentum, context.device)
        self.module = nn.ModuleDict(kept | {"positions": means})

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        bits_NL = noise.fold(Stream.RESIDUAL_TIES).bits(batch.num_patches)
        scores_NL = self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        rank_NL = ranks(scores_NL, bits_NL)
        edges_NL = EdgeDensity()(batch, None, num_masked=num_masked, noise=noise)
        edge_rank_NL = ranks(edges_NL.masked_fill(rank_NL.isnan(), torch.nan), bits_NL)
        rank_NL, edge_rank_NL = (x_NL - x_NL.nanmean(dim=1, keepdim=True) for x_NL in (rank_NL, edge_rank_NL))
        slope_N1 = (rank_NL * edge_rank_NL).nansum(dim=1, keepdim=True)
        slope_N1 = slope_N1 / edge_rank_NL.square().nansum(dim=1, keepdim=True).clamp(min=1e-12)
        beyond_NL = rank_NL - slope_N1 * edge_rank_NL
        return beyond_NL if self.module is None else beyond_NL - self._means().mean_L(noise.step)

    def remember(self, outcome: StepOutcome) -> None:
        """Take what the edges left of a batch's scores into the positions' means."""
        super().remember(outcome)
        if self.module is not None and outcome.scores_NL is not None:
            means = self._means()
            means.add(outcome.scores_NL + means.mean_L(outcome.step), outcome.step)

    def _means(self) -> PositionMeans:
        assert self.module is not None
        means = self.module.get_submodule("positions")
        assert isinstance(means, PositionMeans)
        return means


class Shuffled(Combination):
    """Gives each image the scores of the next image of the batch: hard patches of another picture.

    Such masks are like the estimator's in everything but that they do not follow the image: as clustered, and with
    the same preference for positions. As they depend on which images lie side by side, they are others where a step is
    divided among more processes or micro-batches.

    Args:
        estimator: the estimator whose scores are taken.
    """

    def __init__(self, *, estimator: DifficultyEstimator) -> None:
        super().__init__(estimators=[estimator])

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        return self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise).roll(-1, dims=0)
