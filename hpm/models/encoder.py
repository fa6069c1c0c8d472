"""Encoders: what turns an image, or the visible part of one, into tokens.

`Encoder` is what a model asks for; `ViT` and `SwinEncoder` (in `hpm.models.swin`) are it.

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, T tokens, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, RelPosBias
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from timm.models.vision_transformer_relpos import RelPosBlock, VisionTransformerRelPos
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from curriculum import Mask
from hpm.models.patches import patchify, sincos_positions
from hpm.runtime.devices import attention_kernels

LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Encoder(nn.Module, ABC):
    """An encoder of masked images, whose parameters bear the names of a timm model's.

    Attributes:
        img_size: side of the square image in pixels.
        patch_size: side of the square patches that are masked, in pixels.
        in_chans: channels of the image.
        embed_dim: width of an embedded patch.
        num_features: D, width of the tokens that it gives.
        num_prefix_tokens: tokens before those of the patches: 1 with a class token, else 0.
        num_heads: heads of its last block.
        mlp_ratio: hidden width of its feed-forward layers, relative to the width.
    """

    img_size: int
    patch_size: int
    in_chans: int
    embed_dim: int
    num_features: int
    num_prefix_tokens: int
    num_heads: int
    mlp_ratio: float

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.img_size // self.patch_size, self.img_size // self.patch_size

    @abstractmethod
    def forward(
        self,
        images_NCHW: Tensor,
        mask: Mask | None = None,
        mask_token: Tensor | None = None,
        *,
        in_place: bool = False,
    ) -> Tensor:
        """[N, prefix + tokens, D], normalized: the prefix tokens, then the patches' in raster order.

        Args:
            images_NCHW: images.
            mask: None where every patch is seen.
            mask_token: [1, 1, embed_dim], stands in for what is hidden and not left out.
            in_place: the mask token stands in for every patch that is not seen, and L tokens come out. Otherwise only
                visible patches come out, V of them, and it stands in for those that the mask blanks.
        """

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

    def hidden(self, mask: Mask) -> Tensor:
        """Bool [N, L]: the patches that the encoder does not see, masked, thrown away or blanked."""
        shape = (mask.visible.shape[0], self.grid[0] * self.grid[1])
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


class GELU(nn.Module):
    """The exact GELU; in place where no gradient will ask for its input, so that a teacher's pass takes less memory."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


