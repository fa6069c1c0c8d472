"""BootMAE: a masked autoencoder with a decoder for each of two targets, to which the encoder's features are given.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, S tokens of the encoder, T of a decoder,
D encoder's width, W decoders' width, P values of a patch's targets.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from curriculum import Mask
from hpm.models.base import Output
from hpm.models.context_decoder import ContextDecoder
from hpm.models.decoder import DecoderHead
from hpm.models.encoder import Encoder
from hpm.models.heads import Head
from hpm.models.patches import sincos_positions
from hpm.models.with_decoders import ModelOnEncoder


class BootMAE(ModelOnEncoder):
    """A masked autoencoder that reconstructs pixels and features by a decoder each: Dong et al. 2022, arXiv 2207.07116.

    Its target is `WeightedTargets` of two. The regressor gives the values of the first, pixels, and attends to what
    comes out of the encoder's first block, so that the encoder need not carry the pixels' detail through all of them.
    The feature predictor gives the values of the second, the moving average's features, is as wide as the encoder and
    has its heads, and attends to what comes out of the last block. Both read the encoder's normalized tokens, projected
    for each, and mask tokens at their places; as in the published code visible tokens are given no position anew.

    The loss predictor, for HPM, is made as the regressor is and reads the same.

    Otherwise than in the published code, heads share the width out evenly (it has 12 heads of 42 in a width of 512),
    keys have a bias, which changes nothing, and weights are initialized as MAE's.

    Args:
        encoder: a `ViT` with fixed positions.
        decoder_embed_dim: W, of regressor and loss predictor, a multiple of 4 and of `decoder_num_heads`.
        decoder_depth: blocks of regressor and feature predictor each.
        decoder_num_heads: heads of regressor and loss predictor.
        loss_predictor_depth: the loss predictor's blocks; 0 for a head on the regressor's last block; None, the default
            and as published, for no loss predictor.
        mlp_ratio: hidden width of the decoders' feed-forward layers, relative to the width.

    Attributes:
        reconstructor: the regressor.
        feature_predictor: the other.

    Raises:
        ValueError: naming the setting at fault.
    """

    feature_pos_embed: Tensor
    reconstructor: ContextDecoder
    feature_predictor: ContextDecoder
    loss_predictor: ContextDecoder | None

    def __init__(
        self,
        *,
        encoder: Encoder,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 2,
        decoder_num_heads: int = 16,
        loss_predictor_depth: int | None = None,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__(
            encoder=encoder,
            decoder_embed_dim=decoder_embed_dim,
            decoder_depth=decoder_depth,
            decoder_num_heads=decoder_num_heads,
            loss_predictor_depth=loss_predictor_depth,
            mlp_ratio=mlp_ratio,
        )
        width = encoder.num_features
        self.decoder_embed = nn.Linear(width, decoder_embed_dim)
        self.feature_embed = nn.Linear(width, width)
        self.feature_mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = torch.zeros(1, encoder.num_prefix_tokens + self.num_patches, width)
        self.register_buffer("feature_pos_embed", positions, persistent=False)  # always computed
        self._blocks_read = (1, len(encoder.blocks_in_order()))
        decoder = partial(ContextDecoder, mlp_ratio=mlp_ratio, context_width=width)
        narrow = partial(decoder, width=decoder_embed_dim, num_heads=decoder_num_heads)
        self.reconstructor = narrow(depth=decoder_depth, outputs=self.patch_pixels)
        self.feature_predictor = decoder(
            width=width, num_heads=encoder.num_heads, depth=decoder_depth, outputs=encoder.num_features
        )
        self.loss_predictor = None
        if loss_predictor_depth is not None:
            self.loss_predictor = narrow(depth=loss_predictor_depth, outputs=1, full_precision_head=True)
        self.init_weights()

    @property
    def outputs(self) -> int:
        return self.reconstructor.head.out_features + self.feature_predictor.head.out_features

    @property
    def reconstruction_heads(self) -> list[Head]:
        return [self.reconstructor.head, self.feature_predictor.head]

    def set_outputs(self, *outputs: int, make: Callable[[int, int], Head] = nn.Linear) -> None:
        if len(outputs) != 2:
            raise ValueError(
                f"Method.target must be @WeightedTargets() of two targets for BootMAE, which has a decoder for each; "
                f"this one is of {len(outputs)}"
            )
        for decoder, values in zip((self.reconstructor, self.feature_predictor), outputs, strict=True):
            if values != decoder.head.out_features or make is not nn.Linear:
                decoder.head = make(decoder.norm.normalized_shape[0], values)

    @property
    def decoders(self) -> list[DecoderHead]:
        others = [] if self.loss_predictor is None else [self.loss_predictor]
        return [self.reconstructor, self.feature_predictor, *others]

    def block_sizes(self, masked: int, thrown: int) -> list[tuple[int, int]]:
        patches = self.num_patches - thrown
        tokens = self.encoder.num_prefix_tokens + patches
        return self.encoder.block_sizes(patches - masked) + [
            (tokens, decoder.head.in_features) for decoder in self.decoders for _ in decoder.blocks
        ]

    def kept_beside_blocks(self, masked: int, thrown: int) -> int:
        patches, prefix = self.num_patches - thrown, self.encoder.num_prefix_tokens
        seen = prefix + patches - masked
        widths = sum(decoder.head.in_features * len(decoder.blocks) for decoder in self.decoders)
        # Of a decoder's own tokens the second attention keeps its norm's input and output, queries and results.
        asking = 4 * (prefix + patches) * widths
        maps = len(self._blocks_read) * seen * self.encoder.num_features
        return maps + asking + sum(decoder.kept_values(seen) for decoder in self.decoders)

    def dense_kept_beside_blocks(self) -> int:
        if self.loss_predictor is None or self.shares_decoder:
            return 0
        asking = 4 * sum(tokens * width for tokens, width in self.dense_block_sizes())
        tokens = self.encoder.num_prefix_tokens + self.num_patches
        maps = len(self._blocks_read) * tokens * self.encoder.num_features
        return maps + asking + self.loss_predictor.kept_values(tokens)

    def macs_published_code_adds(self, *, masked: int, thrown: int) -> int:
        """Published code embeds every patch, also those that are then masked, and computes the heads and last blocks
        of both decoders for every token, also those that are visible.
        """
        prefix, patches = self.encoder.num_prefix_tokens, self.num_patches - thrown
        seen = prefix + patches - masked
        added = self.patch_pixels * (masked + thrown) * self.encoder.embed_dim
        for decoder in (self.reconstructor, self.feature_predictor):
            width, outputs = decoder.head.in_features, decoder.head.out_features
            products = 2 * (prefix + patches + seen) * width
            layers = 3 * width**2 + 2 * width * int(width * self.mlp_ratio)
            added += seen * (layers + products) + (patches - masked) * width * outputs
        return added

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        width, prefix = self.encoder.num_features, self.encoder.num_prefix_tokens
        self.feature_pos_embed.copy_(sincos_positions(width, self.grid, num_prefix_tokens=prefix))
        super().init_weights(generator)
        nn.init.normal_(self.feature_mask_token, std=0.02, generator=generator)

    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        tokens, early, late = self._features(images_NCHW, mask)
        first = tokens.shape[1]
        pixels_NTW = self._with_mask_tokens(tokens, images_NCHW, mask)
        hidden = self.reconstructor.attend(pixels_NTW, early, first)
        reconstruction_NMP = self._both(self.reconstructor.predict(hidden), tokens, late, images_NCHW, mask)
        logits_NY = self._classify(tokens, mask)
        if self.loss_predictor is None:
            return Output(reconstruction_NMP, None, logits_NY)
        asked, place = (hidden, 0) if self.shares_decoder else (pixels_NTW, first)
        return Output(reconstruction_NMP, self.loss_predictor(asked, early, place).squeeze(-1), logits_NY)

    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        tokens, early, late = self._features(images_NCHW, mask)
        pixels_NMP = self.reconstructor(self._with_mask_tokens(tokens, images_NCHW, mask), early, tokens.shape[1])
        return self._both(pixels_NMP, tokens, late, images_NCHW, mask)

    def predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None, *, detached: bool = False) -> Tensor:
        if self.loss_predictor is None:
            raise self.no_loss_predictor()
        with torch.no_grad() if detached else nullcontext():
            tokens, early, _ = self._features(images_NCHW, mask)
            first = self.encoder.num_prefix_tokens if mask is None else tokens.shape[1]
            asked = self._with_mask_tokens(tokens, images_NCHW, mask)
            if self.shares_decoder:
                asked, first = self.reconstructor.attend(asked, early, first), 0
        return self.loss_predictor(asked, early, first).squeeze(-1)

    def _features(self, images_NCHW: Tensor, mask: Mask | None) -> tuple[Tensor, Tensor, Tensor]:
        """[N, S, D] each: the encoder's tokens, normalized, and what comes out of its first and of its last block."""
        early, late = self.encoder(images_NCHW, mask, intermediates=self._blocks_read).unbind(0)
        return self.encoder.norm(late), early, late

    def _with_mask_tokens(self, tokens_NSD: Tensor, images_NCHW: Tensor, mask: Mask | None) -> Tensor:
        """[N, T, W]: what regressor and loss predictor read; the masked patches last."""
        visible = self.decoder_embed(tokens_NSD)
        if mask is None:
            return visible
        masked = self.at_places(self.mask_token, self.decoder_pos_embed, images_NCHW)[mask.masked]
        return torch.cat([visible, masked], dim=1)

    def _both(
        self, pixels_NMP: Tensor, tokens_NSD: Tensor, late_NSD: Tensor, images_NCHW: Tensor, mask: Mask
    ) -> Tensor:
        """[N, M, P]: what the regressor has given, and what the feature predictor gives."""
        masked = self.at_places(self.feature_mask_token, self.feature_pos_embed, images_NCHW)[mask.masked]
        asked = torch.cat([self.feature_embed(tokens_NSD), masked], dim=1)
        features_NMP = self.feature_predictor(asked, late_NSD, tokens_NSD.shape[1])
        return torch.cat([pixels_NMP, features_NMP], dim=-1)
