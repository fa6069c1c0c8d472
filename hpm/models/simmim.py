"""SimMIM: masked patches stay in the image as mask tokens, and one linear head reconstructs them.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, D encoder's width, P values of a patch's
target.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from curriculum import Mask
from hpm.models.base import MaskedModel, Output
from hpm.models.checks import require_loss_predictor_depth
from hpm.models.decoder import Decoder
from hpm.models.encoder import Encoder
from hpm.models.heads import Head, input_widths, multiply_adds

_DEVIATION = 0.02


def _cut_normal(parameter: Tensor, generator: torch.Generator | None) -> None:
    """A normal distribution cut at two deviations, by the inverse of its distribution function.

    `trunc_normal_` of torch 2.14 draws the whole parameter anew while any value of it lies outside, which takes seven
    times as long.
    """
    edge = math.erf(math.sqrt(2))  # the share that lies within two deviations
    parameter.uniform_(-edge, edge, generator=generator).erfinv_().mul_(_DEVIATION * math.sqrt(2))
    parameter.clamp_(-2 * _DEVIATION, 2 * _DEVIATION)  # against rounding


class LossPredictor(Decoder):
    """Blocks, norm and head on the encoder's tokens."""

    def forward(self, tokens: Tensor, first: int, mask: Mask | None = None) -> Tensor:
        """Of the patches' tokens, which start at `first`: all, or those that `mask` masks."""
        patches = self.blocks(tokens)[:, first:]
        return self.predict(patches if mask is None else mask.gather_masked(patches), 0)


class SimMIM(MaskedModel):
    """Masked image modelling without a decoder (Xie et al. 2022, arXiv 2111.09886), with a loss predictor for HPM.

    The encoder sees every patch, a mask token in the place of each that is hidden; a linear head on its tokens
    reconstructs. The loss predictor is another head on the same tokens, or transformer blocks and a head. Patches
    that a curriculum throws away, or blanks, are hidden, and not reconstructed. As published it masks 0.6 of cells of
    32 pixels (`Cells`, or the cells of a `Swin`) and minimizes absolute errors (`Pixels.error = 'absolute'`).

    Args:
        encoder: a `ViT` of one class token or a `Swin`.
        loss_predictor_depth: blocks of the loss predictor, of the encoder's width; 0 for a linear head alone; None
            for no loss predictor.
    """

    def __init__(self, *, encoder: Encoder, loss_predictor_depth: int | None = 0) -> None:
        super().__init__()
        if not isinstance(encoder, Encoder):
            raise ValueError(f"SimMIM.encoder must be an Encoder, @ViT() or @Swin(), got {encoder!r}")
        if (several := encoder.num_prefix_tokens) > 1:
            raise ValueError(
                f"{type(encoder).__name__}.class_tokens = {several} is not for SimMIM, which has one class token; set "
                "1, or choose a MaskedAutoencoder"
            )
        require_loss_predictor_depth("SimMIM", loss_predictor_depth)
        self.encoder = encoder
        self.mlp_ratio = encoder.mlp_ratio
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.embed_dim))
        self.head: Head = nn.Linear(encoder.num_features, self.patch_pixels)
        self.loss_predictor: LossPredictor | None = None
        if loss_predictor_depth is not None:
            self.loss_predictor = LossPredictor(
                width=encoder.num_features,
                depth=loss_predictor_depth,
                num_heads=encoder.num_heads,
                mlp_ratio=encoder.mlp_ratio,
                outputs=1,
                full_precision_head=True,
            )
        self.init_weights()

    @property
    def reconstruction_head(self) -> Head:
        return self.head

    def set_outputs(self, *outputs: int, make: Callable[[int, int], Head] = nn.Linear) -> None:
        if sum(outputs) != self.outputs or make is not nn.Linear:
            self.head = make(self.encoder.num_features, sum(outputs))

    def block_sizes(self, masked: int, thrown: int) -> list[tuple[int, int]]:
        depth = 0 if self.loss_predictor is None else len(self.loss_predictor.blocks)
        tokens = self.encoder.num_prefix_tokens + self.num_patches
        return self.encoder.block_sizes(self.num_patches) + [(tokens, self.encoder.num_features)] * depth

    def macs_published_code_adds(self, *, masked: int, thrown: int) -> int:
        """Published code reconstructs every patch."""
        return multiply_adds(self.head) * (self.num_patches - masked)

    @property
    def head_widths(self) -> list[int]:
        return [*input_widths(self.head), *[self.encoder.num_features] * (self.loss_predictor is not None)]

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """SimMIM's initialization: a normal distribution of deviation 0.02, cut at two of them; biases 0, norms at
        identity, layer scale at its own start.
        """
        self.encoder.init_positions()
        for name, parameter in self.named_parameters():
            kind = name.rpartition(".")[2]
            if kind == "gamma":  # layer scale, timm's name
                nn.init.constant_(parameter, getattr(self.encoder, "init_values", None) or 1.0)
            elif parameter.ndim >= 2:
                _cut_normal(parameter, generator)
            else:
                nn.init.constant_(parameter, 1.0 if kind == "weight" else 0.0)
        if self.class_head is not None:
            self.class_head.init_weights()

    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        tokens = self.encode(images_NCHW, mask)
        reconstruction_NMP = self.head(self._masked(tokens, mask))
        logits_NY = self._classify(tokens, mask)
        if self.loss_predictor is None:
            return Output(reconstruction_NMP, None, logits_NY)
        predicted_NM1 = self.loss_predictor(tokens, self.encoder.num_prefix_tokens, mask)
        return Output(reconstruction_NMP, predicted_NM1.squeeze(-1), logits_NY)

    @property
    def encodes_mask_tokens(self) -> bool:
        return True

    def encode(self, images_NCHW: Tensor, mask: Mask | None = None) -> Tensor:
        return self.encoder(images_NCHW, mask, self.mask_token, in_place=True)

    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        tokens = self.encode(images_NCHW, mask)
        return self.head(self._masked(tokens, mask))

    def predict_loss(self, images_NCHW: Tensor, mask: Mask | None = None, *, detached: bool = False) -> Tensor:
        if self.loss_predictor is None:
            raise ValueError("this model has no loss predictor; set SimMIM.loss_predictor_depth")
        with torch.no_grad() if detached else nullcontext():
            tokens = self.encode(images_NCHW, mask)
        return self.loss_predictor(tokens, self.encoder.num_prefix_tokens, mask).squeeze(-1)

    def unsupported_reason(self, capability: str) -> str | None:
        return None if capability == "head_outputs" else super().unsupported_reason(capability)

    def head_outputs(self, features_NLD: Tensor) -> Tensor:
        return self.head(features_NLD)

    def _masked(self, tokens: Tensor, mask: Mask) -> Tensor:
        """[N, M, D]: the masked patches' tokens."""
        return mask.gather_masked(tokens[:, self.encoder.num_prefix_tokens :])
