"""A vision transformer as an encoder of masked images.

Shape suffixes: N images, C channels, H and W pixels, L patches, V visible, K class tokens, T tokens, Q queries,
D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, RelPosBias
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from curriculum import Mask
from curriculum.sizes import Size
from curriculum.validation import require_positive
from hpm.models.blocks import Blocks, LayerNorm
from hpm.models.checks import require_class_tokens, require_patches, require_transformer
from hpm.models.encoder import Encoder
from hpm.models.patches import first_positions, patch_grid, patchify, sincos_positions


class ViT(Encoder):
    """A vision transformer with class tokens that can see a part of the image. Defaults: ViT-B/16.

    Args:
        img_size: of the image in pixels, the side of a square or (height, width).
        patch_size: of a patch in pixels, the side of a square or (height, width); divides `img_size`.
        in_chans: channels of the image.
        embed_dim: width, a multiple of 4 and of `num_heads`.
        depth: blocks.
        num_heads: heads.
        mlp_ratio: hidden width of the feed-forward layers, relative to the width.
        relative_positions: positions as a bias of the attention, learned and shared by all blocks (SimMIM, BEiT),
            rather than fixed sin-cos ones that are added to the patches (MAE).
        init_values: layer scale at the start; None for no layer scale.
        class_tokens: K; Pixio has 8 (arXiv 2512.15715). Those behind the first have the name of timm's register
            tokens. Default 1, the only number that goes with relative positions.
    """

    pos_embed: Tensor

    def __init__(
        self,
        *,
        img_size: Size = 224,
        patch_size: Size = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        relative_positions: bool = False,
        init_values: float | None = None,
        class_tokens: int = 1,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        img_size, patch_size = require_patches(owner, img_size=img_size, patch_size=patch_size, in_chans=in_chans)
        require_transformer(owner, embed_dim=embed_dim, depth=depth, num_heads=num_heads, mlp_ratio=mlp_ratio)
        require_positive(owner, init_values=init_values)
        require_class_tokens(owner, class_tokens)
        if relative_positions and class_tokens > 1:
            raise ValueError(
                f"{owner}.class_tokens = {class_tokens} needs {owner}.relative_positions = False: timm's model with "
                "relative positions has one class token"
            )
        self.img_size = img_size
        self.patch_size = patch_size
        self.in_chans = in_chans
        self.embed_dim = self.num_features = embed_dim
        self.num_heads = num_heads
        self.num_prefix_tokens = class_tokens
        self.mlp_ratio = mlp_ratio
        self.init_values = init_values
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.reg_token = nn.Parameter(torch.zeros(1, class_tokens - 1, embed_dim)) if class_tokens > 1 else None
        self.shared_rel_pos: RelPosBias | None = None
        if relative_positions:
            self.shared_rel_pos = RelPosBias(self.patch_embed.grid_size, num_heads, prefix_tokens=1)
        else:
            self.register_buffer("pos_embed", torch.zeros(1, class_tokens + self.patch_embed.num_patches, embed_dim))
            self.init_positions()
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
        intermediates: Iterable[int] | None = None,
    ) -> Tensor:
        tokens, bias = self._embed(images_NCHW, mask, mask_token, in_place=in_place), self._bias(images_NCHW)
        if intermediates is not None:
            found = self.blocks.intermediates(tokens, bias)
            return torch.stack([found[number] for number in intermediates])
        return self.norm(self.blocks(tokens, bias))

    @property
    def position_grid(self) -> tuple[int, int]:
        rows, columns = self.patch_embed.grid_size
        return rows, columns

    def at_size(self, img_size: Size) -> ViT:
        encoder = copy.copy(self)
        encoder.img_size = img_size
        return encoder

    @property
    def drops_patches(self) -> bool:
        return self.shared_rel_pos is None

    def _embed(
        self, images_NCHW: Tensor, mask: Mask | None, mask_token: Tensor | None = None, *, in_place: bool = False
    ) -> Tensor:
        """[N, K + V, D], or [N, K + L, D] where nothing is left out."""
        patches = patchify(images_NCHW, self.patch_size)
        proj = self.patch_embed.proj
        prefix = self.num_prefix_tokens
        cls_tokens: Tensor = self.cls_token
        if self.reg_token is not None:
            cls_tokens = torch.cat([cls_tokens, self.reg_token], dim=1)
        pos_1TD = self._positions(images_NCHW)
        positions = None if pos_1TD is None else pos_1TD[0, prefix:]
        hidden = None
        if mask is not None and not in_place:
            # Only what is seen is embedded: a convolution would embed what is then thrown away.
            patches = mask.gather_visible(patches)
            hidden = mask.blanked
            positions = None if positions is None else positions[mask.visible]
        elif mask is not None:
            hidden = self.hidden(mask, patches.shape[1])
        tokens = F.linear(patches, proj.weight.permute(0, 2, 3, 1).flatten(1), proj.bias)
        if hidden is not None:
            if mask_token is None:
                raise ValueError("the mask blanks visible patches; set MaskedAutoencoder.blank_token = True")
            tokens = torch.where(hidden.unsqueeze(2), mask_token.to(tokens.dtype), tokens)
        if positions is not None and pos_1TD is not None:
            tokens = tokens + positions
            cls_tokens = cls_tokens + pos_1TD[:, :prefix]
        return torch.cat([cls_tokens.expand(len(tokens), -1, -1).to(tokens.dtype), tokens], dim=1)

    def init_positions(self) -> None:
        if self.shared_rel_pos is None:
            positions = sincos_positions(self.embed_dim, self.grid, num_prefix_tokens=self.num_prefix_tokens)
            self.pos_embed.copy_(positions)

    def _positions(self, images_NCHW: Tensor) -> Tensor | None:
        """[1, K + L, D], or None where positions are relative."""
        if self.shared_rel_pos is not None:
            return None
        grid = patch_grid(images_NCHW, self.patch_size)
        return first_positions(self.pos_embed, grid, self.position_grid, num_prefix_tokens=self.num_prefix_tokens)

    def _bias(self, images_NCHW: Tensor) -> Tensor | None:
        """[1, heads, T, T], or None where positions are not relative. Of smaller images it is what patches have that
        lie as many rows and columns apart.
        """
        if self.shared_rel_pos is None:
            return None
        bias_1HTT, grid = self.shared_rel_pos.get_bias(), patch_grid(images_NCHW, self.patch_size)
        if grid == self.position_grid:
            return bias_1HTT
        place_1T1 = torch.arange(bias_1HTT.shape[-1], device=bias_1HTT.device).view(1, -1, 1)
        place_T = first_positions(place_1T1, grid, self.position_grid).flatten()
        return bias_1HTT[:, :, place_T][:, :, :, place_T]

    def unsupported_reason(self, capability: str) -> str | None:
        return None

    def attention(self, images_NCHW: Tensor) -> Tensor:
        """See `Encoder.attention`. The class tokens' own share is left out, so that a row sums to less than 1."""
        tokens, bias = self._embed(images_NCHW, None), self._bias(images_NCHW)
        for block in list(self.blocks)[:-1]:
            tokens = block(tokens) if bias is None else block(tokens, bias)
        last: Any = self.blocks[-1]
        if isinstance(last, FSDPModule):  # gathers its parameters when it is called, and here it is not
            last.unshard()
        (n, t, _), prefix = tokens.shape, self.num_prefix_tokens
        # The fused kernel hides the attention map, so this one product is computed here: queries of class tokens, all
        # keys.
        qkv = last.attn.qkv(last.norm1(tokens)).reshape(n, t, 3, last.attn.num_heads, -1)
        q_NKHD, k_NTHD = last.attn.q_norm(qkv[:, :prefix, 0]), last.attn.k_norm(qkv[:, :, 1])
        logits_NHKT = torch.einsum("nkhd,nthd->nhkt", q_NKHD, k_NTHD).float() * last.attn.scale
        if bias is not None:
            logits_NHKT = logits_NHKT + bias[:, :, :prefix]
        if isinstance(last, FSDPModule):
            last.reshard()
        return logits_NHKT.softmax(dim=-1).mean(dim=2)[:, :, prefix:]

    def sampled_attention(self, images_NCHW: Tensor, queries_NQ: Tensor) -> Tensor:
        """See `Encoder.sampled_attention`. The class tokens' share of each row is left out."""
        tokens, bias = self._embed(images_NCHW, None), self._bias(images_NCHW)
        first: Any = self.blocks[0]
        if isinstance(first, FSDPModule):  # gathers its parameters when it is called, and here it is not
            first.unshard()
        n, t, _ = tokens.shape
        qkv = first.attn.qkv(first.norm1(tokens)).reshape(n, t, 3, first.attn.num_heads, -1)
        place_NQ = queries_NQ + self.num_prefix_tokens
        q_NQHD = qkv[:, :, 0].gather(1, place_NQ[:, :, None, None].expand(-1, -1, *qkv.shape[3:]))
        q_NQHD, k_NTHD = first.attn.q_norm(q_NQHD), first.attn.k_norm(qkv[:, :, 1])
        logits_NHQT = torch.einsum("nqhd,nthd->nhqt", q_NQHD, k_NTHD).float() * first.attn.scale
        if bias is not None:
            logits_NHQT = logits_NHQT + bias[0][:, place_NQ].transpose(0, 1)
        if isinstance(first, FSDPModule):
            first.reshard()
        return logits_NHQT.softmax(dim=-1).mean(dim=1).sum(dim=1)[:, self.num_prefix_tokens :]

    def blocks_in_order(self) -> list[nn.Module]:
        return list(self.blocks)

    def block_sizes(self, tokens: int) -> list[tuple[int, int]]:
        return [(self.num_prefix_tokens + tokens, self.num_features)] * len(self.blocks)

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
        if self.reg_token is not None:
            arguments["reg_tokens"] = self.num_prefix_tokens - 1
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
