"""Models of masked images: what they have in common, and MaskedAutoencoder; `hpm.simmim` has the other.

In a MaskedAutoencoder the encoder sees the visible patches and a class token. Its output, projected to the decoders'
width, is the shared input of two transformers: the reconstructor predicts the target of the masked patches, the loss
predictor one scalar for each, how large the reconstruction's loss will be (HPM, arXiv 2304.05919). Without the loss
predictor this is MAE (arXiv 2111.06377).

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, M masked, D encoder's width,
W decoders' width, P values of a patch's target.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from curriculum import Mask
from hpm.encoder import Blocks, Encoder, LayerNorm, ViT, require_patches, require_sizes, require_width
from hpm.losses import full_precision
from hpm.patches import sincos_positions


class Output(NamedTuple):
    """What the student says about the masked patches, in raster order."""

    reconstruction_NMP: Tensor
    predicted_loss_NM: Tensor | None


class MaskedModel(nn.Module, ABC):
    """A student: an encoder, something that reconstructs what was masked, and perhaps a loss predictor.

    Attributes:
        encoder: what is kept after pre-training.
        mask_token: [1, 1, width], stands for a masked patch.
        loss_predictor: None for a model without one.
        mlp_ratio: of every block.
    """

    mlp_ratio: float
    encoder: Encoder
    mask_token: nn.Parameter
    loss_predictor: nn.Module | None

    @property
    def img_size(self) -> int:
        """Side of the square image in pixels."""
        return self.encoder.img_size

    @property
    def patch_size(self) -> int:
        """Side of the patches that are masked, in pixels."""
        return self.encoder.patch_size

    @property
    def in_chans(self) -> int:
        """Channels of the image."""
        return self.encoder.in_chans

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.encoder.grid

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_pixels(self) -> int:
        """Pixels of a patch, patch_size^2 * in_chans."""
        return self.patch_size**2 * self.in_chans

    @property
    def outputs(self) -> int:
        """P, what is reconstructed of each patch; its pixels, until `set_outputs`."""
        return self.reconstruction_head.out_features

    @property
    @abstractmethod
    def reconstruction_head(self) -> nn.Linear:
        """What gives the reconstruction's values."""

    @abstractmethod
    def set_outputs(self, outputs: int) -> None:
        """Make the reconstruction's head give another number of values. Before the weights are initialized."""

    @abstractmethod
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Initialize every parameter from the generator."""

    @abstractmethod
    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        """Reconstruct the masked patches, and predict each one's loss where there is a loss predictor."""

    @abstractmethod
    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M, P]: the masked patches' reconstruction alone."""

    @abstractmethod
    def predict_loss(self, images_NCHW: Tensor) -> Tensor:
        """[N, L]: the predicted loss of every patch of the full, unmasked image. Reconstructs nothing."""

    @abstractmethod
    def block_sizes(self, masked: int, thrown: int) -> list[tuple[int, int]]:
        """(tokens, width) of every block that the student's pass runs; what it costs follows from them."""

    @property
    @abstractmethod
    def head_widths(self) -> list[int]:
        """What each head on the masked patches reads: the reconstruction's, and the loss predictor's."""

    def cannot(self, capability: str) -> str | None:
        """Why this model cannot be asked for a method of `curriculum.Teacher`, or None where it can."""
        if capability == "predicted_loss" and self.loss_predictor is None:
            return (
                f"the model has no loss predictor: {type(self).__name__}.loss_predictor_depth is None; set it to a "
                "number of blocks, or choose a difficulty that needs none"
            )
        if capability == "attention" and not hasattr(self.encoder, "attention"):
            return (
                f"{type(self.encoder).__name__} has no class token whose attention could be looked at; choose another "
                "difficulty, or ViT as the encoder"
            )
        return None

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, L]: the last block's attention from the class token to each patch; see `ViT.attention`."""
        assert isinstance(self.encoder, ViT)
        return self.encoder.attention(images_NCHW)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D]: the encoder's patch tokens of the full image."""
        return self.encoder(images_NCHW)[:, self.encoder.num_prefix_tokens :]

    def blocks(self) -> list[nn.Module]:
        """Every transformer block: the parts that are sharded one by one."""
        others = (module for name, module in self.named_modules()
                  if isinstance(module, Blocks) and not name.startswith("encoder."))  # fmt: skip
        return self.encoder.blocks_in_order() + [block for module in others for block in module]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: a third more computation, activations of one block at a time."""
        self.encoder.set_grad_checkpointing(enable)
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

    def set_residual_dtype(self, dtype: torch.dtype | None) -> None:
        """What the tokens between the blocks are kept in, under autocast; None for float32, autocast's own choice."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.residual_dtype = dtype


