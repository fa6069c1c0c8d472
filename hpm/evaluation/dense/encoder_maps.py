"""Feature maps of an encoder: what networks for dense tasks are built on.

Shape suffixes: N images, C channels, H W pixels, R K rows and columns of tokens, D width.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from curriculum.sizes import pair
from curriculum.validation import require_in
from hpm.evaluation.dense.patch_tokens import token_grid
from hpm.evaluation.supervised_protocol import autocast
from hpm.models.base import MaskedModel


class EncoderMap(nn.Module):
    """The encoder's tokens as a map, normalized as they come out of it.

    Args:
        model: whose encoder is copied, as timm's model of its kind.
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first. Default none.

    Attributes:
        network: timm's model.
        width: D.
        grid: R and K of the images that the encoder takes.
    """

    def __init__(self, model: MaskedModel, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.network: Any = model.encoder.timm_model(drop_path=drop_path).to(model.mask_token.device)
        self.width = model.encoder.num_features
        self._prefix = model.encoder.num_prefix_tokens
        self._patch_size = pair(model.patch_size)
        last, _ = model.encoder.block_sizes(model.num_patches)[-1]
        self.grid = token_grid(last - self._prefix, model.grid)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """[N, D, R, K]."""
        tokens = self.network.forward_features(images_NCHW)
        if tokens.ndim == 4:  # a Swin's, [N, R, K, D]
            return tokens.permute(0, 3, 1, 2)
        tokens = tokens[:, self._prefix :]
        (height, width), patch = images_NCHW.shape[2:], self._patch_size
        grid = token_grid(tokens.shape[1], (height // patch[0], width // patch[1]))
        return tokens.transpose(1, 2).unflatten(2, grid)


class SimpleFeaturePyramid(nn.Module):
    """ViTDet's pyramid, of one map (Li et al. 2022, arXiv 2203.16527): 4, 2, 1 and 1/2 times its size, and 1/4.

    Each is made from the encoder's last map alone, by deconvolution or pooling, and then has two convolutions, with
    layer norm. The last, for the region proposals alone, is the one before pooled.

    Args:
        encoder: gives the map.
        channels: of every level.

    Attributes:
        precision: that it computes in, "bf16" or "fp32"; the maps are float32.
        out_channels: what torchvision's detectors ask for.
        LEVELS: the names of the levels that regions are pooled from.
    """

    LEVELS = ("x4", "x2", "x1", "x0.5")

    def __init__(self, encoder: EncoderMap, *, channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.precision = "fp32"
        self.out_channels = channels
        width = encoder.width
        half, quarter = max(1, width // 2), max(1, width // 4)
        scaled: list[tuple[nn.Module, int]] = [
            (
                nn.Sequential(
                    nn.ConvTranspose2d(width, half, 2, 2),
                    _ChannelNorm(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ),
                quarter,
            ),
            (nn.ConvTranspose2d(width, half, 2, 2), half),
            (nn.Identity(), width),
            (nn.MaxPool2d(2), width),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(own, channels, 1, bias=False),
                _ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                _ChannelNorm(channels),
            )
            for scale, own in scaled
        )

    def forward(self, images_NCHW: Tensor) -> OrderedDict[str, Tensor]:
        """Maps [N, channels, ...] by the levels' names, the largest first, in float32."""
        low = self.precision == "bf16"
        with autocast(self.precision, images_NCHW.device) if low else nullcontext():
            tokens_NDRK = self.encoder(images_NCHW)
            levels = [level(tokens_NDRK) for level in self.levels]
        maps = OrderedDict((name, level.float()) for name, level in zip(self.LEVELS, levels, strict=True))
        maps["x0.25"] = F.max_pool2d(maps["x0.5"], 1, stride=2)
        return maps


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, maps_NDRK: Tensor) -> Tensor:
        """[N, D, R, K]."""
        return super().forward(maps_NDRK.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def require_channels(owner: str, channels: int) -> None:
    """Refuse a decoder that would be too narrow, or not divide into what its layers have in common.

    Raises:
        ValueError: naming the owner's setting.
    """
    require_in(owner, "[16, 4096]", channels=channels)
    if channels % 16:
        raise ValueError(f"{owner}.channels = {channels} must be a multiple of 16")
