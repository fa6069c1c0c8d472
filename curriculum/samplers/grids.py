"""Samplers that work on square cells of patches instead of single ones.

Shape suffixes: N images, L patches, C cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from curriculum.difficulty.base import DifficultyEstimator
from curriculum.keys import order_keys, ranks
from curriculum.noise import Noise
from curriculum.samplers.base import Sampler
from curriculum.samplers.split import HardestFirst
from curriculum.streams import Stream
from curriculum.validation import require_at_least


def cell_of(grid: tuple[int, int], size: int, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """Return the number of the square cell that each patch lies in, int64 [L], and the rows and columns of cells.

    Cells at the right and the lower border are cut off where `size` does not divide the grid.
    """
    rows, columns = (-(-length // size) for length in grid)
    row = torch.arange(grid[0], device=device) // size
    column = torch.arange(grid[1], device=device) // size
    return (row.unsqueeze(1) * columns + column).flatten(), (rows, columns)


class Cells(Sampler):
    """Masks square cells of patches, which another sampler draws: SimMIM's 32-px cells (arXiv 2111.09886).

    The difficulty of a cell is the mean of its scored patches. Where M is not a multiple of a cell, one cell is masked
    in part. SimMIM rounds the masked cells up, 30 of 49 at 0.6; `Curriculum.mask_ratio = 0.612` masks as many here.

    Args:
        size: side of a cell, in patches. Default 2.
        sampler: draws the cells. Default `HardestFirst`, which is random at alpha 0.
    """

    def __init__(self, *, size: int = 2, sampler: Sampler | None = None) -> None:
        require_at_least("Cells", 1, size=size)
        self.size = size
        self.sampler = HardestFirst() if sampler is None else sampler
        self.reversible = self.sampler.reversible

    def check(self, num_patches: int, num_masked: int) -> None:
        """Find out whether the sampler can mask as many cells, where the patches may be those of a square grid."""
        side = math.isqrt(num_patches)
        if side**2 == num_patches:
            self.check_grid((side, side), num_masked)

    def check_grid(self, grid: tuple[int, int], num_masked: int) -> None:
        """Find out whether the sampler can mask as many of the grid's cells."""
        rows, columns = (-(-length // self.size) for length in grid)
        masked = self._count_masked(grid[0] * grid[1], num_masked, rows * columns)
        self.sampler.check_grid((rows, columns), masked)

    def check_masks_per_image(self, masks_per_image: int) -> None:
        """Find out whether the sampler of the cells can draw so many masks for each image."""
        self.sampler.check_masks_per_image(masks_per_image)

    def check_difficulty(self, difficulty: DifficultyEstimator) -> None:
        """Refuse numbers of parts, of which a cell has no mean, and what the sampler refuses."""
        if difficulty.num_parts is not None and self.sampler.ever_needs_scores:
            raise ValueError(
                f"Cells takes the mean of the scores in a cell, and those of {type(difficulty).__name__} are the "
                "numbers of parts; choose another sampler or difficulty"
            )
        self.sampler.check_difficulty(difficulty)

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return self.sampler.needs_scores(alpha, num_masked)

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        cell_L, cells = cell_of(grid, self.size, noise.rows_N.device)
        num_patches, num_cells = len(cell_L), cells[0] * cells[1]
        scores_NC = None
        if scores_NL is not None:
            cell_NL = cell_L.expand_as(scores_NL)
            known_NL = (~scores_NL.isnan()).float()
            sums_NC, count_NC = (
                scores_NL.new_zeros(len(scores_NL), num_cells).scatter_add_(1, cell_NL, values)
                for values in (scores_NL.nan_to_num(0.0, posinf=1e30, neginf=-1e30), known_NL.to(scores_NL.dtype))
            )
            scores_NC = sums_NC / count_NC  # 0 / 0 is NaN: no patch of the cell is scored
        masked = self._count_masked(num_patches, num_masked, num_cells)
        cell_noise = noise.fold(Stream.CELLS_SAMPLER)
        keys_NC = self.sampler.keys(scores_NC, alpha=alpha, num_masked=masked, grid=cells, noise=cell_noise)
        # The cells' order, then the patches' own within a cell.
        place_NL = keys_NC.argsort(dim=1).argsort(dim=1)[:, cell_L]
        return place_NL.mul_(2**40).add_(noise.fold(Stream.CELLS_WITHIN).bits(num_patches).bitwise_and_(2**40 - 1))

    @staticmethod
    def _count_masked(num_patches: int, num_masked: int, num_cells: int) -> int:
        """How many cells are masked, the last one in part."""
        return min(num_cells, -(-num_masked * num_cells // num_patches))


class Stratified(Sampler):
    """Leaves equally many patches of every 2 x 2 cell visible: UM-MAE's uniform masking (arXiv 2205.10063).

    At a mask ratio of 0.75 and on a grid of even sides exactly one of each cell is visible. Otherwise the visible
    patches are spread as evenly: no cell has its second one before each has its first. In a share alpha of the cells
    the easiest patch stays visible, in the others a random one.
    """

    def needs_scores(self, alpha: float, num_masked: int) -> bool:
        return alpha > 0

    def keys(
        self, scores_NL: Tensor | None, *, alpha: float, num_masked: int, grid: tuple[int, int], noise: Noise
    ) -> Tensor:
        cell_L, cells = cell_of(grid, 2, noise.rows_N.device)
        num_patches, num_cells = len(cell_L), cells[0] * cells[1]
        bits_NL = noise.bits(num_patches)
        chance_NL = noise.fold(Stream.STRATIFIED_ORDER).uniform(num_patches)
        order_NL = chance_NL
        if scores_NL is not None:
            follows_NL = noise.fold(Stream.STRATIFIED_FOLLOWS).uniform(num_cells)[:, cell_L] < alpha
            known_NL = follows_NL & ~scores_NL.isnan()
            order_NL = torch.where(known_NL, ranks(scores_NL, bits_NL), chance_NL)
        # Patches sorted by cell, in each by their order; a patch's place in its cell is its distance to the first.
        place_NL = order_keys(order_NL, bits_NL).argsort(dim=1).argsort(dim=1)
        sorted_NL = (cell_L * num_patches + place_NL).argsort(dim=1)
        size_C = torch.zeros(num_cells, dtype=torch.int64, device=cell_L.device).scatter_add_(
            0, cell_L, torch.ones_like(cell_L)
        )
        first_C = size_C.cumsum(0) - size_C
        within_NL = sorted_NL.argsort(dim=1) - first_C[cell_L]
        return within_NL.mul_(2**40).add_(bits_NL.bitwise_and(2**40 - 1))
