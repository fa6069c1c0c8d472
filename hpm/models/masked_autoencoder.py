"""MaskedAutoencoder: MAE with a loss predictor beside the reconstructor, as HPM has it.

The encoder sees the visible patches and class tokens. Its output, projected to the decoders' width, is the shared
input of two transformers: the reconstructor predicts the target of the masked patches, the loss predictor one scalar
for each, how large the reconstruction's loss will be (HPM, arXiv 2304.05919). Without the loss predictor, and with one
class token, this is MAE (arXiv 2111.06377).

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, M masked, K class tokens, D encoder's
width, W decoders' width, P values of a patch's target.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from curriculum import Curriculum, Mask
from curriculum.sizes import Size
from hpm.models.base import Output
from hpm.models.checks import (
    require_class_tokens,
    require_loss_predictor_depth,
    require_patches,
    require_transformer,
)
from hpm.models.decoder import Decoder, init_as_mae, init_loss_head
from hpm.models.patches import first_positions, patch_grid, sincos_positions
from hpm.models.vit import ViT
from hpm.models.with_decoders import ModelWithDecoders


class MaskedAutoencoder(ModelWithDecoders):
    """A masked autoencoder with a loss predictor beside the reconstructor. Defaults: HPM's ViT-B/16.

    Args:
        img_size: of the image in pixels, the side of a square or (height, width).
        patch_size: of a patch in pixels, the side of a square or (height, width); divides `img_size`.
        in_chans: channels of the image.
        embed_dim: the encoder's width, a multiple of 4 and of `num_heads`.
        depth: the encoder's blocks.
        num_heads: its heads.
        decoder_embed_dim: width of reconstructor and loss predictor, a multiple of 4 and of `decoder_num_heads`.
        decoder_depth: the reconstructor's blocks.
        decoder_num_heads: heads of both decoders.
        loss_predictor_depth: the loss predictor's blocks; 0 for a head on the reconstructor's last block instead of a
            second decoder; None for no loss predictor, which is plain MAE.
        mlp_ratio: hidden width of the feed-forward layers, relative to the width.
        blank_token: have a learned token that the encoder sees in the place of visible patches which
            `Curriculum.blank_ratio` hides. It belongs to pre-training: an exported encoder is without it.
        class_tokens: K, the encoder's class tokens, which the decoders read too; 8 are Pixio's. Default 1.
    """

    decoder_pos_embed: Tensor
    encoder: ViT
    reconstructor: Decoder
    loss_predictor: Decoder | None

    def __init__(
        self,
        *,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        loss_predictor_depth: int | None = 8,
        mlp_ratio: float = 4.0,
        blank_token: bool = False,
        class_tokens: int = 1,
    ) -> None:
        super().__init__()
        owner = "MaskedAutoencoder"
        img_size, patch_size = require_patches(owner, img_size=img_size, patch_size=patch_size, in_chans=in_chans)
        require_transformer(owner, embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        require_transformer(
            owner,
            prefix="decoder_",
            embed_dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            mlp_ratio=mlp_ratio,
        )
        require_loss_predictor_depth(owner, loss_predictor_depth)
        require_class_tokens(owner, class_tokens)
        self.mlp_ratio = mlp_ratio
        self.decoder_num_heads = decoder_num_heads
        self.encoder = ViT(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            class_tokens=class_tokens,
        )
        self.encoder_mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if blank_token else None
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.register_buffer("decoder_pos_embed", torch.zeros(1, class_tokens + self.num_patches, decoder_embed_dim))
        decoder = partial(Decoder, width=decoder_embed_dim, num_heads=decoder_num_heads, mlp_ratio=mlp_ratio)
        self.reconstructor = decoder(depth=decoder_depth, outputs=self.patch_pixels)
        self.loss_predictor = None
        if loss_predictor_depth is not None:
            self.loss_predictor = decoder(depth=loss_predictor_depth, outputs=1, full_precision_head=True)
        self.init_weights()

    def block_sizes(self, masked: int, thrown: int) -> list[tuple[int, int]]:
        patches = self.num_patches - thrown
        tokens = self.encoder.num_prefix_tokens + patches
        width = self.mask_token.shape[-1]
        return self.encoder.block_sizes(patches - masked) + [
            (tokens, width) for decoder in self.decoders for _ in decoder.blocks
        ]

    @property
    def image_settings(self) -> str:
        return type(self).__name__

    def check_curriculum(self, curriculum: Curriculum) -> None:
        if (curriculum.blank_ratio > 0) != (self.encoder_mask_token is not None):
            needed = curriculum.blank_ratio > 0
            raise ValueError(
                f"Curriculum.blank_ratio = {curriculum.blank_ratio} {'needs' if needed else 'never uses'} a mask token "
                f"in the encoder; set MaskedAutoencoder.blank_token = {needed}"
            )

    def macs_published_code_adds(self, *, masked: int, thrown: int) -> int:
        """Published code embeds every patch, also those that are then masked, and computes the reconstructor's head
        and the decoders' last blocks for every token, also those that are visible.
        """
        width = self.mask_token.shape[-1]
        others = self.encoder.num_prefix_tokens + self.num_patches - masked
        tokens = self.encoder.num_prefix_tokens + self.num_patches - thrown
        # Of a last block: the projection, two layers, and both products of the attention that these tokens' queries
        # make.
        last = (tokens - masked) * (width**2 + 2 * width * int(width * self.mlp_ratio) + 2 * tokens * width)
        decoders = 1 if self.loss_predictor is None or self.shares_decoder else 2
        return self.patch_pixels * masked * self.encoder.embed_dim + self.outputs * others * width + decoders * last

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """MAE's initialization: Xavier-uniform linears with zero bias, tokens N(0, 0.02^2), norms at identity.

        The patch projection is initialized as a linear layer.
        """
        self.encoder.init_positions()
        width, prefix = self.mask_token.shape[-1], self.encoder.num_prefix_tokens
        self.decoder_pos_embed.copy_(sincos_positions(width, self.grid, num_prefix_tokens=prefix))
        init_as_mae(self, generator)
        proj = self.encoder.patch_embed.proj
        nn.init.xavier_uniform_(proj.weight.view(proj.weight.shape[0], -1), generator=generator)
        nn.init.zeros_(proj.bias)
        for token in (self.encoder.cls_token, self.mask_token):
            nn.init.normal_(token, std=0.02, generator=generator)
        if self.loss_predictor is not None:
            init_loss_head(self.loss_predictor.head, self.patch_pixels, generator)
        for extra in (self.encoder_mask_token, self.encoder.reg_token):
            if extra is not None:  # last, so that all others start as they would without it
                nn.init.normal_(extra, std=0.02, generator=generator)
        if self.class_head is not None:
            self.class_head.init_weights()

    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        latent = self.encode(images_NCHW, mask)
        logits_NY = self._classify(latent, mask)
        tokens = self._decoder_input(latent, mask, patch_grid(images_NCHW, self.patch_size))
        first = self.encoder.num_prefix_tokens + mask.num_visible
        hidden = self.reconstructor.blocks(tokens, first=first)
        reconstruction_NMP = self.reconstructor.predict(hidden, 0)
        if self.loss_predictor is None:
            return Output(reconstruction_NMP, None, logits_NY)
        predicted_NM1 = self.loss_predictor(hidden, 0) if self.shares_decoder else self.loss_predictor(tokens, first)
        return Output(reconstruction_NMP, predicted_NM1.squeeze(-1), logits_NY)

    def encode(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        return self.encoder(images_NCHW, mask, self.encoder_mask_token)

    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        first = self.encoder.num_prefix_tokens + mask.num_visible
        return self.reconstructor(self._encode_for_decoders(images_NCHW, mask), first)

    def predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None, *, detached: bool = False) -> Tensor:
        if self.loss_predictor is None:
            raise ValueError("this model has no loss predictor; set MaskedAutoencoder.loss_predictor_depth")
        first = self.encoder.num_prefix_tokens + (0 if mask is None else mask.num_visible)
        with torch.no_grad() if detached else nullcontext():
            tokens = self._encode_for_decoders(images_NCHW, mask)
            if self.shares_decoder:
                tokens, first = self.reconstructor.blocks(tokens, first=first), 0
        return self.loss_predictor(tokens, first).squeeze(-1)

    def _encode_for_decoders(self, images_NCHW: Tensor, mask: Mask | None) -> Tensor:
        """[N, K + L, W]: what decoders read of images."""
        return self._decoder_input(self.encode(images_NCHW, mask), mask, patch_grid(images_NCHW, self.patch_size))

    def _decoder_input(self, latent: Tensor, mask: Mask | None, grid: tuple[int, int]) -> Tensor:
        """[N, K + L, W]: class tokens, visible patches, mask tokens, each with its position.

        Attention does not care for order, so the tokens are not put back into raster order: the masked patches,
        which alone are predicted, stay together at the end.
        """
        tokens, prefix = self.decoder_embed(latent), self.encoder.num_prefix_tokens
        whole = self.encoder.position_grid
        pos_1TW = first_positions(self.decoder_pos_embed, grid, whole, num_prefix_tokens=prefix)
        if mask is None:
            return tokens + pos_1TW
        pos_LW = pos_1TW[0, prefix:]
        cls_NKW = tokens[:, :prefix] + pos_1TW[:, :prefix]
        visible_NVW = tokens[:, prefix:] + pos_LW[mask.visible]
        masked_NMW = self.mask_token + pos_LW[mask.masked]
        return torch.cat([cls_NKW, visible_NVW, masked_NMW], dim=1)
