"""Transformer blocks: timm's, where the first tokens can be left out and residuals kept in low precision.

Shape suffixes: N images, H heads, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block
from timm.models.vision_transformer_relpos import RelPosBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class GELU(nn.Module):
    """The exact GELU; in place where no gradient will ask for its input, so that a teacher's pass takes less memory."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


class PartialAttention(Attention):
    """timm's attention, which can leave out the first tokens: they are keys and values to the others, and no more."""

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """[N, T - first, D]: what the tokens from position `first` on gather from all."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        q_NHTD, k_NHTD, v_NHTD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if first:
            q_NHTD = q_NHTD[:, :, first:]
        return self.proj(attend(q_NHTD, k_NHTD, v_NHTD).transpose(1, 2).flatten(2))


def attend(q_NHTD: Tensor, k_NHTD: Tensor, v_NHTD: Tensor) -> Tensor:
    """Fused attention; on a CPU in float32 whatever the autocast, since the kernels for less are slower there."""
    dtype = q_NHTD.dtype
    if q_NHTD.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q_NHTD, k_NHTD, v_NHTD)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q_NHTD.float(), k_NHTD.float(), v_NHTD.float()).to(dtype)


class PartialBlock(Block):
    """timm's block, which can leave out the first tokens."""

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """[N, T - first, D]: what becomes of the tokens from position `first` on."""
        gathered = self.ls1(self.attn(self.norm1(tokens), first))
        tokens = (tokens[:, first:] if first else tokens) + gathered
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class BlockStack(nn.ModuleList):
    """Transformer blocks, one after the other.

    Attributes:
        grad_checkpointing: keep only each block's input for the backward pass and compute the rest again.
        residual_dtype: of the tokens that go from block to block under autocast; None for whatever comes in, which
            is float32.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__(blocks)
        self.grad_checkpointing = False
        self.residual_dtype: torch.dtype | None = None

    def start(self, tokens: Tensor) -> Tensor:
        """The tokens in the dtype in which they go from block to block."""
        if self.residual_dtype is not None and torch.is_autocast_enabled(tokens.device.type):
            return tokens.to(self.residual_dtype)
        return tokens

    def run(self, block: nn.Module, tokens: Tensor, *more: Any) -> Tensor:
        """What a block makes of the tokens."""
        residual = tokens.dtype  # which layer scale, in float32, would raise
        if self.grad_checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(block, tokens, *more, use_reentrant=False, preserve_rng_state=False)
        else:
            tokens = block(tokens, *more)
        return tokens if self.residual_dtype is None else tokens.to(residual)


class Blocks(BlockStack):
    """Transformer blocks on one sequence of tokens; timm's."""

    def __init__(
        self,
        depth: int,
        width: int,
        num_heads: int,
        mlp_ratio: float,
        *,
        relative: bool = False,
        init_values: float | None = None,
    ) -> None:
        kind = RelPosBlock if relative else partial(PartialBlock, attn_layer=PartialAttention)
        super().__init__(
            kind(
                width,
                num_heads,
                mlp_ratio,
                qkv_bias=True,
                norm_layer=LayerNorm,
                act_layer=GELU,
                init_values=init_values,
            )
            for _ in range(depth)
        )

    def forward(self, tokens: Tensor, bias: Tensor | None = None, first: int = 0) -> Tensor:
        """The tokens from position `first` on; of the others the last block computes keys and values alone."""
        more: tuple[Any, ...] = () if bias is None else (bias,)
        tokens = self.start(tokens)
        last = len(self) - 1
        for place, block in enumerate(self):
            tokens = self.run(block, tokens, *((*more, first) if place == last and first else more))
        return tokens if len(self) else tokens[:, first:]

    def intermediates(self, tokens: Tensor, bias: Tensor | None = None) -> list[Tensor]:
        """The tokens that go into the first block, and those that come out of each."""
        found = [self.start(tokens)]
        for block in self:
            found.append(self.run(block, found[-1], *(() if bias is None else (bias,))))
        return found
