"""Controls: what is to be had of a difficulty for free, difficulties without it, and what the data know.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import DifficultyEstimator, StepOutcome, TrainingContext
from curriculum.difficulty.combined import Combination
from curriculum.difficulty.loss_memory import standardized
from curriculum.difficulty.pixels import EdgeDensity
from curriculum.difficulty.uniform import Uniform
from curriculum.keys import ranks
from curriculum.noise import Noise
from curriculum.processes import sum_of_all
from curriculum.streams import Stream
from curriculum.teacher import Teacher
from curriculum.validation import require_in


class PositionLosses(nn.Module):
    """The mean loss at every position, over the images of the last steps and of all processes.

    Losses are standardized over the masked patches of each image. All images of a step are given the means of the
    steps before, however the step is divided into micro-batches.

    Args:
        num_patches: L.
        momentum: how much stays in a step, in [0, 1).
        device: of the images.

    Attributes:
        sums: float32 [L], up to the end of the step before.
        counts: float32 [L], likewise.
        newest_sums: float32 [L], of the present step.
        newest_counts: float32 [L], likewise.
        step: int64, the present step's number; -1 before the first.
    """

    sums: Tensor
    counts: Tensor
    newest_sums: Tensor
    newest_counts: Tensor
    step: Tensor

    def __init__(self, num_patches: int, momentum: float, device: torch.device) -> None:
        super().__init__()
        self.momentum = momentum
        for name in ("sums", "counts", "newest_sums", "newest_counts"):
            self.register_buffer(name, torch.zeros(num_patches, device=device))
        self.register_buffer("step", torch.tensor(-1, device=device))

    def mean_L(self, step: int) -> Tensor:
        """Return what the images of a step are given, [L]; 0 where nothing is known."""
        sums_L, counts_L = self._totals(step)
        return torch.where(counts_L > 0, sums_L / counts_L, 0.0)

    def add(self, outcome: StepOutcome) -> None:
        """Take the losses of the patches that a step masked. Every process must call this."""
        loss_NM, mask = standardized(outcome.true_NM), outcome.mask
        known_NM = loss_NM.isfinite()
        zero_NL = torch.zeros(len(loss_NM), mask.num_patches, device=loss_NM.device)
        new_L, count_L = (
            sum_of_all(zero_NL.scatter(1, mask.masked, values_NM).sum(dim=0))
            for values_NM in (torch.where(known_NM, loss_NM, 0.0), known_NM.float())
        )
        same = self.step == outcome.step
        totals = self._totals(outcome.step)
        for kept, newest, total_L, added_L in (
            (self.sums, self.newest_sums, totals[0], new_L),
            (self.counts, self.newest_counts, totals[1], count_L),
        ):
            kept.copy_(total_L)
            newest.copy_(torch.where(same, newest, 0.0) + added_L)
        self.step.fill_(outcome.step)

    def _totals(self, step: int) -> tuple[Tensor, Tensor]:
        """Sums and counts of the steps before."""
        same = self.step == step
        sums_L = torch.where(same, self.sums, self.sums * self.momentum + self.newest_sums)
        return sums_L, torch.where(same, self.counts, self.counts * self.momentum + self.newest_counts)


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
        self.module = PositionLosses(context.grid[0] * context.grid[1], self.momentum, context.device)

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        if self.module is None:
            return torch.full((len(batch), batch.num_patches), float("nan"), device=batch.images.device)
        assert isinstance(self.module, PositionLosses)
        return self.module.mean_L(noise.step).expand(len(batch), -1)

    def remember(self, outcome: StepOutcome) -> None:
        """Take the losses of the patches that a step masked."""
        if self.module is not None:
            assert isinstance(self.module, PositionLosses)
            self.module.add(outcome)


class Residual(Combination):
    """Scores patches by another estimator, less what is to be had for free: a patch's position and its edges.

    Is anything learned beyond them? The estimator's scores become ranks from 0 to 1. Within each image the part of
    them is taken out by least squares that is linear in the mean loss at a patch's position, as `PositionLoss` scores
    it, and in the rank of its `EdgeDensity`. What is left is uncorrelated with either, in every image.

    Args:
        estimator: the estimator whose scores are taken.
        momentum: how much of the positions' means stays in a step, in [0, 1). Default 0.99, the last hundred steps.

    Raises:
        ValueError: if nothing would be left of the estimator: `PositionLoss`, `EdgeDensity` and `Uniform`.
    """

    outermost = True

    def __init__(self, *, estimator: DifficultyEstimator, momentum: float = 0.99) -> None:
        super().__init__(estimators=[estimator])
        if type(estimator) in (PositionLoss, EdgeDensity, Uniform):
            raise ValueError(
                f"Residual takes out what position and edges say, and of {type(estimator).__name__} nothing is left "
                "but the order of ties; choose another estimator"
            )
        require_in("Residual", "[0, 1)", momentum=momentum)
        self.stateful = True
        self.momentum = float(momentum)

    def prepare(self, context: TrainingContext) -> None:
        """Start the positions' means."""
        super().prepare(context)
        kept = {} if self.module is None else {"0": self.module}
        losses = PositionLosses(context.grid[0] * context.grid[1], self.momentum, context.device)
        self.module = nn.ModuleDict(kept | {"positions": losses})

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        bits_NL = noise.fold(Stream.RESIDUAL_TIES).bits(batch.num_patches)
        scores_NL = self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        unscored_NL = scores_NL.isnan()
        edges_NL = EdgeDensity()(batch, None, num_masked=num_masked, noise=noise)
        losses = self._losses()
        position_L = edges_NL.new_zeros(batch.num_patches) if losses is None else losses.mean_L(noise.step)
        left_NL, edges_NL, position_NL = (
            x_NL.masked_fill(unscored_NL, torch.nan)
            for x_NL in (ranks(scores_NL, bits_NL), ranks(edges_NL, bits_NL), position_L.expand_as(scores_NL))
        )
        for free_NL in (position_NL, _without(edges_NL, position_NL)):
            left_NL = _without(left_NL, free_NL)
        return left_NL

    def remember(self, outcome: StepOutcome) -> None:
        """Take the losses of the patches that a step masked."""
        super().remember(outcome)
        losses = self._losses()
        if losses is not None:
            losses.add(outcome)

    @property
    def needs_one_grid(self) -> bool:
        """Positions are numbered by the grid."""
        return True

    def _losses(self) -> PositionLosses | None:
        if self.module is None:
            return None
        losses = self.module.get_submodule("positions")
        assert isinstance(losses, PositionLosses)
        return losses


