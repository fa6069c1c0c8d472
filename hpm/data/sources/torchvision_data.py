"""torchvision's data sets as splits.

Shape suffixes: K images of the split, C channels, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.folder_split import FolderSplit
from hpm.data.sources.labels import whole_labels
from hpm.data.sources.split import Split, TensorSplit
from hpm.errors import UserError


def from_torchvision(dataset: Any, mode: str, name: str) -> tuple[Split, list[str]]:
    """A data set as a split: in memory where it is, else by files, else image by image; and the names of its classes.

    Args:
        dataset: one of torchvision's.
        mode: of the images, "RGB" or "L" (gray).
        name: of the data set, for errors.

    Raises:
        UserError: for images in color, in memory, that are asked for in gray.
    """
    labels = whole_labels(getattr(dataset, "targets", None))
    names: list[str] = []
    if labels is not None:
        given = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
        names = [", ".join(one) if isinstance(one, tuple) else str(one) for one in given]
    data, samples = getattr(dataset, "data", None), getattr(dataset, "samples", getattr(dataset, "imgs", None))
    if isinstance(data, np.ndarray | Tensor):
        return _in_memory(torch.as_tensor(data), labels, mode, name), names
    if samples:
        return FolderSplit([path for path, _ in samples], labels, mode), names
    return ItemSplit(dataset, labels, mode), names


def _in_memory(data: Tensor, labels: Tensor | None, mode: str, name: str) -> TensorSplit:
    """Images [K, H, W] or [K, H, W, C], as torchvision holds them."""
    images_KCHW = data.unsqueeze(1) if data.ndim == 3 else data.permute(0, 3, 1, 2)
    if mode == "L" and images_KCHW.shape[1] != 1:
        raise UserError(f"the images of TimmDataset.name = {name!r} are in color: set TimmDataset.in_chans = 3")
    if mode == "RGB":
        images_KCHW = images_KCHW.expand(-1, 3, -1, -1)
    return TensorSplit(images_KCHW.contiguous(), labels)


class ItemSplit(EncodedSplit):
    """A data set whose items are (image, target).

    Args:
        dataset: gives Pillow's images.
        labels: int64 [K], or None.
        mode: of the images, "RGB" or "L" (gray).
    """

    def __init__(self, dataset: Any, labels: Tensor | None, mode: str) -> None:
        super().__init__(mode)
        self.dataset = dataset
        self.labels = labels

    def __len__(self) -> int:
        return len(self.dataset)

    def open(self, index: int) -> Image.Image:
        """The item's image."""
        return self.dataset[index][0]

    def content(self) -> Iterable[bytes]:
        """The data set's class: more of its images is not to be had without decoding them."""
        return (type(self.dataset).__qualname__.encode(),)
