"""CrossMAE: a masked autoencoder whose decoder reconstructs each masked patch from the visible ones alone.

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, M masked, K feature maps, T tokens,
D encoder's width, P values of a patch's target.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from curriculum import Curriculum, Mask
from hpm.models.base import Output
from hpm.models.checks import require_loss_predictor_depth, require_transformer
from hpm.models.cross_decoder import CrossDecoder
from hpm.models.decoder import init_as_mae, init_loss_head
from hpm.models.encoder import Encoder
from hpm.models.patches import sincos_positions
from hpm.models.with_decoders import ModelWithDecoders


class CrossMAE(ModelWithDecoders):
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

    decoder_pos_embed: Tensor
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
        super().__init__()
        if not isinstance(encoder, Encoder) or not encoder.drops_patches:
            raise ValueError(
                "CrossMAE.encoder must be an encoder that computes visible patches alone, @ViT() without "
                f"ViT.relative_positions, got {type(encoder).__name__}"
            )
        require_transformer(
            "CrossMAE",
            prefix="decoder_",
            embed_dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            mlp_ratio=mlp_ratio,
        )
        require_loss_predictor_depth("CrossMAE", loss_predictor_depth)
        self.encoder = encoder
        self.encoder.get_submodule("norm").requires_grad_(False)
        self.mlp_ratio = mlp_ratio
        self.decoder_num_heads = decoder_num_heads
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.register_buffer(
            "decoder_pos_embed", torch.zeros(1, self.encoder.num_prefix_tokens + self.num_patches, decoder_embed_dim)
        )
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

    def macs_published_code_adds(self, *, masked: int, thrown: int) -> int:
        """Published code embeds every patch, also those that are then masked."""
        return self.patch_pixels * (masked + thrown) * self.encoder.embed_dim

    def check_curriculum(self, curriculum: Curriculum) -> None:
        if curriculum.blank_ratio > 0:
            raise ValueError(
                f"Curriculum.blank_ratio = {curriculum.blank_ratio} needs a mask token in the encoder, which CrossMAE "
                "has not; choose another curriculum, or Method.model = @MaskedAutoencoder()"
            )

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """MAE's initialization, of the feature maps' weights too: Xavier-uniform linears, tokens N(0, 0.02^2)."""
        self.encoder.init_positions()
        width, prefix = self.mask_token.shape[-1], self.encoder.num_prefix_tokens
        self.decoder_pos_embed.copy_(sincos_positions(width, self.grid, num_prefix_tokens=prefix))
        init_as_mae(self, generator)
        for name, parameter in self.encoder.named_parameters():
            if name == "patch_embed.proj.weight":
                nn.init.xavier_uniform_(parameter.view(len(parameter), -1), generator=generator)
            elif name == "patch_embed.proj.bias":
                nn.init.zeros_(parameter)
            elif name in ("cls_token", "reg_token"):
                nn.init.normal_(parameter, std=0.02, generator=generator)
        nn.init.normal_(self.mask_token, std=0.02, generator=generator)
        if self.loss_predictor is not None:
            init_loss_head(self.loss_predictor.head, self.patch_pixels, generator)
        if self.class_head is not None:
            self.class_head.init_weights()

    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        maps_KNTD, queries = self._feature_maps(images_NCHW, mask), self._queries(mask, len(images_NCHW))
        hidden = self.reconstructor.attend(queries, maps_KNTD)
        reconstruction_NMP = self.reconstructor.predict(hidden)
        logits_NY = None
        if self.class_head is not None:
            logits_NY = self._classify(self.encoder.get_submodule("norm")(maps_KNTD[-1]), mask)
        if self.loss_predictor is None:
            return Output(reconstruction_NMP, None, logits_NY)
        predicted_NM1 = self.loss_predictor(hidden if self.shares_decoder else queries, maps_KNTD)
        return Output(reconstruction_NMP, predicted_NM1.squeeze(-1), logits_NY)

    def encode(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        return self.encoder(images_NCHW, mask)

    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        return self.reconstructor(self._queries(mask, len(images_NCHW)), self._feature_maps(images_NCHW, mask))

    def predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None, *, detached: bool = False) -> Tensor:
        if self.loss_predictor is None:
            raise ValueError("this model has no loss predictor; set CrossMAE.loss_predictor_depth")
        with torch.no_grad() if detached else nullcontext():
            maps_KNTD, queries = self._feature_maps(images_NCHW, mask), self._queries(mask, len(images_NCHW))
            if self.shares_decoder:
                queries = self.reconstructor.attend(queries, maps_KNTD)
        return self.loss_predictor(queries, maps_KNTD).squeeze(-1)

    def _feature_maps(self, images_NCHW: Tensor, mask: Mask | None) -> Tensor:
        """[K, N, T, D]: what goes into the encoder's first block and comes out of each, of the visible patches."""
        return self.encoder(images_NCHW, mask, intermediates=True)

    def _queries(self, mask: Mask | None, images: int) -> Tensor:
        """[N, M, W]: a mask token at the place of each masked patch; of every patch, [N, L, W], without a mask."""
        tokens_LW = (self.mask_token + self.decoder_pos_embed)[0, self.encoder.num_prefix_tokens :]
        return tokens_LW.expand(images, -1, -1) if mask is None else tokens_LW[mask.masked]
