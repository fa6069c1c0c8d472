"""RecentDifficulties: how difficult the images of the last steps were, among which a share is the easiest.

Shape suffixes: N images of this process and micro-batch, W steps, B images of a step.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curriculum.processes import rows_of_all


class RecentDifficulties(nn.Module):
    """Keeps one number for each image of the last W steps, and tells below which value a share of them lies.

    What a step asks was known before it, and each number has its place by step and position in the global batch: so
    nothing depends on how a step's images are divided among processes and micro-batches, and every process holds the
    same. Nothing waits for the device.

    Args:
        window: W.
        batch_size: B, over all processes and micro-batches.

    Attributes:
        kept_WB: float32; NaN where nothing is known.
    """

    kept_WB: Tensor

    def __init__(self, window: int, batch_size: int) -> None:
        super().__init__()
        self.register_buffer("kept_WB", torch.full((window, batch_size), torch.nan))
        self._asked: tuple[int, float, Tensor] | None = None

    def threshold(self, step: int, share: float) -> Tensor:
        """Float32 []: the largest of the `share` lowest numbers of the steps before; NaN where none is known.

        Args:
            step: the present one. Within it the answer is the first.
            share: in [0, 1]; of n numbers the ceil(share n) lowest. NaN where that is none.
        """
        if self._asked is None or self._asked[:2] != (step, share):
            lowest_first = self.kept_WB.flatten().sort().values  # NaN is last
            count = (~lowest_first.isnan()).sum()
            place = (count.double() * share - 1e-9).ceil().long() - 1  # less what floating point adds
            found = lowest_first.gather(0, place.clamp(min=0).reshape(1)).squeeze(0)
            self._asked = (step, share, torch.where(place < 0, torch.nan, found))
        return self._asked[2]

    def keep(self, step: int, rows_N: Tensor, difficulty_N: Tensor) -> None:
        """Take the numbers of a micro-batch, in the place of those of W steps before; every process must call this.

        Args:
            step: the present one, of which `threshold` was asked before.
            rows_N: int64, places in the global batch.
            difficulty_N: NaN for images that do not count.
        """
        rows, values = rows_of_all(rows_N), rows_of_all(difficulty_N.float())
        self.kept_WB[step % len(self.kept_WB)].index_copy_(0, rows, values)