class Decoder(nn.Module):
    """Transformer blocks, a norm and one linear head.

    Args:
        width: of the tokens.
        depth: blocks.
        num_heads: their heads.
        mlp_ratio: hidden width of their feed-forward layers, relative to the width.
        outputs: of the head.
        full_precision_head: compute norm and head in float32 or better whatever the autocast. A predicted loss is
            there to be compared with others, and bf16 ties many of them.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        outputs: int,
        full_precision_head: bool = False,
    ) -> None:
        super().__init__()
        self.full_precision_head = full_precision_head
        self.blocks = Blocks(depth, width, num_heads, mlp_ratio)
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, first: int) -> Tensor:
        """Predictions for the tokens from position `first` on; of the others nothing is computed that none asks."""
        return self.predict(self.blocks(tokens, first=first), 0)

    def predict(self, hidden: Tensor, first: int) -> Tensor:
        """The same, from what the blocks gave."""
        if not self.full_precision_head:
            return self.head(self.norm(hidden[:, first:]))
        # The meta device, on which operations are counted, has no autocast.
        with nullcontext() if hidden.is_meta else torch.autocast(hidden.device.type, enabled=False):
            return self.head(self.norm(full_precision(hidden[:, first:])))


class MaskedAutoencoder(MaskedModel):
    """A masked autoencoder with a loss predictor beside the reconstructor. Defaults: HPM's ViT-B/16.

    Args:
        img_size: side of the square image in pixels.
        patch_size: side of a square patch in pixels; divides `img_size`.
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
    """

    decoder_pos_embed: Tensor
    encoder: ViT
    loss_predictor: Decoder | None

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
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
    ) -> None:
        super().__init__()
        require_sizes(
            "MaskedAutoencoder", img_size=img_size, patch_size=patch_size, in_chans=in_chans, depth=depth,
            num_heads=num_heads, decoder_depth=decoder_depth, decoder_num_heads=decoder_num_heads,
        )  # fmt: skip
        if loss_predictor_depth is not None and loss_predictor_depth < 0:
            raise ValueError(
                f"MaskedAutoencoder.loss_predictor_depth = {loss_predictor_depth} must be at least 1, or 0 for a head "
                "on the reconstructor; None for no loss predictor"
            )
        require_patches("MaskedAutoencoder", img_size, patch_size)
        require_width("MaskedAutoencoder", "embed_dim", embed_dim, num_heads)
        require_width("MaskedAutoencoder", "decoder_embed_dim", decoder_embed_dim, decoder_num_heads)
        self.mlp_ratio = mlp_ratio
        self.encoder = ViT(
            img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depth=depth,
            num_heads=num_heads, mlp_ratio=mlp_ratio,
        )  # fmt: skip
        self.encoder_mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if blank_token else None
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.register_buffer("decoder_pos_embed", sincos_positions(decoder_embed_dim, self.grid).unsqueeze(0))
        decoder = partial(Decoder, width=decoder_embed_dim, num_heads=decoder_num_heads, mlp_ratio=mlp_ratio)
        self.reconstructor = decoder(depth=decoder_depth, outputs=self.patch_pixels)
        self.loss_predictor = None
        if loss_predictor_depth is not None:
            self.loss_predictor = decoder(depth=loss_predictor_depth, outputs=1, full_precision_head=True)
        self.init_weights()

    @property
    def shares_decoder(self) -> bool:
        """Whether the loss predictor is a head on the reconstructor's last block."""
        return self.loss_predictor is not None and not len(self.loss_predictor.blocks)

    @property
    def reconstruction_head(self) -> nn.Linear:
        return self.reconstructor.head

    def set_outputs(self, outputs: int) -> None:
        if outputs != self.outputs:
            self.reconstructor.head = nn.Linear(self.reconstructor.head.in_features, outputs)

    def block_sizes(self, masked: int, thrown: int) -> list[tuple[int, int]]:
        tokens, width = 1 + self.num_patches - thrown, self.mask_token.shape[-1]
        decoders = [decoder for decoder in (self.reconstructor, self.loss_predictor) if decoder is not None]
        return self.encoder.block_sizes(tokens - 1 - masked) + [
            (tokens, width) for decoder in decoders for _ in decoder.blocks
        ]

    @property
    def head_widths(self) -> list[int]:
        return [self.mask_token.shape[-1]] * (1 if self.loss_predictor is None else 2)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """MAE's initialization: Xavier-uniform linears with zero bias, tokens N(0, 0.02^2), norms at identity.

        The patch projection is initialized as a linear layer. HPM's published loss head has P outputs that are
        averaged; ours is that average, one output, so its weights start as the row mean of a Xavier-uniform
        [P, W] matrix: a Xavier-uniform head of one output would start some 44 times larger.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        proj = self.encoder.patch_embed.proj
        nn.init.xavier_uniform_(proj.weight.view(proj.weight.shape[0], -1), generator=generator)
        nn.init.zeros_(proj.bias)
        for token in (self.encoder.cls_token, self.mask_token):
            nn.init.normal_(token, std=0.02, generator=generator)
        if self.loss_predictor is not None:
            weight = self.loss_predictor.head.weight
            bound = math.sqrt(6 / (self.patch_pixels + weight.shape[1]))
            rows = weight.new_empty(self.patch_pixels, weight.shape[1]).uniform_(-bound, bound, generator=generator)
            weight.copy_(rows.mean(dim=0, keepdim=True))
        if self.encoder_mask_token is not None:  # last, so that all others start as they would without it
            nn.init.normal_(self.encoder_mask_token, std=0.02, generator=generator)

    def forward(self, images_NCHW: Tensor, mask: Mask) -> Output:
        tokens = self._decoder_input(self.encoder(images_NCHW, mask, self.encoder_mask_token), mask)
        first = 1 + mask.num_visible
        hidden = self.reconstructor.blocks(tokens, first=first)
        reconstruction_NMP = self.reconstructor.predict(hidden, 0)
        if self.loss_predictor is None:
            return Output(reconstruction_NMP, None)
        predicted_NM1 = self.loss_predictor(hidden, 0) if self.shares_decoder else self.loss_predictor(tokens, first)
        return Output(reconstruction_NMP, predicted_NM1.squeeze(-1))

    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        return self.reconstructor(
            self._decoder_input(self.encoder(images_NCHW, mask, self.encoder_mask_token), mask), 1 + mask.num_visible
        )

    def predict_loss(self, images_NCHW: Tensor) -> Tensor:
        if self.loss_predictor is None:
            raise ValueError("this model has no loss predictor; set MaskedAutoencoder.loss_predictor_depth")
        tokens = self._decoder_input(self.encoder(images_NCHW), None)
        if self.shares_decoder:
            return self.loss_predictor(self.reconstructor.blocks(tokens, first=1), 0).squeeze(-1)
        return self.loss_predictor(tokens, 1).squeeze(-1)

    def _decoder_input(self, latent: Tensor, mask: Mask | None) -> Tensor:
        """[N, 1 + L, W]: class token, visible patches, mask tokens, each with its position.

        Attention does not care for order, so the tokens are not put back into raster order: the masked patches,
        which alone are predicted, stay together at the end.
        """
        tokens = self.decoder_embed(latent)
        if mask is None:
            return tokens + self.decoder_pos_embed
        pos_LW = self.decoder_pos_embed[0, 1:]
        cls_token = tokens[:, :1] + self.decoder_pos_embed[:, :1]
        visible_NVW = tokens[:, 1:] + pos_LW[mask.visible]
        masked_NMW = self.mask_token + pos_LW[mask.masked]
        return torch.cat([cls_token, visible_NVW, masked_NMW], dim=1)
