"""ScoreMemory: scores that are kept for every image, and follow its pixels from crop to crop.

Shape suffixes: N images of a batch, I images of the data set, L patches, R rows and K columns of patches.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.difficulty.base import TrainingContext
from curriculum.processes import last_rows, rows_of_all


class ScoreMemory(nn.Module):
    """Keeps a map of scores for every training image, L cells, with the part of the image that it covers.

    A crop takes its patches' scores from the cells under their centers, whatever its own grid. What a map does not
    cover is not scored, nor are images of which nothing was kept.

    Processes exchange what they keep, so that each holds all of it and nothing depends on how many there are.

    Args:
        context: the run; says how many images there are, their grid of patches, the device, and how many rows of a
            batch belong to each image.

    Attributes:
        scores: float16 [I, L], relative to the scale, in raster order on the context's grid; NaN where not scored.
        scale: float32 [I], a power of two that exceeds the image's largest score: small whole numbers stay exact.
        boxes: float32 [I, 4], what the map covers, as (left, top, width, height) in pixels of the stored image.
        flips: bool [I], whether the map is mirrored.
    """

    scores: Tensor
    scale: Tensor
    boxes: Tensor
    flips: Tensor

    def __init__(self, context: TrainingContext) -> None:
        super().__init__()
        count, num_patches = context.num_images, context.grid[0] * context.grid[1]
        device = context.device
        self._grid = context.grid
        self._masks_per_image = context.masks_per_image
        unknown = torch.full((count, num_patches), float("nan"), dtype=torch.float16, device=device)
        self.register_buffer("scores", unknown)
        self.register_buffer("scale", torch.ones(count, device=device))
        self.register_buffer("boxes", torch.ones(count, 4, device=device))
        self.register_buffer("flips", torch.zeros(count, dtype=torch.bool, device=device))

    @staticmethod
    def bytes_for(num_images: int, num_patches: int) -> int:
        """Return how much memory I images of L patches take, and as much of every checkpoint.

        ImageNet's 1,281,167 images of 196 patches take 0.53 GB.
        """
        return num_images * (2 * num_patches + 4 + 16 + 1)

    def keep(self, batch: Batch, scores_NL: Tensor) -> None:
        """Keep the scores of a batch's crops in the place of what is known of its images; infinite ones are left out.

        Every process must call this, with as many images.
        """
        scores_NL, crop = scores_NL.masked_fill(scores_NL.isinf(), torch.nan), _Map(_boxes(batch), _flips(batch))
        if batch.grid != self._grid:
            scores_NL = _moved(scores_NL, crop, crop, batch.grid, self._grid)
        self._keep(batch, scores_NL, *crop)

    def blend(self, batch: Batch, scores_NL: Tensor, momentum: float) -> None:
        """Take scores of some patches of a batch's crops into the maps of its images, which grow to cover the crops.

        A map covers the box around all crops that it has seen, so that its cells are as large as their patches or
        larger. A cell takes the mean score of the patches whose centers lie in it, or, where crops have another grid
        than maps and it holds no center, of the patch that its own center lies in; one that has a score keeps
        `momentum` of it. When a map grows, its cells take their scores from the old cells under their centers, which
        moves scores by up to half a cell: crops at random are soon covered, and leave them a third of a cell off on
        average. Every process must call this, with as many images.

        The rows that belong to one image, one after the other with the same crop, are taken together.

        Args:
            batch: N rows, `TrainingContext.masks_per_image` for each image.
            scores_NL: floating point [N, L], less than 1e4 in magnitude; NaN or infinite where there is nothing to
                take.
            momentum: weight of the old score, in [0, 1).
        """
        scores_NL = scores_NL.reshape(-1, self._masks_per_image * scores_NL.shape[1])
        batch = _one_row_each(batch, self._masks_per_image)
        assert batch.indices is not None
        crop = _Map(_boxes(batch), _flips(batch))
        known_N1 = ~self.scores.index_select(0, batch.indices).isnan().all(dim=1, keepdim=True)
        old_N4 = torch.where(known_N1, self.boxes.index_select(0, batch.indices), crop.boxes_N4)
        corner_N2 = torch.minimum(old_N4[:, :2], crop.boxes_N4[:, :2])
        far_N2 = torch.maximum(old_N4[:, :2] + old_N4[:, 2:], crop.boxes_N4[:, :2] + crop.boxes_N4[:, 2:])
        grown = _Map(torch.cat([corner_N2, far_N2 - corner_N2], dim=1), torch.zeros_like(crop.flips_N))
        new_NL = _mean_in_cells(scores_NL, crop, grown, batch.grid, self._grid)
        if batch.grid != self._grid:
            of_patches_NL = _mean_in_cells(scores_NL, crop, crop, batch.grid, batch.grid)  # over an image's masks
            around_NL = _moved(of_patches_NL, crop, grown, batch.grid, self._grid)
            new_NL = torch.where(new_NL.isnan(), around_NL, new_NL)
        old_NL = self._recall(batch, grown, self._grid)
        mean_NL = torch.where(old_NL.isnan(), new_NL, momentum * old_NL + (1 - momentum) * new_NL)
        self._keep(batch, torch.where(new_NL.isnan(), old_NL, mean_NL), *grown)

    def recall(self, batch: Batch) -> Tensor:
        """Return what is known of the patches of a batch's crops, float32 [N, L]; NaN where nothing is."""
        return self._recall(batch, _Map(_boxes(batch), _flips(batch)), batch.grid)

    def _recall(self, batch: Batch, wanted: _Map, grid: tuple[int, int]) -> Tensor:
        assert batch.indices is not None
        scores_NL, scale_N, boxes_N4, flips_N = (
            kept.index_select(0, batch.indices) for kept in (self.scores, self.scale, self.boxes, self.flips)
        )
        return _moved(scores_NL.float() * scale_N.unsqueeze(1), _Map(boxes_N4, flips_N), wanted, self._grid, grid)

    def _keep(self, batch: Batch, scores_NL: Tensor, boxes_N4: Tensor, flips_N: Tensor) -> None:
        assert batch.indices is not None
        scores_NL = scores_NL.float()
        _, exponent_N = torch.frexp(scores_NL.abs().nan_to_num(0.0).amax(dim=1))
        scale_N = torch.ldexp(torch.ones_like(exponent_N, dtype=torch.float32), exponent_N)
        relative_NL = (scores_NL / scale_N.unsqueeze(1)).half()
        indices_N = rows_of_all(batch.indices)
        # An image may come twice, where it stands in for one that cannot be read, is shown again or has several masks.
        last_N = last_rows(indices_N)
        for kept, values in (
            (self.scores, relative_NL),
            (self.scale, scale_N),
            (self.boxes, boxes_N4),
            (self.flips, flips_N),
        ):
            kept.index_copy_(0, indices_N, rows_of_all(values)[last_N])


