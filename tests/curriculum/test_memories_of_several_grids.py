"""Memories of scores, where crops have fewer patches than maps have cells."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from estimators import crop, score, train, training_context
from torch import Tensor

from curriculum import (
    ADIOS,
    Attention,
    Batch,
    Cached,
    DifficultyEstimator,
    EdgeDensity,
    LossMemory,
    Mask,
    Mixture,
    Noise,
    PositionLoss,
    Residual,
    Smoothed,
    Uniform,
)

SIDE = 40.0  # of the stored image
CELLS = 6  # a side of the maps
Box = list[float]


def images(patches: int, count: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(patches)
    return Batch(torch.randn(count, 3, 4 * patches, 4 * patches, generator=draw), 4)


def centers(box: Box, patches: int, *, flip: bool) -> list[tuple[float, float]]:
    """Of a crop's patches, in the stored image."""
    places = []
    for row, column in product(range(patches), repeat=2):
        across = (column + 0.5) / patches
        places.append(
            (
                box[0] + box[2] * (1 - across if flip else across),
                box[1] + box[3] * (row + 0.5) / patches,
            )
        )
    return places


def cell_at(place: tuple[float, float], box: Box, cells: int, *, flip: bool = False) -> int | None:
    """The cell of a grid over a box that a place lies in."""
    across, down = (place[0] - box[0]) / box[2], (place[1] - box[1]) / box[3]
    if not (0 <= across <= 1 and 0 <= down <= 1):
        return None
    column = min(int((1 - across if flip else across) * cells), cells - 1)
    return min(int(down * cells), cells - 1) * cells + column


