"""ClassHead: a linear classifier of images on the tokens of their patches.

Shape suffixes: N images, T tokens, D width, Y classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpm.runtime.precision import full_precision, without_autocast


class ClassHead(nn.Module):
    """A linear layer on the mean of an image's tokens, in float32 or better whatever the autocast.

    It starts at 0, so that it prefers no class, and draws no random numbers: all other weights start as without it.

    Args:
        width: D.
        num_classes: Y.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_classes, width))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, tokens_NTD: Tensor) -> Tensor:
        """[N, Y]: logits."""
        with without_autocast(tokens_NTD.device):
            return F.linear(full_precision(tokens_NTD).mean(dim=1), self.weight, self.bias)

    @torch.no_grad()
    def init_weights(self) -> None:
        """All at 0."""
        self.weight.zero_()
        self.bias.zero_()