class _Map(NamedTuple):
    """The part of each image that a grid of cells, or of patches, lies over.

    Args:
        boxes_N4: float32, (left, top, width, height) in pixels of the stored image.
        flips_N: bool, whether it is mirrored left to right.
    """

    boxes_N4: Tensor
    flips_N: Tensor


def _moved(scores_NL: Tensor, source: _Map, target: _Map, grid: tuple[int, int], onto: tuple[int, int]) -> Tensor:
    """Return, for every cell of the target, the score of the source's cell under its center; NaN outside of it.

    Args:
        scores_NL: of the source's cells.
        source: where these lie.
        target: where the target's lie.
        grid: rows and columns of the source's.
        onto: of the target's.
    """
    index_NL, outside_NL = _cell_under_center(target, source, onto, grid)
    return scores_NL.gather(1, index_NL).masked_fill_(outside_NL, float("nan"))


def _mean_in_cells(
    scores_NL: Tensor, source: _Map, target: _Map, grid: tuple[int, int], onto: tuple[int, int]
) -> Tensor:
    """Return, for every cell of the target, the mean of the source's scores whose centers lie in it; NaN for none.

    Of scores below 1e4 in magnitude, to a precision of 2e-6. Whole numbers are added, whose sum is the same in whatever
    order a device adds them. Where there are several times L scores, each patch has several, one behind L others.
    Arguments are as in `_moved`.
    """
    index_NL, outside_NL = _cell_under_center(source, target, grid, onto)
    zero_NL = index_NL.new_zeros(len(index_NL), onto[0] * onto[1])
    times = scores_NL.shape[1] // index_NL.shape[1]
    index_NL, outside_NL = index_NL.repeat(1, times), outside_NL.repeat(1, times)
    taken_NL = scores_NL.isfinite() & ~outside_NL
    whole_NL = (scores_NL.nan_to_num(0.0, 0.0, 0.0).double() * 2**18).round().long() * taken_NL
    sum_NL = zero_NL.scatter_add(1, index_NL, whole_NL)
    count_NL = zero_NL.scatter_add(1, index_NL, taken_NL.long())
    return (sum_NL / count_NL / 2**18).float()  # 0 / 0 is NaN


