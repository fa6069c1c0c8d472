"""A decoder of which each token attends to the encoder's tokens alone, and to no other of its own.

So what one masked patch is predicted to be does not depend on which others are predicted, and costs the same whether
these are many or few: CrossMAE (Fu et al., "Rethinking Patch Dependence for Masked Autoencoders", arXiv 2401.14391).

Shape suffixes: N images, K feature maps, B blocks, Q queries, T tokens of the encoder, D its width, W decoder's width,
H heads.
"""

from __future__ import annotations

from timm.layers import Mlp
from torch import Tensor, nn

from hpm.models.blocks import GELU, BlockStack, LayerNorm, attend
from hpm.models.decoder import DecoderHead


class CrossAttention(nn.Module):
    """Attention from queries to tokens of another width.

    Args:
        width: W, of the queries.
        context_width: D, of the tokens that they attend to.
        num_heads: H.
    """

    def __init__(self, width: int, context_width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(context_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, queries_NQW: Tensor, context_NTD: Tensor) -> Tensor:
        """[N, Q, W]."""
        q_NHQ = self.q(queries_NQW).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        kv = self.kv(context_NTD).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        k_NHT, v_NHT = kv.unbind(0)
        return self.proj(attend(q_NHQ, k_NHT, v_NHT).transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """Cross-attention and a feed-forward layer, each after a norm and beside a residual connection.

    Args:
        width: W, of the queries.
        context_width: D, of the tokens that they attend to.
        num_heads: H.
        mlp_ratio: hidden width of the feed-forward layer, relative to W.
    """

    def __init__(self, width: int, context_width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = CrossAttention(width, context_width, num_heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, hidden_features=int(width * mlp_ratio), act_layer=GELU)

    def forward(self, queries_NQW: Tensor, context_NTD: Tensor) -> Tensor:
        """[N, Q, W]."""
        queries_NQW = queries_NQW + self.attn(self.norm1(queries_NQW), context_NTD)
        return queries_NQW + self.mlp(self.norm2(queries_NQW))


class CrossDecoder(DecoderHead):
    """Blocks of cross-attention, a norm and one linear head.

    Each block attends to a weighted sum of its own of the encoder's feature maps, which are what goes into the
    encoder's first block and comes out of each; the weights are learned, without a bias, and a norm follows.

    Args:
        width: W, of the queries.
        depth: B, blocks; 0 for norm and head alone.
        num_heads: their heads.
        mlp_ratio: hidden width of their feed-forward layers, relative to the width.
        context_width: D, width of the encoder.
        feature_maps: K, how many of these it gives.
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
        feature_maps: int,
        outputs: int,
        full_precision_head: bool = False,
    ) -> None:
        blocks = BlockStack(CrossBlock(width, context_width, num_heads, mlp_ratio) for _ in range(depth))
        super().__init__(blocks, width=width, outputs=outputs, full_precision=full_precision_head)
        self.context_norms = nn.ModuleList(LayerNorm(context_width) for _ in range(depth))
        self._kept_of_a_token = depth * 2 * (context_width + width)
        self.mix = nn.Linear(feature_maps, depth, bias=False) if depth else None

    def forward(self, queries_NQW: Tensor, maps_KNTD: Tensor) -> Tensor:
        """[N, Q, outputs]: a prediction for each query."""
        return self.predict(self.attend(queries_NQW, maps_KNTD))

    def attend(self, queries_NQW: Tensor, maps_KNTD: Tensor) -> Tensor:
        """[N, Q, W]: what the blocks make of the queries."""
        queries_NQW = self.blocks.start(queries_NQW)
        if self.mix is None:
            return queries_NQW
        contexts_BNTD = (self.mix.weight @ maps_KNTD.flatten(1)).unflatten(1, maps_KNTD.shape[1:])
        for block, norm, context_NTD in zip(self.blocks, self.context_norms, contexts_BNTD.unbind(0), strict=True):
            queries_NQW = self.blocks.run(block, queries_NQW, norm(context_NTD))
        return queries_NQW

    def kept_values(self, tokens: int) -> int:
        """Values that a backward pass keeps of the encoder's T tokens: contexts before and after the norm, k and v."""
        return tokens * self._kept_of_a_token
