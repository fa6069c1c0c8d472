"""Decoders: transformer blocks and a linear head, which reconstruct patches or predict their losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hpm.models.blocks import Blocks, BlockStack, LayerNorm
from hpm.models.heads import Head
from hpm.runtime.precision import full_precision, without_autocast


class DecoderHead(nn.Module):
    """A decoder's blocks and its end: a norm and one linear head.

    Args:
        blocks: what the tokens go through first. Their parameters come first too.
        width: of the tokens.
        outputs: of the head.
        full_precision: compute both in float32 or better whatever the autocast. A predicted loss is there to be
            compared with others, and bf16 ties many of them.
    """

    def __init__(self, blocks: BlockStack, *, width: int, outputs: int, full_precision: bool = False) -> None:
        super().__init__()
        self.blocks = blocks
        self.full_precision_head = full_precision
        self.norm = LayerNorm(width)
        self.head: Head = nn.Linear(width, outputs)

    def predict(self, hidden: Tensor, first: int = 0) -> Tensor:
        """Predictions for the tokens from position `first` on, from what the blocks gave."""
        if not self.full_precision_head:
            return self.head(self.norm(hidden[:, first:]))
        with without_autocast(hidden.device):
            return self.head(self.norm(full_precision(hidden[:, first:])))

    def kept_values(self, tokens: int) -> int:
        """Values that a backward pass keeps of the encoder's T tokens beside those of the blocks; none by default."""
        return 0


class Decoder(DecoderHead):
    """Transformer blocks, a norm and one linear head.

    Args:
        width: of the tokens.
        depth: blocks.
        num_heads: their heads.
        mlp_ratio: hidden width of their feed-forward layers, relative to the width.
        outputs: of the head.
        full_precision_head: see `DecoderHead`.
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
        blocks = Blocks(depth, width, num_heads, mlp_ratio)
        super().__init__(blocks, width=width, outputs=outputs, full_precision=full_precision_head)

    def forward(self, tokens: Tensor, first: int) -> Tensor:
        """Predictions for the tokens from position `first` on; of the others nothing is computed that none asks."""
        return self.predict(self.blocks(tokens, first=first))


@torch.no_grad()
def init_as_mae(model: nn.Module, generator: torch.Generator | None) -> None:
    """Initialize linears and norms as MAE does: Xavier-uniform weights and zero biases; norms at identity."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def init_loss_head(head: nn.Module, outputs: int, generator: torch.Generator | None) -> None:
    """Initialize the head of a loss predictor as the mean of as many rows as HPM's published head has.

    That head has P outputs, which are averaged; ours is that average, one output, so its weights start as the row mean
    of a Xavier-uniform [P, W] matrix: a Xavier-uniform head of one output would start some 44 times larger.

    Args:
        head: linear, of one output.
        outputs: P, the values of a patch.
        generator: of the random numbers.
    """
    weight = head.get_parameter("weight")
    bound = math.sqrt(6 / (outputs + weight.shape[1]))
    rows = weight.new_empty(outputs, weight.shape[1]).uniform_(-bound, bound, generator=generator)
    weight.copy_(rows.mean(dim=0, keepdim=True))
