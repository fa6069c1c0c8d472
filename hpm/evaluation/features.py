"""Features of encoders, of un-augmented images.

Shape suffixes: N images, B images of a batch, C channels, S side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curriculum.validation import require_choice
from hpm.data import ImageSource, Split
from hpm.data.workers import load_in_workers
from hpm.errors import TrainingError, UserError
from hpm.models.encoder import Encoder
from hpm.runtime.finite import not_finite

POOLS = ("mean", "token")
BATCH_SIZE = 256  # images of a forward pass without gradients


@torch.no_grad()
def extract(
    encoder: Encoder,
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    *,
    pool: str = "mean",
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
) -> Tensor:
    """Float32 [N, D] on the CPU: the mean of the patch tokens or the class token, of un-augmented images.

    Raises:
        ValueError: for an unknown pooling, or the class token of an encoder that has none.
        UserError: if an image cannot be read; it names the file.
        TrainingError: for features that are not finite.
    """
    require_choice("extract", POOLS, pool=pool)
    features_ND = torch.empty(len(indices_N), encoder.num_features)
    rows = iter(features_ND.split(batch_size))
    for images_BCSS in batches(source, split, indices_N, device=device, batch_size=batch_size, num_workers=num_workers):
        next(rows).copy_(pooled(encoder, images_BCSS, pool))
    require_finite_features(features_ND)
    return features_ND


def require_finite_features(features_ND: Tensor) -> None:
    """Refuse features that are infinite or NaN: nothing that is measured of them would mean anything.

    Raises:
        TrainingError: if there are any.
    """
    if not_finite({"features": features_ND}):
        raise TrainingError("the encoder's features are not finite: the training of its weights has diverged")


def pooled(encoder: Encoder, images_NCSS: Tensor, pool: str) -> Tensor:
    """[N, D]: the mean of the patch tokens, or the class token.

    Raises:
        ValueError: for the class token of an encoder that has none.
    """
    require_class_token("pooled", encoder, pool)
    tokens = encoder(images_NCSS)
    return tokens[:, encoder.num_prefix_tokens :].mean(dim=1) if pool == "mean" else tokens[:, 0]


def require_class_token(owner: str, encoder: Encoder, pool: str) -> None:
    """Refuse to pool by a class token that is not there.

    Args:
        owner: whose setting `pool` is, as a config writes it.
        encoder: what is pooled.
        pool: "mean" or "token".

    Raises:
        ValueError: naming the setting and the encoder.
    """
    if pool == "token" and not encoder.num_prefix_tokens:
        raise ValueError(
            f"{owner}.pool = 'token' needs a class token, and {type(encoder).__name__} has none; choose 'mean'"
        )


def raw_pixels(source: ImageSource, split: Split, indices_N: Tensor) -> Tensor:
    """Float32 [N, C * S * S]: the normalized pixels themselves."""
    return torch.cat([source.load(split, indices).flatten(1) for indices in indices_N.split(1024)])


def batches(
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    *,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
) -> Iterator[Tensor]:
    """Normalized float32 [B, C, S, S] on the device: the images at `indices_N` in their order, not augmented.

    Raises:
        UserError: if one cannot be read; it names the file.
    """
    batch_indices = indices_N.split(batch_size) if len(indices_N) else ()
    if num_workers == 0:
        for indices_B in batch_indices:
            yield source.load(split, indices_B).to(device)
        return
    split.prepare()
    for loaded in load_in_workers(
        _Unaugmented(source, split),
        [indices_B.tolist() for indices_B in batch_indices],
        num_workers=num_workers,
        collate=_as_loaded,
        pin_memory=device.type == "cuda",
    ):
        if isinstance(loaded, UserError):
            raise loaded
        yield loaded.to(device, non_blocking=True)


class _Unaugmented(Dataset):
    """Loads a whole batch at once, in a worker."""

    def __init__(self, source: ImageSource, split: Split) -> None:
        self.source = source
        self.split = split

    def __getitems__(self, indices: list[int]) -> Tensor | UserError:
        try:
            return self.source.load(self.split, torch.tensor(indices))
        except UserError as error:
            return UserError(*error.args)  # raised here, it would reach the main process as a worker's stack


def _as_loaded(loaded: Any) -> Any:
    return loaded