def _cell_under_center(
    of: _Map, under: _Map, grid: tuple[int, int], grid_under: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Find the cell of one map under the center of each cell of another, int64 [N, L], and which lie outside of it."""
    (rows, columns), (rows_under, columns_under) = grid, grid_under
    device = of.boxes_N4.device
    x_K = (torch.arange(columns, device=device) + 0.5) / columns
    y_R = (torch.arange(rows, device=device) + 0.5) / rows
    # Centers in the image, then in the map under them, from 0 to 1.
    x_NK = torch.where(of.flips_N.unsqueeze(1), 1 - x_K, x_K) * of.boxes_N4[:, 2:3] + of.boxes_N4[:, 0:1]
    y_NR = y_R * of.boxes_N4[:, 3:4] + of.boxes_N4[:, 1:2]
    x_NK = (x_NK - under.boxes_N4[:, 0:1]) / under.boxes_N4[:, 2:3]
    y_NR = (y_NR - under.boxes_N4[:, 1:2]) / under.boxes_N4[:, 3:4]
    x_NK = torch.where(under.flips_N.unsqueeze(1), 1 - x_NK, x_NK)
    outside_NRK = ((x_NK < 0) | (x_NK > 1)).unsqueeze(1) | ((y_NR < 0) | (y_NR > 1)).unsqueeze(2)
    column_NK = (x_NK * columns_under).long().clamp(0, columns_under - 1)
    row_NR = (y_NR * rows_under).long().clamp(0, rows_under - 1)
    index_NL = (row_NR.unsqueeze(2) * columns_under + column_NK.unsqueeze(1)).flatten(1)
    return index_NL, outside_NRK.flatten(1)


def _one_row_each(batch: Batch, rows: int) -> Batch:
    """Return the first of as many rows of each image."""
    if rows == 1:
        return batch
    indices, boxes, flips = (
        None if x is None else x[::rows].contiguous() for x in (batch.indices, batch.boxes, batch.flips)
    )
    return replace(batch, images=batch.images[::rows], indices=indices, boxes=boxes, flips=flips, masks_per_image=1)


def _boxes(batch: Batch) -> Tensor:
    """Return the crops, float32 [N, 4]; where there are none, a box that is always the same."""
    return batch.images.new_ones(len(batch), 4) if batch.boxes is None else batch.boxes.float()


def _flips(batch: Batch) -> Tensor:
    """Return whether each crop is mirrored, bool [N]."""
    if batch.flips is not None:
        return batch.flips
    return torch.zeros(len(batch), dtype=torch.bool, device=batch.images.device)
