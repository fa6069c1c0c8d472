"""Encoder: what turns an image, or the visible part of one, into tokens.

`hpm.models.vit.ViT` and `hpm.models.swin.Swin` are encoders.

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, T tokens, Q queries, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from curriculum import Mask
from curriculum.sizes import Size, pair, spell_size
from hpm.models.blocks import Blocks


class Encoder(nn.Module, ABC):
    """An encoder of masked images, whose parameters bear the names of a timm model's.

    Attributes:
        img_size: of the image in pixels, the side of a square or (height, width).
        patch_size: of the patches that are masked, likewise.
        in_chans: channels of the image.
        embed_dim: width of an embedded patch.
        num_features: D, width of the tokens that it gives.
        num_prefix_tokens: tokens before those of the patches: class tokens, of which the first is what evaluations take
            for the class token; 0 where there is none.
        num_heads: heads of its last block.
        mlp_ratio: hidden width of its feed-forward layers, relative to the width.
        norm: of the tokens that come out of the last block.
    """

    img_size: Size
    patch_size: Size
    in_chans: int
    embed_dim: int
    num_features: int
    num_prefix_tokens: int
    num_heads: int
    mlp_ratio: float
    norm: nn.Module

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        (height, width), (patch_height, patch_width) = pair(self.img_size), pair(self.patch_size)
        return height // patch_height, width // patch_width

    @property
    def position_grid(self) -> tuple[int, int]:
        """Rows and columns that its positions are made for; smaller images are seen at the first of them."""
        return self.grid

    def at_size(self, img_size: Size) -> Encoder:
        """This encoder, with the same weights, as one of smaller images: for what its `grid` and `block_sizes` tell.

        Args:
            img_size: of the images in pixels, multiples of the patches' and no larger than its own.

        Raises:
            ValueError: if it takes images of one size alone: the default.
        """
        raise ValueError(f"{type(self).__name__} takes images of one size alone, {spell_size(self.img_size)} pixels")

    @abstractmethod
    def forward(
        self,
        images_NCHW: Tensor,
        mask: Mask | None = None,
        mask_token: Tensor | None = None,
        *,
        in_place: bool = False,
        intermediates: Iterable[int] | None = None,
    ) -> Tensor:
        """[N, prefix + tokens, D], normalized: the prefix tokens, then the patches' in raster order.

        Args:
            images_NCHW: images.
            mask: None where every patch is seen.
            mask_token: [1, 1, embed_dim], stands in for what is hidden and not left out.
            in_place: the mask token stands in for every patch that is not seen, and L tokens come out. Otherwise only
                visible patches come out, V of them, and it stands in for those that the mask blanks.
            intermediates: the numbers of blocks whose tokens to give instead, [numbers, N, prefix + tokens, D], not
                normalized: what comes out of block 1, 2 and so on, and as 0 what goes into the first. Default None.
                Only of an encoder that `drops_patches`.
        """

    @property
    def drops_patches(self) -> bool:
        """Whether it can compute the visible patches alone, and gives what comes out of each block."""
        return False

    def init_positions(self) -> None:
        """Compute fixed positions anew, in the place of those that were loaded."""

    def unsupported_reason(self, capability: str) -> str | None:
        """Why this encoder cannot answer a question of `curriculum.Teacher`, or None where it can.

        Args:
            capability: the name of the method that asks, such as "attention".
        """
        if capability == "attention":
            return (
                f"{type(self).__name__} has no class token whose attention could be looked at; choose another "
                "difficulty, or ViT as the encoder"
            )
        if capability == "sampled_attention":
            return (
                f"the first block of {type(self).__name__} does not let every patch attend to every other; choose "
                "another difficulty, or ViT as the encoder"
            )
        return None

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, heads, L]: the last block's attention from the class token to each patch of the full image.

        Of several class tokens it is the mean: nothing tells one from another.

        Raises:
            ValueError: for an encoder that has no such attention, as `unsupported_reason` says.
        """
        raise ValueError(self.unsupported_reason("attention"))

    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        """[N, L]: the first block's attention from the given patches of the full image to each, summed over them.

        It is the mean over heads, and costs no more than the embedding and the block's norm and projection.

        Args:
            images_NCHW: images.
            queries_NQ: int64, the patches whose attention it is, in raster order from 0.

        Raises:
            ValueError: for an encoder that has no such attention, as `unsupported_reason` says.
        """
        raise ValueError(self.unsupported_reason("sampled_attention"))

    @abstractmethod
    def blocks_in_order(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""

    @abstractmethod
    def block_sizes(self, tokens: int) -> list[tuple[int, int]]:
        """(tokens, width) of each block, where `tokens` patches are embedded; what a block costs follows from it."""

    def attention_values(self) -> int:
        """Values of the attention maps that a backward pass of one image keeps; 0 where a fused kernel keeps none."""
        return 0

    @abstractmethod
    def timm_architecture(self) -> tuple[str, dict[str, Any]]:
        """The name of a timm model, and the arguments that make it this encoder."""

    @abstractmethod
    def timm_model(
        self, *, num_classes: int = 0, pool: str = "token", norm_last: bool = False, drop_path: float = 0.0
    ) -> nn.Module:
        """A timm model with a copy of the weights, on the CPU, its head as timm makes it.

        Args:
            num_classes: outputs of the head; 0 for none.
            pool: "token" or "avg", the mean of the patches' tokens.
            norm_last: average first and normalize then, where timm's model can (MAE's fine-tuning).
            drop_path: stochastic depth of the last block, rising linearly from 0 at the first.
        """

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute activations again in the backward pass rather than keep them."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def hidden(self, mask: Mask, num_patches: int) -> Tensor:
        """Bool [N, L]: the patches that the encoder does not see, masked, thrown away or blanked."""
        shape = (mask.visible.shape[0], num_patches)
        hidden_NL = torch.ones(shape, dtype=torch.bool, device=mask.visible.device)
        if mask.blanked is None:
            return hidden_NL.scatter_(1, mask.visible, False)
        return hidden_NL.scatter_(1, mask.visible, mask.blanked)

    def _with_weights(self, model: nn.Module, *, norm_last: bool) -> nn.Module:
        """Load this encoder's weights into timm's model, which must have all of them and nothing else but a head."""
        weights = {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}
        if norm_last:  # timm names the norm that follows pooling differently
            weights = {
                name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: value
                for name, value in weights.items()
            }
        head = {name: value for name, value in model.state_dict().items() if name.startswith("head.")}
        model.load_state_dict(weights | head, strict=True)
        return model
