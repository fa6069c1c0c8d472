"""Images in folders, the layout of ImageNet and most others: one folder for each class.

Shape suffixes: N images, K images of the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from hpm.data.crops import central_boxes
from hpm.data.sources.base import ImageSource
from hpm.data.sources.encoded import EncodedSplit
from hpm.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The usual evaluation: shorter side to 256, then the central 224 x 224.
_EVALUATION_FRACTION = 0.875


class FolderSplit(EncodedSplit):
    """Image files, opened when they are asked for.

    Args:
        paths: K files.
        labels: int64 [K], or None.
        mode: of the images, "RGB" or "L" (gray). Default "RGB".
    """

    def __init__(self, paths: Sequence[str | Path], labels: Tensor | None, mode: str = "RGB") -> None:
        super().__init__(mode)
        self.paths = [str(path) for path in paths]
        self.labels = labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The file's path."""
        return self.paths[index]

    def open(self, index: int) -> Image.Image:
        """The file, not decoded yet."""
        return Image.open(self.paths[index])


class ImageFolder(ImageSource):
    """Image files in folders.

    Two layouts. `root/train/CLASS/...` with `root/val/CLASS/...` or `root/test/CLASS/...`; or, without a train
    folder, `root/CLASS/...`, all of it for training. In the place of the class folders there may be images, which
    are then unlabeled. Classes are in alphabetical order.

    Args:
        root: the folder.
        img_size: S, side of the images in pixels. Default 224.
        mean: of each channel, for pixel values scaled to [0, 1]. Default ImageNet's.
        std: of each channel, likewise. Default ImageNet's.

    Raises:
        UserError: if a folder is missing or holds no image, or if the splits' classes differ.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        img_size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise UserError(f"{self.root} is not a folder")
        train = self.root / "train"
        self._train, class_names = scan(train if train.is_dir() else self.root)
        self._test: FolderSplit | None = None
        tests = [self.root / name for name in ("val", "test") if (self.root / name).is_dir()]
        if train.is_dir() and tests:
            self._test, test_names = scan(tests[0])
            if test_names != class_names:
                differing = sorted(set(test_names) ^ set(class_names))
                raise UserError(f"{train} and {tests[0]} must hold the same classes; only one has {_some(differing)}")
        super().__init__(img_size=img_size, in_chans=3, mean=mean, std=std, class_names=class_names)

    def train(self) -> FolderSplit:
        """The training split."""
        return self._train

    def test(self) -> FolderSplit:
        """The test split: `root/val`, else `root/test`.

        Raises:
            UserError: if there is neither.
        """
        if self._test is None:
            raise UserError(
                f"{self.root} has no val or test folder beside a train folder, so there is nothing to evaluate on"
            )
        return self._test

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        """The central squares of 0.875 of the shorter side, float32 [N, 4]."""
        return central_boxes(sizes_N2, _EVALUATION_FRACTION)


def scan(folder: Path) -> tuple[FolderSplit, list[str]]:
    """The images of class folders, or of the folder itself, in alphabetical order; and the classes' names.

    Raises:
        UserError: if there is no image, a class folder has none, or images lie beside class folders.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    images = sorted(path for path in folder.iterdir() if _is_image(path))
    if not classes:
        if not images:
            raise UserError(f"{folder} holds no images and no class folders")
        return FolderSplit(images, None), []
    if images:
        raise UserError(f"{folder} holds images beside class folders, e.g. {images[0].name}: move one or the other")
    paths, labels = [], []
    for label, folder_of_class in enumerate(classes):
        found = sorted(path for path in folder_of_class.rglob("*") if _is_image(path))
        if not found:
            raise UserError(f"{folder_of_class} holds no images")
        paths += found
        labels += [label] * len(found)
    return FolderSplit(paths, torch.tensor(labels)), [path.name for path in classes]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith(".")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
