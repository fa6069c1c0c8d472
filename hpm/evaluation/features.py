"""Features of frozen encoders.

Shape suffixes: N training images, M test images, B images of a batch, C channels, S side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hpm.data import ImageSource, Split
from hpm.errors import UserError
from hpm.evaluation.base import EvaluationContext
from hpm.models.encoder import Encoder

POOLS = ("mean", "token")


@torch.no_grad()
def extract(
    encoder: Encoder,
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    *,
    pool: str = "mean",
    device: torch.device,
    batch_size: int = 256,
    num_workers: int = 0,
) -> Tensor:
    """Float32 [N, D] on the CPU: the mean of the patch tokens or the class token, of un-augmented images."""
    check_pool("extract", pool)
    features_ND = torch.empty(len(indices_N), encoder.num_features)
    places = iter(features_ND.split(batch_size))
    for images_BCSS in batches(source, split, indices_N, device=device, batch_size=batch_size, num_workers=num_workers):
        next(places).copy_(pooled(encoder, images_BCSS, pool))
    return features_ND


def pooled(encoder: Encoder, images_NCSS: Tensor, pool: str) -> Tensor:
    """[N, D]: the mean of the patch tokens, or the class token.

    Raises:
        UserError: for the class token of an encoder that has none.
    """
    require_class_token(encoder, pool)
    tokens = encoder(images_NCSS)
    return tokens[:, encoder.num_prefix_tokens :].mean(dim=1) if pool == "mean" else tokens[:, 0]


def require_class_token(encoder: Encoder, pool: str) -> None:
    """Refuse to pool by a class token that is not there.

    Raises:
        UserError: naming the encoder.
    """
    if pool == "token" and not encoder.num_prefix_tokens:
        raise UserError(f"pool 'token' needs a class token, and {type(encoder).__name__} has none; choose 'mean'")


def frozen_features(
    context: EvaluationContext, train_N: Tensor, test_M: Tensor, *, pool: str, baselines: bool, num_workers: int = 0
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, training features [N, D] and test features [M, D] of what a probe is to judge.

    "pretrained" and, with `baselines`, "initialization" and "raw_pixels". The context's processes share the work, and
    the features come together in the main one: the others have nothing to judge.
    """
    source, processes = context.source, context.processes
    chosen = ((source.train(), train_N), (source.test(), test_M))
    models = {"pretrained": context.model} | ({"initialization": context.initial()} if baselines else {})
    for name, model in models.items():
        features = []
        for split, indices in chosen:
            own = extract(
                model.encoder,
                source,
                split,
                processes.share(indices),
                pool=pool,
                device=context.device,
                num_workers=num_workers,
            )
            features.append(processes.collect(own, len(indices)))
        train_ND, test_MD = features
        if train_ND is not None and test_MD is not None:
            yield name, train_ND, test_MD
    if baselines and processes.is_main:
        train_ND, test_MD = (raw_pixels(source, split, indices) for split, indices in chosen)
        yield "raw_pixels", train_ND, test_MD


def raw_pixels(source: ImageSource, split: Split, indices_N: Tensor) -> Tensor:
    """Float32 [N, C * S * S]: the normalized pixels themselves."""
    return torch.cat([source.load(split, indices).flatten(1) for indices in indices_N.split(1024)])


def batches(
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    *,
    device: torch.device,
    batch_size: int = 256,
    num_workers: int = 0,
) -> Iterator[Tensor]:
    """Normalized float32 [B, C, S, S] on the device: the images at `indices_N` in their order, not augmented.

    Raises:
        UserError: if one cannot be read; it names the file.
    """
    parts = indices_N.split(batch_size) if len(indices_N) else ()
    if num_workers == 0:
        for part in parts:
            yield source.load(split, part).to(device)
        return
    for loaded in DataLoader(
        _Unaugmented(source, split),
        batch_sampler=[part.tolist() for part in parts],
        collate_fn=_as_loaded,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw its workers' seeds from the global generator
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


def check_pool(owner: str, pool: str) -> None:
    """Refuse an unknown pooling.

    Raises:
        ValueError: if it is none of `POOLS`.
    """
    if pool not in POOLS:
        raise ValueError(f"{owner}.pool = {pool!r} is unknown; choose {' or '.join(POOLS)}")
