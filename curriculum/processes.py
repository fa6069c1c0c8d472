"""What the processes that train together tell each other, where a curriculum keeps something of what it saw.

Shape suffix: N images of this process.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rows_of_all(values: Tensor) -> Tensor:
    """Return the rows [N, ...] of every process, in the order of their ranks; every process must give as many."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    gathered = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, values.contiguous())
    return torch.cat(gathered)


def last_rows(indices_N: Tensor) -> Tensor:
    """Return for each row the last one of the same image, int64 [N]: what is kept of an image that comes several times.

    Where each row gives the values of that one, they may be written in whatever order a device copies.

    Args:
        indices_N: int64, the image of each row.
    """
    sorted_N, order_N = indices_N.sort(stable=True)
    return order_N[torch.searchsorted(sorted_N, indices_N, right=True) - 1]


def sum_of_all(values: Tensor) -> Tensor:
    """Return the sum of the values of every process."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total