class Map:
    """A map of one image, read naively from the memory's description."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.box: Box | None = None
        self.scores: list[float] = [math.nan] * CELLS**2

    def recalled(self, box: Box, patches: int, *, flip: bool = False) -> list[float]:
        if self.box is None:
            return [math.nan] * patches**2
        found = [cell_at(place, self.box, CELLS) for place in centers(box, patches, flip=flip)]
        return [math.nan if cell is None else self.scores[cell] for cell in found]

    def blend(self, box: Box, patches: int, losses: dict[int, float], *, flip: bool) -> None:
        ends = [(one[0], one[1], one[0] + one[2], one[1] + one[3]) for one in (box, self.box or box)]
        corner = [min(end[axis] for end in ends) for axis in (0, 1)]
        grown = [*corner, *(max(end[axis + 2] for end in ends) - corner[axis] for axis in (0, 1))]
        before = self.recalled(grown, CELLS)
        within: list[list[float]] = [[] for _ in range(CELLS**2)]
        for patch, place in enumerate(centers(box, patches, flip=flip)):
            cell = cell_at(place, grown, CELLS)
            assert cell is not None
            within[cell] += [losses[patch]] if patch in losses else []
        for cell, place in enumerate(centers(grown, CELLS, flip=False)):
            new = sum(within[cell]) / len(within[cell]) if within[cell] else math.nan
            if math.isnan(new) and patches != CELLS:
                patch = cell_at(place, box, patches, flip=flip)
                new = math.nan if patch is None else losses.get(patch, math.nan)
            old = before[cell]
            if math.isnan(new):
                self.scores[cell] = old
            else:
                self.scores[cell] = new if math.isnan(old) else self.momentum * old + (1 - self.momentum) * new
        self.box = grown


def standardized(losses: Tensor) -> list[float]:
    values = losses.double()
    return ((values - values.mean()) / (values.std(correction=0) + 1e-6)).tolist()


def test_losses_are_kept_and_recalled_by_where_they_are() -> None:
    """Crops of 3, 6 and 2 patches a side, over maps of 6 cells, against a loop over cells."""
    draw = torch.Generator().manual_seed(0)
    memory, naive = LossMemory(momentum=0.75), Map(0.75)
    memory.prepare(training_context(grid=(CELLS, CELLS)))
    for step in range(12):
        patches = (3, 6, 2, 3)[step % 4]
        # At no whole numbers, whose centers may lie between two cells, where rounding decides.
        low, high = torch.rand(2, 2, generator=draw)
        box = [*(15 * low).tolist(), *(9 + 15 * high).tolist()]
        flip = bool(torch.rand((), generator=draw) < 0.5)
        batch = crop(images(patches), [7], box, flip=flip)
        drawn = torch.randperm(patches**2, generator=draw)
        mask = Mask(drawn[patches:].unsqueeze(0), drawn[:patches].unsqueeze(0))
        loss_NL = torch.rand(1, patches**2, generator=draw)
        scores_NL = train(memory, batch, step=step, mask=mask, loss_NL=loss_NL)
        expected = torch.tensor([naive.recalled(box, patches, flip=flip)])
        torch.testing.assert_close(scores_NL, expected, rtol=0, atol=6e-3, equal_nan=True)
        losses = standardized(loss_NL[0, mask.masked[0]])
        naive.blend(box, patches, dict(zip(mask.masked[0].tolist(), losses, strict=True)), flip=flip)
    whole = crop(images(CELLS), [7], [0.0, 0.0, SIDE, SIDE])
    found = score(memory, whole, step=12)
    torch.testing.assert_close(
        found, torch.tensor([naive.recalled([0.0, 0.0, SIDE, SIDE], CELLS)]), rtol=0, atol=6e-3, equal_nan=True
    )
    assert found.isfinite().sum() >= 20


def test_masks_of_one_image_are_taken_together() -> None:
    """A large patch that one mask has seen fills its cells, and one that both have seen with the mean."""
    memory = LossMemory(momentum=0.0)
    memory.prepare(training_context(grid=(CELLS, CELLS), masks_per_image=2))
    batch = crop(images(2, count=2), [7, 7], [0.0, 0.0, SIDE, SIDE])
    mask = Mask(torch.tensor([[2, 3], [1, 2]]), torch.tensor([[0, 1], [0, 3]]))
    train(memory, batch, mask=mask, loss_NL=torch.tensor([[1.0, 5.0, 0.0, 0.0], [9.0, 0.0, 0.0, 2.0]]))
    found = score(memory, crop(images(CELLS), [7], [0.0, 0.0, SIDE, SIDE]), step=1).view(CELLS, CELLS)
    quarters = torch.tensor([[0.0, 1.0], [torch.nan, -1.0]])  # -1 and 1 of the first patch
    expected = quarters.repeat_interleave(3, 0).repeat_interleave(3, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3, equal_nan=True)


def test_cached_scores_of_a_coarse_crop_are_recalled_by_a_fine_one() -> None:
    cached = Cached(estimator=EdgeDensity(), every=2)
    cached.prepare(training_context(grid=(CELLS, CELLS), steps_per_epoch=1))
    box = [4.0, 8.0, 24.0, 12.0]
    coarse = crop(images(3), [7], box, flip=True)
    mask = Mask(torch.arange(4).unsqueeze(0), torch.arange(4, 9).unsqueeze(0))
    scores_NL = train(cached, coarse, step=0, mask=mask)
    assert torch.equal(
        scores_NL, EdgeDensity()(coarse, None, num_masked=1, noise=Noise.for_batch(seed=0, step=0, batch_size=1))
    )
    fine = score(cached, crop(images(CELLS), [7], box, flip=True), step=1).view(CELLS, CELLS)
    expected = scores_NL.view(3, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(fine, expected, rtol=2e-3, atol=1e-3)
    again = score(cached, crop(images(3), [7], box, flip=True), step=1)
    torch.testing.assert_close(again, scores_NL, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("estimator", "needs_one"),
    [
        (Attention(), False),
        (LossMemory(), False),
        (Cached(estimator=Attention()), False),
        (Smoothed(estimator=LossMemory()), False),
        (PositionLoss(), True),
        (Mixture(estimators=[LossMemory(), PositionLoss()]), True),
        (Residual(estimator=Attention()), True),
        (ADIOS(), True),
        (Uniform(), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, DifficultyEstimator) else str(value),
)
def test_which_estimators_need_one_grid(estimator: DifficultyEstimator, needs_one: bool) -> None:
    assert estimator.needs_one_grid is needs_one
