"""A decoder whose tokens attend to each other and, in each block, to a feature map of the encoder that is given to it.

It is the decoder of BootMAE (Dong et al. 2022, arXiv 2207.07116).

Shape suffixes: N images, T tokens, S tokens of the encoder, D its width, W decoder's width.
"""

from __future__ import annotations

from timm.layers import Mlp
from torch import Tensor, nn

from hpm.models.blocks import GELU, BlockStack, LayerNorm, PartialAttention
from hpm.models.cross_decoder import CrossAttention
from hpm.models.decoder import DecoderHead


class ContextBlock(nn.Module):
    """Self-attention, attention to the context, and a feed-forward layer, each after a norm and beside a residual
    connection. The context has a norm of its own.

    Args:
        width: W, of the tokens.
        context_width: D, of the context's.
        num_heads: of both attentions.
        mlp_ratio: hidden width of the feed-forward layer, relative to W.
    """

    def __init__(self, width: int, context_width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = PartialAttention(width, num_heads, qkv_bias=True)
        self.norm2 = LayerNorm(width)
        self.context_norm = LayerNorm(context_width)
        self.context_attn = CrossAttention(width, context_width, num_heads)
        self.norm3 = LayerNorm(width)
        self.mlp = Mlp(width, hidden_features=int(width * mlp_ratio), act_layer=GELU)

    def forward(self, tokens_NTW: Tensor, context_NSD: Tensor, first: int = 0) -> Tensor:
        """[N, T - first, W]: what becomes of the tokens from position `first` on."""
        gathered = self.attn(self.norm1(tokens_NTW), first)
        tokens_NTW = (tokens_NTW[:, first:] if first else tokens_NTW) + gathered
        tokens_NTW = tokens_NTW + self.context_attn(self.norm2(tokens_NTW), self.context_norm(context_NSD))
        return tokens_NTW + self.mlp(self.norm3(tokens_NTW))


class ContextDecoder(DecoderHead):
    """Blocks that attend to their tokens and to a context, a norm and one linear head.

    Args:
        width: W, of the tokens.
        depth: blocks; 0 for norm and head alone.
        num_heads: their heads.
        mlp_ratio: hidden width of their feed-forward layers, relative to the width.
        context_width: D, width of the encoder.
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
        context_width: int,
        outputs: int,
        full_precision_head: bool = False,
    ) -> None:
        blocks = BlockStack(ContextBlock(width, context_width, num_heads, mlp_ratio) for _ in range(depth))
        super().__init__(blocks, width=width, outputs=outputs, full_precision=full_precision_head)
        self._kept_of_a_token = depth * (context_width + 2 * width)

    def forward(self, tokens_NTW: Tensor, context_NSD: Tensor, first: int) -> Tensor:
        """[N, T - first, outputs]: predictions for the tokens from position `first` on."""
        return self.predict(self.attend(tokens_NTW, context_NSD, first))

    def attend(self, tokens_NTW: Tensor, context_NSD: Tensor, first: int) -> Tensor:
        """[N, T - first, W]: what the blocks make of them; of the others nothing is computed that none asks."""
        tokens_NTW = self.blocks.start(tokens_NTW)
        last = len(self.blocks) - 1
        for place, block in enumerate(self.blocks):
            tokens_NTW = self.blocks.run(block, tokens_NTW, context_NSD, first if place == last else 0)
        return tokens_NTW if len(self.blocks) else tokens_NTW[:, first:]

    def kept_values(self, tokens: int) -> int:
        """Values that a backward pass keeps of the encoder's tokens: contexts after the norm, keys and values."""
        return tokens * self._kept_of_a_token
