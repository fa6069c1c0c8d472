"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): 70,000 gray pictures of clothes, 28 x 28 pixels, 10 classes."""

from __future__ import annotations

import functools
import gzip
import math
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torchvision.datasets
from torch import Tensor

from curriculum.validation import require_in
from hpm.data.sources.base import ImageSource
from hpm.data.sources.split import TEST, TRAIN, TensorSplit
from hpm.errors import UserError
from hpm.runtime.files import expanded

# Where Debian and Ubuntu put the package dataset-fashion-mnist.
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")

_CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_TRAIN_SIZE, _VALIDATION_IMAGES = 60_000, 5_000


class FashionMNIST(ImageSource):
    """Fashion-MNIST, from the system's folder where there is one, else downloaded.

    Args:
        root: folder to download to, unless the system has the files. Default "data".
        train_size: the first so many of the training images. Default None, all but the validation images.
        validation_images: the last so many of the 60,000 training images, whatever `train_size`; 0 for none. Default
            None, 5,000.
    """

    validation_images: int

    resume_free: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(
        self, *, root: str | Path = "data", train_size: int | None = None, validation_images: int | None = None
    ) -> None:
        if validation_images is None:
            validation_images = _VALIDATION_IMAGES
        require_in("FashionMNIST", f"[0, {_TRAIN_SIZE - 1}]", validation_images=validation_images)
        most = _TRAIN_SIZE - validation_images
        if train_size is not None and not 1 <= train_size <= most:
            raise ValueError(
                f"FashionMNIST.train_size = {train_size} must lie between 1 and {most}, beside "
                f"FashionMNIST.validation_images = {validation_images}"
            )
        super().__init__(
            img_size=28,
            in_chans=1,
            mean=(0.2860,),
            std=(0.3530,),
            class_names=_CLASS_NAMES,
            validation_images=validation_images,
        )
        self.root = expanded(root)
        self.train_size = most if train_size is None else train_size

    @property
    def known_train_size(self) -> int:
        return self.train_size

    @property
    def has_own_validation(self) -> bool:
        return self.validation_images > 0

    def read(self, split: str) -> TensorSplit:
        """A split, uint8 [K, 1, 28, 28] in memory."""
        if split == TEST:
            return self._read("t10k")
        whole = self._read("train")
        assert whole.labels is not None
        most = len(whole) - self.validation_images
        part = slice(0, min(self.train_size, most)) if split == TRAIN else slice(most, None)
        return TensorSplit(whole.images_KCHW[part], whole.labels[part])  # a view of what is kept, not a copy

    def _read(self, name: str) -> TensorSplit:
        if SYSTEM_FOLDER.is_dir():
            images, labels = (SYSTEM_FOLDER / f"{name}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
        else:
            folder = download(self.root).absolute()
            images, labels = (folder / f"{name}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
        return _split(images, labels)


@functools.lru_cache(maxsize=2)
def _split(images: Path, labels: Path) -> TensorSplit:
    """What two files hold, kept: a study builds dozens of runs to see whether they can be, each with its source."""
    images_KHW, labels_K = read_idx(images, ndim=3), read_idx(labels, ndim=1)
    if images_KHW.shape[1:] != (28, 28) or len(images_KHW) != len(labels_K):
        raise UserError(f"{images} and {labels} are not Fashion-MNIST: {images_KHW.shape} and {labels_K.shape}")
    return TensorSplit(images_KHW.unsqueeze(1), labels_K.long())


def download(root: Path) -> Path:
    """Fetch the four files unless they are there, and return their folder.

    Raises:
        UserError: if they cannot be had.
    """
    try:
        return Path(torchvision.datasets.FashionMNIST(str(root), download=True).raw_folder)
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().rpartition("\n")[2]
        raise UserError(
            f"Fashion-MNIST could not be downloaded to {root} ({reason}). Without a network, install Debian's package "
            f"dataset-fashion-mnist, which puts it in {SYSTEM_FOLDER}"
        ) from error


def read_idx(path: Path, *, ndim: int) -> Tensor:
    """An idx file of unsigned bytes, compressed if its name ends in .gz, as a uint8 tensor of `ndim` dimensions.

    Raises:
        UserError: if the file is missing or damaged.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    header = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, 0x08, ndim]) or len(data) < header:
        raise UserError(f"{path} is damaged: not an idx file of bytes with {ndim} dimensions")
    shape = np.frombuffer(data, dtype=">u4", count=ndim, offset=4).astype(int).tolist()
    if len(data) != header + math.prod(shape):
        raise UserError(f"{path} is damaged: {len(data)} bytes, where {header + math.prod(shape)} belong")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=header).copy()).view(shape)
