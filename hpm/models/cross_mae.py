"""CrossMAE: a masked autoencoder whose decoder reconstructs each masked patch from the visible ones alone.

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, M masked, K feature maps, T tokens,
D encoder's width, P values of a patch's target.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from curriculum import Mask
from hpm.models.base import Output
from hpm.models.cross_decoder import CrossDecoder
from hpm.models.encoder import Encoder
from hpm.models.with_decoders import ModelOnEncoder


class CrossMAE(ModelOnEncoder):
    """A masked autoencoder whose mask tokens attend to the encoder's tokens and not to each other.

    It is Fu et al.'s (arXiv 2401.14391), with a loss predictor for HPM that is made in the same way. Each masked patch
    costs its decoder as much as any other, so that `Curriculum.reconstruction` has it decode a part of them. Defaults:
    the published decoder of all sizes of ViT.

    The encoder's last norm takes no part in pre-training, as published, and stays at its start.

    Otherwise than in `MaskedAutoencoder`, what predicts the losses of the full image is asked at mask tokens in the
    place of every patch, as it was trained.

    Args:
        encoder: a `ViT` with fixed positions.
        decoder_embed_dim: width of reconstructor and loss predictor, a multiple of 4 and of `decoder_num_heads`.
        decoder_depth: the reconstructor's blocks.
        decoder_num_heads: heads of both decoders.
        loss_predictor_depth: the loss predictor's blocks; 0 for a head on the reconstructor's last block; None, the
            default and as published, for no loss predictor.
        mlp_ratio: hidden width of the decoders' feed-forward layers, relative to the width.

    Raises:
        ValueError: naming the setting at fault.
    """

    reconstructor: CrossDecoder
    loss_predictor: CrossDecoder | None

    def __init__(
        self,
        *,
        encoder: Encoder,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 12,
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
        self.encoder.norm.requires_grad_(False)
        decoder = partial(
            CrossDecoder,
            width=decoder_embed_dim,
            num_heads=decoder_num_heads,
            mlp_ratio=mlp_ratio,
            context_width=encoder.num_features,
            feature_maps=1 + len(encoder.blocks_in_order()),
        )
        self.reconstructor = decoder(depth=decoder_depth, outputs=self.patch_pixels)
        self.loss_predictor = None
        if loss_predictor_depth is not None:
            self.loss_predictor = decoder(depth=loss_predictor_depth, outputs=1, full_precision_head=True)
        self.init_weights()

    def block_sizes(self, masked: int, thrown: int) -> list[tuple[int, int]]:
        width = self.mask_token.shape[-1]
        return self.encoder.block_sizes(self.num_patches - masked - thrown) + [
            (masked, width) for decoder in self.decoders for _ in decoder.blocks
        ]

    def kept_beside_blocks(self, masked: int, thrown: int) -> int:
        tokens = self.encoder.num_prefix_tokens + self.num_patches - masked - thrown
        maps = (1 + len(self.encoder.blocks_in_order())) * tokens * self.encoder.num_features
        return maps + sum(decoder.kept_values(tokens) for decoder in self.decoders)

    def dense_block_sizes(self) -> list[tuple[int, int]]:
        return [(self.num_patches, width) for _, width in super().dense_block_sizes()]

    def dense_kept_beside_blocks(self) -> int:
        if self.loss_predictor is None or self.shares_decoder:
            return 0
        tokens = self.encoder.num_prefix_tokens + self.num_patches
        maps = (1 + len(self.encoder.blocks_in_order())) * tokens * self.encoder.num_features
        return maps + self.loss_predictor.kept_values(tokens)

    def macs_published_code_adds(self, *, masked: int, thrown: int) -> int:
        """Published code embeds every patch, also those that are then masked."""
        return self.patch_pixels * (masked + thrown) * self.encoder.embed_dim

    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        maps_KNTD, queries = self._feature_maps(images_NCHW, mask), self._queries(images_NCHW, mask)
        hidden = self.reconstructor.attend(queries, maps_KNTD)
        reconstruction_NMP = self.reconstructor.predict(hidden)
        logits_NY = None
        if self.class_head is not None:
            logits_NY = self._classify(self.encoder.get_submodule("norm")(maps_KNTD[-1]), mask)
        if self.loss_predictor is None:
            return Output(reconstruction_NMP, None, logits_NY)
        predicted_NM1 = self.loss_predictor(hidden if self.shares_decoder else queries, maps_KNTD)
        return Output(reconstruction_NMP, predicted_NM1.squeeze(-1), logits_NY)

    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        return self.reconstructor(self._queries(images_NCHW, mask), self._feature_maps(images_NCHW, mask))

    def predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None, *, detached: bool = False) -> Tensor:
        if self.loss_predictor is None:
            raise self.no_loss_predictor()
        with torch.no_grad() if detached else nullcontext():
            maps_KNTD, queries = self._feature_maps(images_NCHW, mask), self._queries(images_NCHW, mask)
            if self.shares_decoder:
                queries = self.reconstructor.attend(queries, maps_KNTD)
        return self.loss_predictor(queries, maps_KNTD).squeeze(-1)

    def _feature_maps(self, images_NCHW: Tensor, mask: Mask | None) -> Tensor:
        """[K, N, T, D]: what goes into the encoder's first block and comes out of each, of the visible patches."""
        return self.encoder(images_NCHW, mask, intermediates=range(1 + len(self.encoder.blocks_in_order())))

    def _queries(self, images_NCHW: Tensor, mask: Mask | None) -> Tensor:
        """[N, M, W]: a mask token at the place of each masked patch; of every patch, [N, L, W], without a mask."""
        tokens_LW = self.at_places(self.mask_token, self.decoder_pos_embed, images_NCHW)
        return tokens_LW.expand(len(images_NCHW), -1, -1) if mask is None else tokens_LW[mask.masked]
