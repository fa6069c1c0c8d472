"""Features of frozen encoders.

Shape suffixes: N images, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hpm.data import ImageSource, Split
from hpm.model import Encoder

POOLS = ("mean", "token")


@torch.no_grad()
def extract(
    encoder: Encoder, source: ImageSource, split: Split, indices_N: Tensor, *, pool: str = "mean",
    device: torch.device, batch_size: int = 256,
) -> Tensor:  # fmt: skip
    """Float32 [N, D] on the CPU: the mean of the patch tokens or the class token, of un-augmented images."""
    check_pool("extract", pool)
    features = []
    for indices in indices_N.split(batch_size):
        tokens = encoder(source.load(split, indices).to(device))
        features.append((tokens[:, 1:].mean(dim=1) if pool == "mean" else tokens[:, 0]).float().cpu())
    return torch.cat(features)


def raw_pixels(source: ImageSource, split: Split, indices_N: Tensor) -> Tensor:
    """Float32 [N, C * S * S]: the normalized pixels themselves."""
    return torch.cat([source.load(split, indices).flatten(1) for indices in indices_N.split(1024)])


def check_pool(owner: str, pool: str) -> None:
    """Refuse an unknown pooling.

    Raises:
        ValueError: if it is none of `POOLS`.
    """
    if pool not in POOLS:
        raise ValueError(f"{owner}.pool = {pool!r} is unknown; choose {' or '.join(POOLS)}")
