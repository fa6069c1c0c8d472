"""Fingerprints: what tells the images and labels of a split from others, wherever they lie.

Shape suffixes: K images of the split.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

_DIGITS = 16
_IMAGES_AT_ONCE = 4096  # that are copied


def fingerprint_of(count: int, labels_K: Tensor | None, content: Iterable[bytes]) -> str:
    """16 hexadecimal digits, others for another number of images, other labels or another content.

    Args:
        count: K.
        labels_K: int64 [K], or None.
        content: what tells the images from others, in any number of pieces.
    """
    digest = hashlib.sha256(f"{count} images, {'no labels' if labels_K is None else 'labels'}\n".encode())
    if labels_K is not None:
        digest.update(labels_K.cpu().contiguous().numpy().tobytes())
    for piece in content:
        digest.update(piece)
    return digest.hexdigest()[:_DIGITS]


def tensor_content(images_KCHW: Tensor) -> Iterator[bytes]:
    """The images' shape, and every value, by row, whatever their layout in memory."""
    yield repr(tuple(images_KCHW.shape)).encode()
    for images in images_KCHW.split(_IMAGES_AT_ONCE):
        yield images.cpu().numpy().tobytes()


def joined_names(paths: Sequence[str]) -> bytes:
    """The paths below the folder that they have in common, in their order: the same wherever that folder lies."""
    if not paths:
        return b""
    # What the first and the last of them by the alphabet have in common, all have.
    first, last = min(paths), max(paths)
    common = 0
    while common < min(len(first), len(last)) and first[common] == last[common]:
        common += 1
    start = first.rfind(os.sep, 0, common) + 1
    return os.fsencode("\0".join(path[start:] for path in paths))
