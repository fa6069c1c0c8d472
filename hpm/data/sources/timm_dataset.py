"""Whatever `timm.data` reads and can address by index: folders, tar files, torchvision's and Hugging Face's data sets.

Shape suffixes: N images, K images of the split, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_reader
from torch import Tensor

from hpm.data.crops import central_boxes
from hpm.data.sources.base import ImageSource, Split, TensorSplit
from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.image_folder import IMAGENET_MEAN, IMAGENET_STD, FolderSplit
from hpm.data.sources.tar_shards import read_tars
from hpm.errors import UserError

_ITERABLE = {
    "wds": "WebDataset",
    "tfds": "TensorFlow Datasets",
    "hfids": "Hugging Face data sets in streaming mode",
}
_READERS = '"" (a folder of images, a tar file or a folder of tar files), "torch/NAME" and "hfds/NAME"'

# timm's synonyms for the names of folders.
_SYNONYMS = (("train", "training"), ("val", "valid", "validation", "eval", "evaluation"))


class TimmDataset(ImageSource):
    """A data set by timm's name for it.

    - `name = ""`: `root/TRAIN_SPLIT` and `root/TEST_SPLIT`, each a folder of images in class folders, a folder of tar
      files, or a tar file (`root/train.tar`). timm's synonyms (`train`, `training`; `val`, `validation`, ...) are
      looked for as well. A `root` without a training split is the training split itself.
    - `name = "torch/cifar10"`: one of torchvision's.
    - `name = "hfds/USER/NAME"`: one of Hugging Face's, with the package `datasets`; `root` is its cache.

    Args:
        name: what to read. Default "", files.
        root: folder of the data; may be None for "hfds/" alone. Default None.
        train_split: name of the training split. Default "train".
        test_split: name of the test split, None for none. Default "validation".
        img_size: S, side of the images in pixels. Default 224.
        in_chans: C, 3 for color or 1 for gray. Default 3.
        mean: of each channel, for pixel values scaled to [0, 1]. Default ImageNet's.
        std: of each channel, likewise. Default ImageNet's.
        crop_pct: side of the central square that evaluation sees, relative to the shorter side. Default 0.875.
        download: whether torchvision may fetch what is missing. Default False.
        input_key: Hugging Face's column of images. Default "image".
        target_key: Hugging Face's column of labels. Default "label".

    Raises:
        UserError: if the name is none of these, or the data cannot be addressed by index.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(
        self,
        *,
        name: str = "",
        root: str | Path | None = None,
        train_split: str = "train",
        test_split: str | None = "validation",
        img_size: int = 224,
        in_chans: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        crop_pct: float = 0.875,
        download: bool = False,
        input_key: str = "image",
        target_key: str = "label",
    ) -> None:
        if in_chans not in (1, 3):
            raise ValueError(f"TimmDataset.in_chans = {in_chans} must be 3 (color) or 1 (gray)")
        if not 0.0 < crop_pct <= 1.0:
            raise ValueError(f"TimmDataset.crop_pct = {crop_pct} must lie above 0 and at most at 1")
        kind, slash, rest = name.partition("/")
        self.name = kind.lower() + slash + rest
        self.root = None if root is None else Path(root)
        self.test_split = test_split
        self.crop_pct = crop_pct
        self.download = download
        self.keys = (input_key, target_key)
        self._mode = "RGB" if in_chans == 3 else "L"
        self.train_split = train_split
        self._check_name()
        super().__init__(img_size=img_size, in_chans=in_chans, mean=mean, std=std)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self._train[1])

    def train(self) -> Split:
        """The training split.

        Raises:
            UserError: if the data are missing, cannot be addressed by index, or need a package that is not installed.
        """
        return self._train[0]

    def test(self) -> Split:
        """The test split.

        Raises:
            UserError: if there is none, or if its classes differ from the training split's.
        """
        return self._test

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        """The central squares of `crop_pct` of the shorter side, float32 [N, 4]."""
        return central_boxes(sizes_N2, self.crop_pct)

    @cached_property
    def _train(self) -> tuple[Split, list[str]]:
        """The training split, and the names of its classes."""
        self._check_there()
        return self._read(self.train_split, training=True)

    @cached_property
    def _test(self) -> Split:
        if self.test_split is None:
            raise UserError("TimmDataset.test_split is None, so there is nothing to evaluate on")
        self._check_there()
        split, class_names = self._read(self.test_split, training=False)
        if tuple(class_names) != self.class_names:
            differing = sorted(set(class_names) ^ set(self.class_names))[:5]
            raise UserError(f"the splits of {self._spell()} must hold the same classes; they differ in {differing}")
        return split

    def _nothing_to_test(self) -> bool:
        assert self.root is not None
        return self.test_split is None or find_split(self.root, self.test_split) is None

    def _spell(self) -> str:
        return f"TimmDataset {self.name!r}" + (f" in {self.root}" if self.root else "")

    def _check_name(self) -> None:
        kind, _, rest = self.name.partition("/")
        if kind in _ITERABLE:
            raise UserError(
                f"TimmDataset.name = {self.name!r}: {_ITERABLE[kind]} can only be read from front to back, but an "
                "image must be addressed by its index here. Unpack it to a folder of images; or name a folder of tar "
                "files, such as WebDataset's shards, as TimmDataset.root with TimmDataset.name = ''"
            )
        if self.name and (kind not in ("torch", "hfds") or not rest):
            raise UserError(f"TimmDataset.name = {self.name!r} is unknown; choose {_READERS}")
        if kind != "hfds" and self.root is None:
            raise UserError(f"TimmDataset.root must be the folder of the data for TimmDataset.name = {self.name!r}")

    def _check_there(self) -> None:
        if self.name.startswith("hfds/") and find_spec("datasets") is None:
            raise UserError(f"TimmDataset.name = {self.name!r} needs the package datasets: pip install datasets")
        if not self.name and self.root is not None and not self.root.exists():
            raise UserError(f"TimmDataset.root = {self.root} does not exist")

    def _read(self, split: str, *, training: bool) -> tuple[Split, list[str]]:
        if self.name.startswith("torch/"):
            return self._read_torchvision(split)
        if self.name.startswith("hfds/"):
            return self._read_hugging_face(split)
        assert self.root is not None
        path = find_split(self.root, split)
        if path is None and training and split == "train" and self._nothing_to_test():
            path = self.root
        if path is None:
            raise UserError(f"{self.root} holds no split {split!r}: neither a folder {split} nor {split}.tar")
        return read_files(path, self._mode)

    def _read_torchvision(self, split: str) -> tuple[Split, list[str]]:
        try:
            dataset = create_dataset(self.name, root=str(self.root), split=split, download=self.download)
        except Exception as error:  # whatever a data set of torchvision raises where its files are missing
            advice = "" if self.download else " (TimmDataset.download = True fetches some of torchvision's data sets)"
            raise UserError(f"{self._spell()}, split {split!r}, cannot be opened: {_line(error)}{advice}") from error
        return from_torchvision(dataset, self._mode, self.name)

    def _read_hugging_face(self, split: str) -> tuple[Split, list[str]]:
        image_key, target_key = self.keys
        root = None if self.root is None else str(self.root)
        try:
            reader = create_reader(self.name, root=root, split=split, input_key=image_key, target_key=target_key)
        except Exception as error:  # anything from a missing network to a missing column
            raise UserError(f"{self._spell()}, split {split!r}, cannot be opened: {_line(error)}") from error
        columns = reader.dataset.column_names
        if len(reader) and reader.dataset[0][image_key] is None:  # timm adds an empty column where there is none
            others = [column for column in columns if column != image_key]
            raise UserError(
                f"{self._spell()} holds no images in TimmDataset.input_key = {image_key!r}; other columns are {others}"
            )
        labels, names = None, list(reader.class_to_idx)
        if target_key in columns:
            labels = _labels(reader.dataset.select_columns([target_key])[:][target_key])
        if labels is not None and not names:
            names = [str(label) for label in range(int(labels.max()) + 1)]
        return HuggingFaceSplit(reader, labels, self._mode), names if labels is not None else []


