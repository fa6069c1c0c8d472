"""Features of patches, of un-augmented images, and the annotations of their pixels.

Shape suffixes: N images, T tokens of an image, D width, Q pixels that a token stands for, C classes, S S height and
width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from curriculum.sizes import pair
from hpm.data import IGNORED, ImageSource, Split, UnreadableImages
from hpm.evaluation.features import BATCH_SIZE, batches, require_finite_features
from hpm.models.encoder import Encoder
from hpm.models.patches import patchify

_ROWS_AT_ONCE = 16_384


def token_grid(tokens: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of so many tokens of an image, each of which stands for as many patches down as across.

    Args:
        tokens: T.
        grid: rows and columns of the image's patches.
    """
    rows = round(math.sqrt(tokens * grid[0] / grid[1]))
    return rows, tokens // rows


@torch.no_grad()
def patch_tokens(
    encoder: Encoder,
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    *,
    device: torch.device,
    num_workers: int = 0,
    unreadable: UnreadableImages | None = None,
) -> Tensor:
    """Float32 [N, T, D] on the CPU: the encoder's patch tokens.

    Raises:
        UserError: if an image cannot be read and none stands in, see `features.batches`; it names the file.
        TrainingError: for tokens that are not finite, or if too many images cannot be read.
    """
    prefix = encoder.num_prefix_tokens
    tokens_NTD = _of_all(
        lambda images_NCSS: encoder(images_NCSS)[:, prefix:],
        source,
        split,
        indices_N,
        device=device,
        num_workers=num_workers,
        unreadable=unreadable,
    )
    require_finite_features(tokens_NTD)
    return tokens_NTD


def patch_pixels(
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    grid: tuple[int, int],
    *,
    unreadable: UnreadableImages | None = None,
) -> Tensor:
    """Float32 [N, T, D]: the normalized pixels of every cell of a grid. Raises what `features.batches` does."""
    rows, columns = grid
    height, width = pair(source.img_size)
    cell = height // rows, width // columns
    return _of_all(
        lambda images_NCSS: patchify(images_NCSS, cell),
        source,
        split,
        indices_N,
        device=torch.device("cpu"),
        num_workers=0,
        unreadable=unreadable,
    )


def _of_all(
    compute: Callable[[Tensor], Tensor],
    source: ImageSource,
    split: Split,
    indices_N: Tensor,
    *,
    device: torch.device,
    num_workers: int,
    unreadable: UnreadableImages | None,
) -> Tensor:
    """What is computed of images in batches, put together on the CPU without a second copy of it."""
    whole: Tensor | None = None
    rows = iter(indices_N.split(BATCH_SIZE))
    done = 0
    for images_NCSS in batches(source, split, indices_N, device=device, num_workers=num_workers, unreadable=unreadable):
        computed = compute(images_NCSS)
        if whole is None:
            whole = torch.empty(len(indices_N), *computed.shape[1:])
        whole[done : done + len(next(rows))].copy_(computed)
        done += len(computed)
    if whole is None:  # a process that has no share tells what its rows would look like
        height, width = pair(source.img_size)
        return torch.empty(0, *compute(torch.zeros(1, source.in_chans, height, width, device=device)).shape[1:])
    return whole


def cells_of(maps_NSS: Tensor, grid: tuple[int, int]) -> Tensor:
    """Class maps cut as the tokens are, [N, T, Q], in raster order."""
    rows, columns = grid
    count, height, width = maps_NSS.shape
    cells = maps_NSS.view(count, rows, height // rows, columns, width // columns)
    return cells.permute(0, 1, 3, 2, 4).reshape(count, rows * columns, -1)


def maps_from(cells_NTQ: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of `cells_of`, [N, S, S], for images of a size (height, width)."""
    rows, columns = grid
    height, width = size
    cells = cells_NTQ.view(-1, rows, columns, height // rows, width // columns)
    return cells.permute(0, 1, 3, 2, 4).reshape(-1, height, width)


def class_shares(cells_KQ: Tensor, num_classes: int) -> Tensor:
    """The share of a cell's pixels that are of each class, float32 [K, C]; of pixels that count for nothing none.

    Args:
        cells_KQ: int, classes or `IGNORED`.
        num_classes: C.
    """
    counts_KC = torch.zeros(len(cells_KQ), num_classes + 1)
    for first in range(0, len(cells_KQ), _ROWS_AT_ONCE):
        rows_KQ = cells_KQ[first : first + _ROWS_AT_ONCE].long() - IGNORED
        counts_KC[first : first + _ROWS_AT_ONCE].scatter_add_(1, rows_KQ, torch.ones(rows_KQ.shape))
    return counts_KC[:, 1:].div_(cells_KQ.shape[1])