def _without(values_NL: Tensor, free_NL: Tensor) -> Tensor:
    """Return values less their mean and less what is linear in others, within each image; NaN is left out."""
    values_NL, free_NL = (x_NL - x_NL.nanmean(dim=1, keepdim=True) for x_NL in (values_NL, free_NL))
    slope_N1 = (values_NL * free_NL).nansum(dim=1, keepdim=True)
    slope_N1 = slope_N1 / free_NL.square().nansum(dim=1, keepdim=True).clamp(min=1e-12)
    return values_NL - slope_N1 * free_NL


class Shuffled(Combination):
    """Gives each image the scores of the next other image of the batch: hard patches of another picture.

    Such masks are like the estimator's in everything but that they do not follow the image: as clustered, and with
    the same preference for positions. As they depend on which images lie side by side, they are others where a step is
    divided among more processes or micro-batches; a batch of one image is not scored.

    Args:
        estimator: the estimator whose scores are taken.
    """

    passes_scores_on = True

    def __init__(self, *, estimator: DifficultyEstimator) -> None:
        super().__init__(estimators=[estimator])

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        scores_NL = self.estimators[0](batch, teacher, num_masked=num_masked, noise=noise)
        place_N = torch.arange(len(batch), device=scores_NL.device)
        image_N = place_N if batch.indices is None else batch.indices  # an image may stand in several rows
        ahead_NN = (place_N - place_N.unsqueeze(1)) % len(batch)
        ahead_NN = ahead_NN.masked_fill(image_N == image_N.unsqueeze(1), len(batch))
        ahead_N, next_N = ahead_NN.min(dim=1)
        alone_N1 = (ahead_N == len(batch)).unsqueeze(1)
        return scores_NL.index_select(0, next_N).masked_fill(alone_N1, torch.nan)


class ObjectShare(DifficultyEstimator):
    """Scores a patch by the share of its pixels that show the object, as the data know it.

    Where what is hard is the object rather than what is behind it, masks of what is hard hide the object. These hide it
    without asking what is hard. That takes what nobody knows of images without labels: it is no method, but what one
    may be held against. Images of a training run alone are scored.
    """

    needs_objects = True
    _shares: Callable[[Batch], Tensor] | None = None

    def prepare(self, context: TrainingContext) -> None:
        """Find out who knows the object.

        Raises:
            ValueError: if nobody does.
        """
        if context.object_shares is None:
            raise ValueError(
                "ObjectShare needs TrainingContext.object_shares: data that know which pixels are the object"
            )
        self._shares = context.object_shares

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        if self._shares is None or batch.indices is None:
            return torch.full((len(batch), batch.num_patches), float("nan"), device=batch.images.device)
        return self._shares(batch)
