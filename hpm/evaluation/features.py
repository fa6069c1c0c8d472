"""Features of encoders, of un-augmented images.

Shape suffixes: N images, B images of a batch, C channels, S side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from curriculum import Noise
from curriculum.validation import require_choice
from hpm.data import ImageSource, Split, Unreadable, UnreadableImages
from hpm.data.fetch import Fetched, Fetcher, as_fetched
from hpm.data.workers import load_in_workers
from hpm.errors import TrainingError, UserError
from hpm.models.encoder import Encoder
from hpm.runtime.finite import not_finite
from hpm.runtime.progress import track

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
    unreadable: UnreadableImages | None = None,
) -> Tensor:
    """Float32 [N, D] on the CPU: the mean of the patch tokens or the class token, of un-augmented images.

    Raises:
        ValueError: for an unknown pooling, or the class token of an encoder that has none.
        UserError: if an image cannot be read and none stands in, see `batches`; it names the file.
        TrainingError: for features that are not finite, or if too many images cannot be read.
    """
    require_choice("extract", POOLS, pool=pool)
    features_ND = torch.empty(len(indices_N), encoder.num_features)
    rows = iter(features_ND.split(batch_size))
    loaded = batches(
        source,
        split,
        indices_N,
        device=device,
        batch_size=batch_size,
        num_workers=num_workers,
        unreadable=unreadable,
    )
    for images_BCSS in loaded:
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
    """[N, D]: the mean of the patch tokens, or the class token, of several the first, as in timm.

    Raises:
        ValueError: for the class token of an encoder that has none.
    """
    require_class_token("pooled", encoder, pool)
    return pool_tokens(encoder, encoder(images_NCSS), pool)


def pool_tokens(encoder: Encoder, tokens: Tensor, pool: str) -> Tensor:
    """[N, D]: the mean of the patch tokens that there are, or the class token, of an encoder's output."""
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


def raw_pixels(
    source: ImageSource, split: Split, indices_N: Tensor, *, unreadable: UnreadableImages | None = None
) -> Tensor:
    """Float32 [N, C * S * S]: the normalized pixels themselves. Raises what `batches` does."""
    loaded = batches(source, split, indices_N, device=torch.device("cpu"), batch_size=1024, unreadable=unreadable)
    return torch.cat([images_BCSS.flatten(1) for images_BCSS in loaded])


def batches(
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    *,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 0,
    unreadable: UnreadableImages | None = None,
) -> Iterator[Tensor]:
    """Normalized float32 [B, C, S, S] on the device: the images at `indices_N` in their order, not augmented.

    Args:
        source: of the images.
        split: one of the source's.
        indices_N: int64 [N], which images.
        device: where they are wanted.
        batch_size: B.
        num_workers: processes that load them; 0 for none but this one.
        unreadable: lets others stand in for training images that cannot be read, those that its `stand_ins` tells
            afterwards. Default None: each must be readable, as where they are scored.

    Raises:
        UserError: if one cannot be read and none stands in; it names the file.
        TrainingError: if others would have to stand in for too many.
    """
    batch_indices = indices_N.split(batch_size) if len(indices_N) else ()
    unaugmented = _Unaugmented(source, split, unreadable)
    loaded = _fetched(unaugmented, batch_indices, num_workers=num_workers, pin_memory=device.type == "cuda")
    sizes = iter(map(len, batch_indices))
    for fetched in track(loaded, "looking at", len(indices_N), count=lambda _: next(sizes)):
        if isinstance(fetched, UserError):
            raise fetched
        if unreadable is not None:
            unreadable.add(fetched.newly_unreadable, split)
        elif reasons := fetched.newly_unreadable:
            raise Unreadable({index: split.name(index) for index in reasons}, reasons)
        yield fetched.images_NCSS.to(device, non_blocking=num_workers > 0)


def _fetched(
    unaugmented: _Unaugmented, batch_indices: Sequence[Tensor], *, num_workers: int, pin_memory: bool
) -> Iterator[Fetched | UserError]:
    if num_workers == 0:
        return map(unaugmented.load, batch_indices)
    unaugmented.split.prepare()
    indices = [indices_B.tolist() for indices_B in batch_indices]
    return load_in_workers(unaugmented, indices, num_workers=num_workers, collate=as_fetched, pin_memory=pin_memory)


class _Unaugmented(Dataset):
    """Loads a whole batch at once, as `ImageSource.load` shows images, normalized."""

    def __init__(self, source: ImageSource, split: Split, unreadable: UnreadableImages | None) -> None:
        self.source = source
        self.split = split
        self._fetch = Fetcher(
            split,
            self,
            seed=0,
            epoch=0,
            size=source.img_size,
            known_unreadable={} if unreadable is None else unreadable.by_index,
            limit=0 if unreadable is None else unreadable.limit(split),
        )

    def draw(self, sizes_N2: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """What evaluations see of images; nothing is drawn."""
        return self.source.evaluation_boxes(sizes_N2), torch.zeros(
            len(sizes_N2), dtype=torch.bool, device=sizes_N2.device
        )

    def __getitems__(self, indices: list[int]) -> Fetched | UserError:
        """What PyTorch's loader calls in a worker."""
        return self.load(torch.tensor(indices))

    def load(self, indices_B: Tensor) -> Fetched | UserError:
        """A batch; where loading failed, why."""
        fetched = self._fetch(indices_B)
        if isinstance(fetched, UserError):
            return fetched
        return fetched._replace(images_NCSS=self.source.normalize(fetched.images_NCSS))
