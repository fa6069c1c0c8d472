"""A Swin transformer as an encoder of masked images.

Shape suffixes: N images, C channels, H and W pixels, L patches, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from curriculum import Mask
from curriculum.sizes import Size, as_size, divides, pair
from curriculum.validation import require_at_least, require_positive
from hpm.models.checks import require_buildable, require_image
from hpm.models.encoder import Encoder


class Swin(Encoder):
    """A Swin transformer (Liu et al. 2021, arXiv 2103.14030), timm's. Defaults: Swin-B at 192 pixels, as SimMIM's.

    It sees all of the image. What is masked are the cells that its last stage makes one token of: 32 pixels by
    default, `patch_size` times 2 for each further stage. It has no class token. Images are of one size alone.

    Args:
        img_size: of the image in pixels, the side of a square or (height, width); multiples of a cell's side.
        patch_size: side of what is embedded as one token in the first stage, in pixels.
        in_chans: channels of the image.
        embed_dim: width of the first stage; doubles with each further one.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: side of the windows in which attention works, in tokens; a smaller stage is one window.
        mlp_ratio: hidden width of the feed-forward layers, relative to the width.
    """

    num_prefix_tokens = 0

    def __init__(
        self,
        *,
        img_size: Size = 192,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 128,
        depths: tuple[int, ...] = (2, 2, 18, 2),
        num_heads: tuple[int, ...] = (4, 8, 16, 32),
        window_size: int = 6,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        img_size = as_size("Swin", 1, img_size=img_size)
        require_at_least("Swin", 1, patch_size=patch_size, in_chans=in_chans)
        require_at_least("Swin", 1, embed_dim=embed_dim, window_size=window_size)
        require_positive("Swin", mlp_ratio=mlp_ratio)
        _require_stages(depths, num_heads, embed_dim)
        require_image("Swin", img_size=img_size, patch_size=patch_size, in_chans=in_chans)
        stages = [(embed_dim * 2**place, depth) for place, depth in enumerate(depths)]
        require_buildable("Swin", stages, mlp_ratio)
        cell = patch_size * 2 ** (len(depths) - 1)
        if not divides(cell, img_size):
            raise ValueError(
                f"Swin.img_size = {img_size} must be a multiple of {cell}, the cells that Swin.patch_size = "
                f"{patch_size} and {len(depths)} stages make"
            )
        self.img_size = img_size
        self.in_chans = in_chans
        self.embed_dim = embed_dim
        self.mlp_ratio = mlp_ratio
        self.patch_size = cell
        self.num_features = embed_dim * 2 ** (len(depths) - 1)
        self.num_heads = num_heads[-1]
        self._arguments: dict[str, Any] = {
            "img_size": img_size,
            "patch_size": patch_size,
            "in_chans": in_chans,
            "embed_dim": embed_dim,
            "depths": tuple(depths),
            "num_heads": tuple(num_heads),
            "window_size": window_size,
            "mlp_ratio": mlp_ratio,
        }
        swin = SwinTransformer(num_classes=0, drop_path_rate=0.0, weight_init="skip", **self._arguments)
        self.patch_embed = swin.patch_embed
        self.layers = swin.layers
        self.norm = swin.norm

    def forward(
        self,
        images_NCHW: Tensor,
        mask: Mask | None = None,
        mask_token: Tensor | None = None,
        *,
        in_place: bool = False,
        intermediates: Iterable[int] | None = None,
    ) -> Tensor:
        tokens_NHWD = self.patch_embed(images_NCHW)
        if mask is not None:
            if mask_token is None or not in_place:
                raise ValueError("a Swin leaves no patch out: pass a mask token that stands in its place")
            side = tokens_NHWD.shape[1] // self.grid[0]
            hidden = (
                self.hidden(mask, self.grid[0] * self.grid[1])
                .view(-1, *self.grid)
                .repeat_interleave(side, 1)
                .repeat_interleave(side, 2)
            )
            token = mask_token.to(tokens_NHWD.dtype).view(1, 1, 1, -1)
            tokens_NHWD = torch.where(hidden.unsqueeze(3), token, tokens_NHWD)
        return self.norm(self.layers(tokens_NHWD)).flatten(1, 2)

    def blocks_in_order(self) -> list[nn.Module]:
        return [block for stage in self.layers for block in stage.blocks]

    def block_sizes(self, tokens: int) -> list[tuple[int, int]]:
        depths = self._arguments["depths"]
        height, width = (side // self._arguments["patch_size"] for side in pair(self.img_size))
        return [
            (height * width // 4**stage, self.embed_dim * 2**stage)
            for stage, depth in enumerate(depths)
            for _ in range(depth)
        ]

    def attention_values(self) -> int:
        maps = zip(self.layers, self._arguments["depths"], self._arguments["num_heads"], strict=True)
        return sum(
            math.prod((*stage.output_resolution, *stage.blocks[0].window_size, depth, heads))
            for stage, depth, heads in maps
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.layers:
            stage.grad_checkpointing = enable

    def timm_architecture(self) -> tuple[str, dict[str, Any]]:
        return "swin_base_patch4_window7_224", dict(self._arguments)

    def timm_model(
        self, *, num_classes: int = 0, pool: str = "token", norm_last: bool = False, drop_path: float = 0.0
    ) -> nn.Module:
        """See `Encoder.timm_model`; timm's Swin normalizes before it averages, whatever `norm_last`.

        Raises:
            ValueError: for the class token, which it has none of.
        """
        if pool != "avg":
            raise ValueError(f"a Swin has no class token to pool by {pool!r}; choose the mean of the patches")
        with torch.random.fork_rng(devices=[]):  # its first weights are thrown away; the global generator stays
            swin = SwinTransformer(
                num_classes=num_classes,
                global_pool=pool,
                drop_path_rate=drop_path,
                weight_init="skip",
                **self._arguments,
            )
        return self._with_weights(swin, norm_last=False)


def _require_stages(depths: tuple[int, ...], num_heads: tuple[int, ...], embed_dim: int) -> None:
    """Refuse stages that cannot be built.

    Raises:
        ValueError: naming the setting.
    """
    if not depths or len(depths) != len(num_heads):
        raise ValueError(f"Swin.depths = {depths} and Swin.num_heads = {num_heads} must be of as many stages")
    for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        require_at_least("Swin", 1, **{f"depths[{stage}]": depth, f"num_heads[{stage}]": heads})
        width = embed_dim * 2**stage
        if width % heads:
            raise ValueError(
                f"Swin.num_heads = {num_heads}: the width of stage {stage}, {width} by Swin.embed_dim = {embed_dim}, "
                f"must be a multiple of its {heads} heads"
            )
