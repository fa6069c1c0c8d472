"""MaskedAutoencoder: encoder, reconstructor and loss predictor, on timm's blocks.

The encoder sees the visible patches and a class token. Its output, projected to the decoders' width, is the shared
input of two transformers: the reconstructor predicts the pixels of the masked patches, the loss predictor one
scalar for each, how large the reconstruction's loss will be (HPM, arXiv 2304.05919). Without the loss predictor
this is MAE (arXiv 2111.06377).

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, M masked, D encoder's width,
W decoders' width, P pixels of a patch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from curriculum import Mask
from hpm.patches import patchify, sincos_positions

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Output(NamedTuple):
    """What the student says about the masked patches, in raster order."""

    reconstruction_NMP: Tensor
    predicted_loss_NM: Tensor | None


class Blocks(nn.ModuleList):
    """Transformer blocks, one after the other; timm's.

    Attributes:
        grad_checkpointing: keep only each block's input for the backward pass and compute the rest again.
    """

    def __init__(self, depth: int, width: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__(Block(width, num_heads, mlp_ratio, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth))
        self.grad_checkpointing = False

    def forward(self, tokens: Tensor) -> Tensor:
        for block in self:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens)
        return tokens


class Encoder(nn.Module):
    """A vision transformer that can see a part of the image. Its parameters bear timm's names.

    Built by `MaskedAutoencoder`, whose arguments it takes.
    """

    pos_embed: Tensor

    def __init__(
        self, *, img_size: int, patch_size: int, in_chans: int, embed_dim: int, depth: int, num_heads: int,
        mlp_ratio: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.register_buffer("pos_embed", sincos_positions(embed_dim, self.patch_embed.grid_size).unsqueeze(0))
        self.blocks = Blocks(depth, embed_dim, num_heads, mlp_ratio)
        self.norm = LayerNorm(embed_dim)

    def _embed(self, images_NCHW: Tensor, mask: Mask | None, blank_11D: Tensor | None = None) -> Tensor:
        """[N, 1 + V, D]; all L patches are visible where `mask` is None."""
        proj = self.patch_embed.proj
        patches = patchify(images_NCHW, proj.kernel_size[0])
        pos_LD = self.pos_embed[0, 1:]
        if mask is None:
            positions = pos_LD.unsqueeze(0)
        else:
            # Only what is seen is embedded: a convolution would embed what is then thrown away.
            patches, positions = mask.gather_visible(patches), pos_LD[mask.visible]
        tokens = F.linear(patches, proj.weight.permute(0, 2, 3, 1).flatten(1), proj.bias)
        if mask is not None and mask.blanked is not None:
            if blank_11D is None:
                raise ValueError("the mask blanks visible patches; set MaskedAutoencoder.blank_token = True")
            tokens = torch.where(mask.blanked.unsqueeze(-1), blank_11D.to(tokens.dtype), tokens)
        tokens = tokens + positions
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        return torch.cat([cls_token.to(tokens.dtype), tokens], dim=1)

    def forward(self, images_NCHW: Tensor, mask: Mask | None = None, blank_11D: Tensor | None = None) -> Tensor:
        """[N, 1 + V, D]: the class token, then the visible patches in raster order, normalized.

        `blank_11D` stands for the patches that the mask blanks.
        """
        return self.norm(self.blocks(self._embed(images_NCHW, mask, blank_11D)))

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, L]: the last block's attention from the class token to each patch of the full image, over all heads.

        The mean over heads of the softmax; the class token's own share is left out, so a row sums to less than 1.
        """
        tokens = self._embed(images_NCHW, None)
        for block in list(self.blocks)[:-1]:
            tokens = block(tokens)
        last: Any = self.blocks[-1]
        if isinstance(last, FSDPModule):  # gathers its parameters when it is called, and here it is not
            last.unshard()
        n, t, _ = tokens.shape
        # The fused kernel hides the attention map, so this one product is computed here: one query, all keys.
        qkv = last.attn.qkv(last.norm1(tokens)).reshape(n, t, 3, last.attn.num_heads, -1)
        q_N1HD, k_NTHD = last.attn.q_norm(qkv[:, :1, 0]), last.attn.k_norm(qkv[:, :, 1])
        logits_NHT = torch.einsum("nqhd,nthd->nht", q_N1HD, k_NTHD).float() * last.attn.scale
        if isinstance(last, FSDPModule):
            last.reshard()
        return logits_NHT.softmax(dim=-1).mean(dim=1)[:, 1:]


class Decoder(nn.Module):
    """Transformer blocks, a norm and one linear head."""

    def __init__(self, *, width: int, depth: int, num_heads: int, mlp_ratio: float, outputs: int) -> None:
        super().__init__()
        self.blocks = Blocks(depth, width, num_heads, mlp_ratio)
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, tokens: Tensor, first: int) -> Tensor:
        """Predictions for the tokens from position `first` on; the head is not applied to the others."""
        return self.predict(self.blocks(tokens), first)

    def predict(self, hidden: Tensor, first: int) -> Tensor:
        """The same, from what the blocks gave."""
        return self.head(self.norm(hidden[:, first:]))