def find_split(root: Path, name: str) -> Path | None:
    """`root/name` or `root/name.tar`, also under timm's other names for it; None where there is none."""
    for known in ([name], *(names for names in _SYNONYMS if name in names)):
        for candidate in known:
            for path in (root / candidate, root / f"{candidate}.tar"):
                if path.exists():
                    return path
    return None


def read_files(path: Path, mode: str) -> tuple[EncodedSplit, list[str]]:
    """A split of image files, or of tar files, and the names of its classes.

    Raises:
        UserError: if there are no images.
    """
    if path.is_file() or any(path.glob("*.tar")):
        return read_tars(path, mode)
    try:
        reader = create_reader("", root=str(path))
    except RuntimeError as error:
        raise UserError(f"{path} holds no images") from error
    paths, labels = zip(*reader.samples, strict=True)
    names = list(reader.class_to_idx)
    if names == [""]:  # what timm calls the class of images in no folder
        return FolderSplit(paths, None, mode), []
    return FolderSplit(paths, torch.tensor(labels), mode), names


def from_torchvision(dataset: Any, mode: str, name: str) -> tuple[Split, list[str]]:
    """One of torchvision's data sets as a split: in memory where it is, else by files, else image by image."""
    labels = _labels(getattr(dataset, "targets", None))
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
        raise UserError(f"the images of TimmDataset {name!r} are in color: set TimmDataset.in_chans = 3")
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


class HuggingFaceSplit(EncodedSplit):
    """A table of encoded images, memory-mapped by the package `datasets`.

    Args:
        reader: timm's, which opens the table.
        labels: int64 [K], or None.
        mode: of the images, "RGB" or "L" (gray).
    """

    def __init__(self, reader: Any, labels: Tensor | None, mode: str) -> None:
        super().__init__(mode)
        self.reader = reader
        self.labels = labels

    def __len__(self) -> int:
        return len(self.reader)

    def name(self, index: int) -> str:
        """The image's path in the table, where it has one."""
        return self.reader.filename(index) or super().name(index)

    def open(self, index: int) -> Image.Image:
        """The image, not decoded yet."""
        image = self.reader.dataset[index][self.reader.image_key]
        return Image.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"])


def _labels(targets: Any) -> Tensor | None:
    """Int64 [K], where there is one whole number for each image."""
    if targets is None or len(targets) == 0:
        return None
    try:
        labels_K = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = not labels_K.is_floating_point() and labels_K.ndim == 1 and int(labels_K.min()) >= 0
    return labels_K.long() if whole else None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
