"""What models have in common that reconstruct, and predict losses, by decoders.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, W decoders' width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from curriculum import Curriculum, Mask
from hpm.models.base import MaskedModel
from hpm.models.checks import require_loss_predictor_depth, require_transformer
from hpm.models.decoder import DecoderHead, init_as_mae, init_loss_head
from hpm.models.encoder import Encoder
from hpm.models.heads import Head, input_widths
from hpm.models.patches import first_positions, patch_grid, sincos_positions


class ModelWithDecoders(MaskedModel):
    """A student with a decoder that reconstructs and perhaps one that predicts the losses.

    Attributes:
        reconstructor: the first.
        loss_predictor: the second, or a head on the reconstructor's last block; None for a model without one.
    """

    reconstructor: DecoderHead
    loss_predictor: DecoderHead | None

    @property
    def shares_decoder(self) -> bool:
        """Whether the loss predictor is a head on the reconstructor's last block."""
        return self.loss_predictor is not None and not len(self.loss_predictor.blocks)

    @property
    def reconstruction_head(self) -> Head:
        return self.reconstructor.head

    def set_outputs(self, *outputs: int, make: Callable[[int, int], Head] = nn.Linear) -> None:
        if sum(outputs) != self.outputs or make is not nn.Linear:
            self.reconstructor.head = make(self.mask_token.shape[-1], sum(outputs))

    @property
    def decoders(self) -> list[DecoderHead]:
        """Those that reconstruct, and the loss predictor where there is one."""
        return [decoder for decoder in (self.reconstructor, self.loss_predictor) if decoder is not None]

    @property
    def head_widths(self) -> list[int]:
        return [*input_widths(self.reconstructor.head), *[self.mask_token.shape[-1]] * (len(self.decoders) - 1)]


class ModelOnEncoder(ModelWithDecoders):
    """One whose encoder is a part of its own, which computes visible patches alone.

    Args:
        encoder: a `ViT` with fixed positions.
        decoder_embed_dim: W, of reconstructor and loss predictor, a multiple of 4 and of `decoder_num_heads`.
        decoder_depth: the reconstructor's blocks.
        decoder_num_heads: heads of both.
        loss_predictor_depth: the loss predictor's blocks; None for no loss predictor.
        mlp_ratio: hidden width of the decoders' feed-forward layers, relative to the width.

    Raises:
        ValueError: naming the setting at fault.
    """

    decoder_pos_embed: Tensor

    def __init__(
        self,
        *,
        encoder: Encoder,
        decoder_embed_dim: int,
        decoder_depth: int,
        decoder_num_heads: int,
        loss_predictor_depth: int | None,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(encoder, Encoder) or not encoder.drops_patches:
            raise ValueError(
                f"{name}.encoder must be an encoder that computes visible patches alone, @ViT() without "
                f"ViT.relative_positions, got {type(encoder).__name__}"
            )
        require_transformer(
            name,
            prefix="decoder_",
            embed_dim=decoder_embed_dim,
            depth=decoder_depth,
            num_heads=decoder_num_heads,
            mlp_ratio=mlp_ratio,
        )
        require_loss_predictor_depth(name, loss_predictor_depth)
        self.encoder = encoder
        self.mlp_ratio = mlp_ratio
        self.decoder_num_heads = decoder_num_heads
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.register_buffer(
            "decoder_pos_embed", torch.zeros(1, encoder.num_prefix_tokens + self.num_patches, decoder_embed_dim)
        )

    def check_curriculum(self, curriculum: Curriculum) -> None:
        if curriculum.blank_ratio > 0:
            raise ValueError(
                f"Curriculum.blank_ratio = {curriculum.blank_ratio} needs a mask token in the encoder, which "
                f"{type(self).__name__} has not; choose another curriculum, or Method.model = @MaskedAutoencoder()"
            )

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """MAE's initialization, of all linear layers: Xavier-uniform; tokens N(0, 0.02^2)."""
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

    def encode(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        return self.encoder(images_NCHW, mask)

    def at_places(self, token_11W: Tensor, positions_1LW: Tensor, images_NCHW: Tensor) -> Tensor:
        """[L, W]: a token at the place of each patch of these images; the positions are those of class tokens first."""
        prefix, whole = self.encoder.num_prefix_tokens, self.encoder.position_grid
        grid = patch_grid(images_NCHW, self.patch_size)
        return (token_11W + first_positions(positions_1LW, grid, whole, num_prefix_tokens=prefix))[0, prefix:]

    def no_loss_predictor(self) -> ValueError:
        """What to raise where losses are to be predicted without a loss predictor."""
        return ValueError(f"this model has no loss predictor; set {type(self).__name__}.loss_predictor_depth")