class PartialAttention(Attention):
    """timm's attention, which can leave out the first tokens: they are keys and values to the others, and no more."""

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """[N, T - first, D]: what the tokens from position `first` on gather from all."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        q_NHTD, k_NHTD, v_NHTD = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if first:
            q_NHTD = q_NHTD[:, :, first:]
        return self.proj(attend(q_NHTD, k_NHTD, v_NHTD).transpose(1, 2).flatten(2))


def attend(q_NHTD: Tensor, k_NHTD: Tensor, v_NHTD: Tensor) -> Tensor:
    """Fused attention; on a CPU in float32 whatever the autocast, since the kernels for less are slower there."""
    dtype = q_NHTD.dtype
    if q_NHTD.device.type != "cpu" or dtype not in (torch.bfloat16, torch.float16):
        return F.scaled_dot_product_attention(q_NHTD, k_NHTD, v_NHTD)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q_NHTD.float(), k_NHTD.float(), v_NHTD.float()).to(dtype)


class PartialBlock(Block):
    """timm's block, which can leave out the first tokens."""

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """[N, T - first, D]: what becomes of the tokens from position `first` on."""
        gathered = self.ls1(self.attn(self.norm1(tokens), first))
        tokens = (tokens[:, first:] if first else tokens) + gathered
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class Blocks(nn.ModuleList):
    """Transformer blocks, one after the other; timm's.

    Attributes:
        grad_checkpointing: keep only each block's input for the backward pass and compute the rest again.
        residual_dtype: of the tokens that go from block to block under autocast; None for whatever comes in, which
            is float32.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_heads: int,
        mlp_ratio: float,
        *,
        relative: bool = False,
        init_values: float | None = None,
    ) -> None:
        kind = RelPosBlock if relative else partial(PartialBlock, attn_layer=PartialAttention)
        super().__init__(
            kind(
                width,
                num_heads,
                mlp_ratio,
                qkv_bias=True,
                norm_layer=LayerNorm,
                act_layer=GELU,
                init_values=init_values,
            )
            for _ in range(depth)
        )
        self.grad_checkpointing = False
        self.residual_dtype: torch.dtype | None = None

    def forward(self, tokens: Tensor, bias: Tensor | None = None, first: int = 0) -> Tensor:
        """The tokens from position `first` on; of the others the last block computes keys and values alone."""
        more: tuple[Any, ...] = () if bias is None else (bias,)
        if self.residual_dtype is not None and torch.is_autocast_enabled(tokens.device.type):
            tokens = tokens.to(self.residual_dtype)
        last = len(self) - 1
        residual = tokens.dtype  # which layer scale, in float32, would raise
        with attention_kernels(tokens):
            for place, block in enumerate(self):
                if place == last and first:
                    more = (*more, first)
                if self.grad_checkpointing and torch.is_grad_enabled():
                    tokens = checkpoint(block, tokens, *more, use_reentrant=False, preserve_rng_state=False)
                else:
                    tokens = block(tokens, *more)
                if self.residual_dtype is not None:
                    tokens = tokens.to(residual)
        return tokens if len(self) else tokens[:, first:]


class ViT(Encoder):
    """A vision transformer with a class token that can see a part of the image. Defaults: ViT-B/16.

    Args:
        img_size: side of the square image in pixels.
        patch_size: side of a square patch in pixels; divides `img_size`.
        in_chans: channels of the image.
        embed_dim: width, a multiple of 4 and of `num_heads`.
        depth: blocks.
        num_heads: heads.
        mlp_ratio: hidden width of the feed-forward layers, relative to the width.
        relative_positions: positions as a bias of the attention, learned and shared by all blocks (SimMIM, BEiT),
            rather than fixed sin-cos ones that are added to the patches (MAE).
        init_values: layer scale at the start; None for no layer scale.
    """

    pos_embed: Tensor

    def __init__(
        self,
        *,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        relative_positions: bool = False,
        init_values: float | None = None,
    ) -> None:
        super().__init__()
        require_sizes(
            type(self).__name__,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            depth=depth,
            num_heads=num_heads,
        )
        require_patches(type(self).__name__, img_size, patch_size)
        require_width(type(self).__name__, "embed_dim", embed_dim, num_heads)
        self.img_size = img_size
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.embed_dim = self.num_features = embed_dim
        self.num_heads = num_heads
        self.num_prefix_tokens = 1
        self.mlp_ratio = mlp_ratio
        self.init_values = init_values
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.shared_rel_pos: RelPosBias | None = None
        if relative_positions:
            self.shared_rel_pos = RelPosBias(self.patch_embed.grid_size, num_heads, prefix_tokens=1)
        else:
            self.register_buffer("pos_embed", sincos_positions(embed_dim, self.patch_embed.grid_size).unsqueeze(0))
        self.blocks = Blocks(
            depth, embed_dim, num_heads, mlp_ratio, relative=relative_positions, init_values=init_values
        )
        self.norm = LayerNorm(embed_dim)

    def forward(
        self,
        images_NCHW: Tensor,
        mask: Mask | None = None,
        mask_token: Tensor | None = None,
        *,
        in_place: bool = False,
    ) -> Tensor:
        tokens = self._embed(images_NCHW, mask, mask_token, in_place=in_place)
        return self.norm(self.blocks(tokens, self._bias()))

    def _embed(
        self, images_NCHW: Tensor, mask: Mask | None, mask_token: Tensor | None = None, *, in_place: bool = False
    ) -> Tensor:
        """[N, 1 + V, D], or [N, 1 + L, D] where nothing is left out."""
        patches, proj = patchify(images_NCHW, self.patch_size), self.patch_embed.proj
        cls_token: Tensor = self.cls_token
        absolute = self.shared_rel_pos is None
        positions, hidden = self.pos_embed[0, 1:] if absolute else None, None
        if mask is not None and not in_place:
            # Only what is seen is embedded: a convolution would embed what is then thrown away.
            patches, hidden = mask.gather_visible(patches), mask.blanked
            positions = positions[mask.visible] if positions is not None else None
        elif mask is not None:
            hidden = self.hidden(mask)
        tokens = F.linear(patches, proj.weight.permute(0, 2, 3, 1).flatten(1), proj.bias)
        if hidden is not None:
            if mask_token is None:
                raise ValueError("the mask blanks visible patches; set MaskedAutoencoder.blank_token = True")
            tokens = torch.where(hidden.unsqueeze(2), mask_token.to(tokens.dtype), tokens)
        if positions is not None:
            tokens, cls_token = tokens + positions, cls_token + self.pos_embed[:, :1]
        return torch.cat([cls_token.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)

    def _bias(self) -> Tensor | None:
        """[1, heads, T, T], or None where positions are not relative."""
        return None if self.shared_rel_pos is None else self.shared_rel_pos.get_bias()

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """[N, L]: the last block's attention from the class token to each patch of the full image, over all heads.

        The mean over heads of the softmax; the class token's own share is left out, so a row sums to less than 1.
        """
        tokens, bias = self._embed(images_NCHW, None), self._bias()
        for block in list(self.blocks)[:-1]:
            tokens = block(tokens) if bias is None else block(tokens, bias)
        last: Any = self.blocks[-1]
        if isinstance(last, FSDPModule):  # gathers its parameters when it is called, and here it is not
            last.unshard()
        n, t, _ = tokens.shape
        # The fused kernel hides the attention map, so this one product is computed here: one query, all keys.
        qkv = last.attn.qkv(last.norm1(tokens)).reshape(n, t, 3, last.attn.num_heads, -1)
        q_N1HD, k_NTHD = last.attn.q_norm(qkv[:, :1, 0]), last.attn.k_norm(qkv[:, :, 1])
        logits_NHT = torch.einsum("nqhd,nthd->nht", q_N1HD, k_NTHD).float() * last.attn.scale
        if bias is not None:
            logits_NHT = logits_NHT + bias[:, :, 0]
        if isinstance(last, FSDPModule):
            last.reshard()
        return logits_NHT.softmax(dim=-1).mean(dim=1)[:, 1:]

    def blocks_in_order(self) -> list[nn.Module]:
        return list(self.blocks)

    def block_sizes(self, tokens: int) -> list[tuple[int, int]]:
        return [(1 + tokens, self.num_features)] * len(self.blocks)

    def timm_architecture(self) -> tuple[str, dict[str, Any]]:
        # timm's models of these widths; which one does not matter, as every argument is given.
        name = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}.get(self.num_features, "tiny")
        arguments: dict[str, Any] = {
            "img_size": self.img_size,
            "patch_size": self.patch_size,
            "in_chans": self.in_chans,
            "embed_dim": self.num_features,
            "depth": len(self.blocks),
            "num_heads": self.num_heads,
            "mlp_ratio": self.mlp_ratio,
        }
        if self.init_values is not None:
            arguments["init_values"] = self.init_values
        if self.shared_rel_pos is None:
            return f"vit_{name}_patch{14 if name == 'huge' else 16}_224", arguments
        # Of a layer scale timm takes 0 for none: None would give way to its default.
        arguments |= {
            "init_values": self.init_values or 0.0,
            "qkv_bias": True,
            "class_token": True,
            "rel_pos_type": "bias",
            "shared_rel_pos": True,
        }
        return "vit_relpos_base_patch16_224", arguments

    def timm_model(
        self, *, num_classes: int = 0, pool: str = "token", norm_last: bool = False, drop_path: float = 0.0
    ) -> nn.Module:
        kind = VisionTransformer if self.shared_rel_pos is None else VisionTransformerRelPos
        with torch.random.fork_rng(devices=[]):  # its first weights are thrown away; the global generator stays
            vit = kind(
                num_classes=num_classes,
                global_pool=pool,
                fc_norm=norm_last,
                norm_layer=LayerNorm,
                weight_init="skip",
                drop_path_rate=drop_path,
                **self.timm_architecture()[1],
            )
        return self._with_weights(vit, norm_last=norm_last)


def require_sizes(owner: str, **sizes: int) -> None:
    """Refuse sizes below 1.

    Raises:
        ValueError: naming the binding.
    """
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{owner}.{name} = {value} must be at least 1")


def require_patches(owner: str, img_size: int, patch_size: int) -> None:
    """Refuse an image that patches do not fill.

    Raises:
        ValueError: naming the bindings.
    """
    if img_size % patch_size:
        raise ValueError(f"{owner}.patch_size = {patch_size} does not divide {owner}.img_size = {img_size}")


def require_width(owner: str, name: str, width: int, num_heads: int) -> None:
    """Refuse a width that sin-cos positions or the heads cannot share out.

    Raises:
        ValueError: naming the binding.
    """
    if width < 4 or width % 4 or width % num_heads:
        raise ValueError(f"{owner}.{name} = {width} must be a multiple of 4 and of its {num_heads} heads")
