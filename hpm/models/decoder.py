"""Decoders: transformer blocks and a linear head, which reconstruct patches or predict their losses."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from hpm.models.blocks import Blocks, LayerNorm
from hpm.runtime.precision import full_precision


class Decoder(nn.Module):
    """Transformer blocks, a norm and one linear head.

    Args:
        width: of the tokens.
        depth: blocks.
        num_heads: their heads.
        mlp_ratio: hidden width of their feed-forward layers, relative to the width.
        outputs: of the head.
        full_precision_head: compute norm and head in float32 or better whatever the autocast. A predicted loss is
            there to be compared with others, and bf16 ties many of them.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        outputs: int,
        full_precision_head: bool = False,
    ) -> None:
        super().__init__()
        self.full_precision_head = full_precision_head
        self.blocks = Blocks(depth, width, num_heads, mlp_ratio)
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, first: int) -> Tensor:
        """Predictions for the tokens from position `first` on; of the others nothing is computed that none asks."""
        return self.predict(self.blocks(tokens, first=first), 0)

    def predict(self, hidden: Tensor, first: int) -> Tensor:
        """The same, from what the blocks gave."""
        if not self.full_precision_head:
            return self.head(self.norm(hidden[:, first:]))
        # The meta device, on which operations are counted, has no autocast.
        with nullcontext() if hidden.is_meta else torch.autocast(hidden.device.type, enabled=False):
            return self.head(self.norm(full_precision(hidden[:, first:])))
