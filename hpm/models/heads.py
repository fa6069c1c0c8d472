"""Heads that give logits rather than values of a patch: cosines with prototypes.

Shape suffixes: N images, M tokens, W width of a token, P outputs.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hpm.runtime.precision import full_precision, without_autocast


class CosineLinear(nn.Linear):
    """The cosine of a token with each of P prototypes, which are the rows of the weight; float32 or better.

    A temperature of a few hundredths would magnify what 16 bits round off. It is a linear layer on an L2-normalized
    token, without a bias and with a normalized weight whose scales stay at 1 (DINO's and iBOT's last layer with
    `norm_last_layer`; CAPI learns the scales).

    Args:
        width: W.
        outputs: P.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__(width, outputs, bias=False)

    def forward(self, tokens_NMW: Tensor) -> Tensor:
        """[N, M, P], in [-1, 1]."""
        with without_autocast(tokens_NMW.device):
            return F.linear(F.normalize(full_precision(tokens_NMW), dim=-1), F.normalize(self.weight, dim=-1))


class ProjectionHead(nn.Sequential):
    """Three linear layers, the first two with a GELU behind them, and the cosine with each prototype (DINO, iBOT).

    Args:
        width: of a token.
        hidden: width of the first two layers.
        bottleneck: of the third.
        outputs: P.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, outputs: int) -> None:
        super().__init__(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
            CosineLinear(bottleneck, outputs),
        )
        self.in_features = width
        self.out_features = outputs


Head = nn.Linear | ProjectionHead


def input_widths(head: Head) -> list[int]:
    """What each linear layer of a head reads."""
    return [module.in_features for module in _layers(head)]


def multiply_adds(head: Head) -> int:
    """Of a head for one token."""
    return sum(module.in_features * module.out_features for module in _layers(head))


def _layers(head: Head) -> list[nn.Linear]:
    return [module for module in head.modules() if isinstance(module, nn.Linear)]