class MaskedAutoencoder(nn.Module):
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
        for name, value in {
            "img_size": img_size, "patch_size": patch_size, "in_chans": in_chans, "depth": depth,
            "num_heads": num_heads, "decoder_depth": decoder_depth, "decoder_num_heads": decoder_num_heads,
        }.items():  # fmt: skip
            if value < 1:
                raise ValueError(f"MaskedAutoencoder.{name} = {value} must be at least 1")
        if loss_predictor_depth is not None and loss_predictor_depth < 0:
            raise ValueError(
                f"MaskedAutoencoder.loss_predictor_depth = {loss_predictor_depth} must be at least 1, or 0 for a head "
                "on the reconstructor; None for no loss predictor"
            )
        if img_size % patch_size:
            raise ValueError(
                f"MaskedAutoencoder.patch_size = {patch_size} does not divide MaskedAutoencoder.img_size = {img_size}"
            )
        for name, width, heads in (
            ("embed_dim", embed_dim, num_heads), ("decoder_embed_dim", decoder_embed_dim, decoder_num_heads),
        ):  # fmt: skip
            if width < 4 or width % 4 or width % heads:
                raise ValueError(f"MaskedAutoencoder.{name} = {width} must be a multiple of 4 and of its {heads} heads")
        self.img_size, self.patch_size, self.in_chans, self.mlp_ratio = img_size, patch_size, in_chans, mlp_ratio
        self.encoder = Encoder(
            img_size=img_size, patch_size=patch_size, in_chans=in_chans, embed_dim=embed_dim, depth=depth,
            num_heads=num_heads, mlp_ratio=mlp_ratio,
        )  # fmt: skip
        self.encoder_mask_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if blank_token else None
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.register_buffer("decoder_pos_embed", sincos_positions(decoder_embed_dim, self.grid).unsqueeze(0))
        decoder = partial(Decoder, width=decoder_embed_dim, num_heads=decoder_num_heads, mlp_ratio=mlp_ratio)
        self.reconstructor = decoder(depth=decoder_depth, outputs=self.patch_pixels)
        self.loss_predictor = None if loss_predictor_depth is None else decoder(depth=loss_predictor_depth, outputs=1)
        self.init_weights()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size // self.patch_size, self.img_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def shares_decoder(self) -> bool:
        """Whether the loss predictor is a head on the reconstructor's last block."""
        return self.loss_predictor is not None and not len(self.loss_predictor.blocks)

    @property
    def patch_pixels(self) -> int:
        """P = patch_size^2 * in_chans."""
        return self.patch_size**2 * self.in_chans

    def blocks(self) -> list[nn.Module]:
        """Every transformer block: the parts that are sharded one by one."""
        return [block for module in self.modules() if isinstance(module, Blocks) for block in module]

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: a third more computation, activations of one block at a time."""
        for module in self.modules():
            if isinstance(module, Blocks):
                module.grad_checkpointing = enable

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
        """Reconstruct the masked patches, and predict each one's loss where there is a loss predictor."""
        tokens = self._decoder_input(self.encoder(images_NCHW, mask, self.encoder_mask_token), mask)
        first = 1 + mask.num_visible
        hidden = self.reconstructor.blocks(tokens)
        reconstruction_NMP = self.reconstructor.predict(hidden, first)
        if self.loss_predictor is None:
            return Output(reconstruction_NMP, None)
        predicted_NM1 = self.loss_predictor(hidden if self.shares_decoder else tokens, first)
        return Output(reconstruction_NMP, predicted_NM1.squeeze(-1))

    def reconstruct(self, images_NCHW: Tensor, mask: Mask) -> Tensor:
        """[N, M, P]: the masked patches' reconstruction alone."""
        tokens = self._decoder_input(self.encoder(images_NCHW, mask, self.encoder_mask_token), mask)
        return self.reconstructor(tokens, 1 + mask.num_visible)

    def predict_loss(self, images_NCHW: Tensor) -> Tensor:
        """[N, L]: the predicted loss of every patch of the full, unmasked image. Reconstructs nothing."""
        if self.loss_predictor is None:
            raise ValueError("this model has no loss predictor; set MaskedAutoencoder.loss_predictor_depth")
        tokens = self._decoder_input(self.encoder(images_NCHW), None)
        if self.shares_decoder:
            tokens = self.reconstructor.blocks(tokens)
        return self.loss_predictor(tokens, 1).squeeze(-1)

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, L]: the last block's attention from the class token to each patch; see `Encoder.attention`."""
        return self.encoder.attention(images_NCHW)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, D]: the encoder's patch tokens of the full image."""
        return self.encoder(images_NCHW)[:, 1:]

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
