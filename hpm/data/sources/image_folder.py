"""Images in folders, the layout of ImageNet and most others: one folder for each class.

Shape suffixes: N images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from curriculum.sizes import Size
from curriculum.validation import require_choice, require_in
from hpm.data.crops import central_boxes
from hpm.data.sources.base import ImageSource
from hpm.data.sources.folder_split import FolderSplit
from hpm.data.sources.image_files import class_folders, describe_left_out, labeled_files
from hpm.data.sources.split import HELD_OUT, TEST, TRAIN, VALIDATION
from hpm.errors import UserError
from hpm.runtime.files import expanded

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_VALIDATION_FOLDERS = ("val", "valid", "validation")
_PARTS = {"train": TRAIN, "test": TEST} | dict.fromkeys(_VALIDATION_FOLDERS, VALIDATION)  # of a data set

_LINK_BYTES = 300  # of a file that stands for a link where there are none, as git and archives write it: a path


class _Scanned(NamedTuple):
    """What the folders of a data set hold."""

    splits: dict[str, FolderSplit]
    class_names: tuple[str, ...]
    folders: dict[str, str]
    left_out: Counter[str]


class ImageFolder(ImageSource):
    """Image files in folders.

    Two layouts. `root/train/CLASS/...` with `root/val/CLASS/...` or `root/test/CLASS/...` or both; or, without a train
    folder, `root/CLASS/...`, all of it for training. In the place of the class folders there may be images, which
    are then unlabeled. Classes are in alphabetical order.

    `val` may be called `valid` or `validation` too, and each may begin with a capital. Where it and `test` both exist
    they are the validation and the test images. Where only one does it is the test images, as ImageNet's `val` is in
    what is published, and validation images are carved from the training images. A `test` folder without class folders
    beside a `train` and a `val` with them, as ImageNet's is, is left out.

    Args:
        root: the folder; None where a model is used or planned without its images.
        img_size: of the images in pixels, the side of squares or (height, width). Default 224.
        in_chans: C, 3 for color or 1 for gray, which takes one value each of `mean` and `std`. Default 3.
        mean: of each channel, for pixel values scaled to [0, 1]. Default ImageNet's.
        std: of each channel, likewise. Default ImageNet's.
        crop_pct: sides of the central box that evaluation sees, relative to the largest such box. Default 0.875: the
            shorter side to 256, then the central 224 x 224.
        crop_mode: as in timm: "center" for boxes of `img_size`'s aspect, "squash" for boxes of the image's own, which
            are then stretched. Default "center".
        validation_images: how many training images are carved for validation; see `ImageSource`. Default None.
        exif_orientation: whether to turn images upright, as the camera noted in them; what is published does not.
            Default False.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        img_size: Size = 224,
        in_chans: int = 3,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        crop_pct: float = 0.875,
        crop_mode: str = "center",
        validation_images: int | None = None,
        exif_orientation: bool = False,
    ) -> None:
        require_choice("ImageFolder", (1, 3), in_chans=in_chans)
        require_in("ImageFolder", "(0, 1]", crop_pct=crop_pct)
        require_choice("ImageFolder", ("center", "squash"), crop_mode=crop_mode)
        self.crop_pct = crop_pct
        self.crop_mode = crop_mode
        self.exif_orientation = exif_orientation
        self.root = None if root is None else expanded(root)
        super().__init__(img_size=img_size, in_chans=in_chans, mean=mean, std=std, validation_images=validation_images)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders; none for unlabeled images."""
        return self._scanned.class_names

    @property
    def has_test(self) -> bool:
        return TEST in self._scanned.splits

    @property
    def has_own_validation(self) -> bool:
        return VALIDATION in self._scanned.splits

    def read(self, split: str) -> FolderSplit:
        """Read a split.

        Raises:
            UserError: if a folder is missing or holds no image, or if the splits' classes differ.
        """
        if self.validation_images and self.has_own_validation:
            raise UserError(
                f"ImageFolder.validation_images = {self.validation_images} carves nothing, for ImageFolder.root = "
                f"{self.root} has a folder of validation images; leave it out"
            )
        found = self._scanned.splits.get(split)
        if found is None:
            raise UserError(
                f"ImageFolder.root = {self.root} has no val or test folder beside a train folder, so there is nothing "
                "to evaluate on"
            )
        found.exif_orientation = self.exif_orientation
        return found

    def origin(self, split: str) -> str:
        return self._scanned.folders.get(split, "")

    def describe(self) -> str:
        told = describe_left_out(self._scanned.left_out) if "_scanned" in vars(self) else ""
        return super().describe() + (f"; {told}" if told else "")

    @cached_property
    def _scanned(self) -> _Scanned:
        """What the folders hold."""
        if self.root is None:
            raise UserError("ImageFolder.root is not bound; bind it to the folder that holds the images")
        if not self.root.is_dir():
            raise UserError(f"ImageFolder.root = {self.root} is not a folder")
        try:
            return _scan_splits(self.root, "RGB" if self.in_chans == 3 else "L")
        except OSError as error:
            raise UserError(f"ImageFolder.root = {self.root} cannot be read: {error}") from error

    def evaluation_boxes(self, sizes_N2: Tensor) -> Tensor:
        """The boxes of `crop_pct` in the middle, of the model's aspect or the images' own, float32 [N, 4]."""
        return central_boxes(sizes_N2, self.crop_pct, self.img_size if self.crop_mode == "center" else None)


def _scan_splits(root: Path, mode: str) -> _Scanned:
    """The splits that there are, and the names of their classes."""
    named, left_out = _usual_folders(root), Counter[str]()
    folder = named.get("train", root / "train")
    val = next((named[name] for name in _VALIDATION_FOLDERS if name in named), root / "val")
    test = named.get("test", root / "test")
    found = [path for path in (val, test) if path.is_dir()]
    if not folder.is_dir():
        if found:
            raise UserError(
                f"{root} has a folder {found[0].name} and none called train: the training images belong there"
            )
        train, class_names = scan(root, left_out, mode)
        return _Scanned({TRAIN: train}, tuple(class_names), {}, left_out)
    _require_one_folder_each(root)
    if len({path.resolve() for path in (folder, *found)}) <= len(found):
        shown = ", ".join(path.name for path in (folder, *found))
        raise UserError(f"two of the folders {shown} of {root} are the same; what is scored must be other images")
    train, class_names = scan(folder, left_out, mode)
    held_out = {path: scan(path, left_out, mode) for path in found}
    if len(held_out) == 2 and held_out[val][1] and not held_out[test][1]:
        del held_out[test]  # images whose classes are kept secret, as ImageNet's
    for path, (_, own_names) in held_out.items():
        if own_names != class_names:
            differing = sorted(set(own_names) ^ set(class_names))
            raise UserError(f"{folder} and {path} must hold the same classes; only one has {_some(differing)}")
    splits, folders = {TRAIN: train}, {TRAIN: folder.name}
    names = HELD_OUT if len(held_out) == 2 else (TEST,)
    for name, (path, (split, _)) in zip(names, held_out.items(), strict=False):
        splits[name], folders[name] = split, path.name
    return _Scanned(splits, tuple(class_names), folders, left_out)


def _usual_folders(root: Path) -> dict[str, Path]:
    """Folders by their names in lower case; with a capital only where there are two or more of a data set's parts.

    Among class folders one may be called Train, or Test.
    """
    folders = class_folders(root)
    parts = {path.name.lower(): path for path in folders if path.name.lower() in _PARTS}
    if len(parts) == len(folders) > 1 or "train" in {path.name for path in folders}:
        return parts
    return {path.name: path for path in folders}


def _require_one_folder_each(root: Path) -> None:
    """Refuse what is called like a part of the data set and would be left out, beside a folder of training images."""
    seen: dict[str, Path] = {}
    for path in sorted(path for path in root.iterdir() if path.name.lower() in _PARTS):
        part = _PARTS[path.name.lower()]
        if path.is_file() and path.stat().st_size > _LINK_BYTES:
            continue  # of its own, whatever it is
        if not path.is_dir():
            raise UserError(
                f"{path} is no folder, but a link to nothing or what stands for a link; make it one, or rename it"
            )
        if not any(path.iterdir()):
            continue
        if part in seen and path.resolve() != seen[part].resolve():
            told = f"{seen[part].name} and {path.name}"
            raise UserError(f"{root} has two folders of {part} images, {told}; rename or move one")
        seen[part] = path


def scan(folder: Path, left_out: Counter[str], mode: str) -> tuple[FolderSplit, list[str]]:
    """The images of class folders, or of the folder itself, in alphabetical order; and the classes' names.

    Args:
        folder: to look through.
        left_out: see `labeled_files`.
        mode: of the images, "RGB" or "L" (gray).

    Raises:
        UserError: if there is no image, a class folder has none, or images lie beside class folders.
    """
    classes = {path.name: label for label, path in enumerate(class_folders(folder))}
    paths, labels = [], []
    for path, name in labeled_files(folder, left_out):
        if classes and name is None:
            raise UserError(f"{folder} holds images beside class folders, e.g. {path.name}: move one or the other")
        paths.append(path)
        labels.append(0 if name is None else classes[name])
    there = set(labels)
    empty = [name for name, label in classes.items() if label not in there]
    if empty or not paths:
        what = f"{folder / empty[0]} holds no images" if empty else f"{folder} holds no images and no class folders"
        told = describe_left_out(left_out)
        raise UserError(what + (f" ({told})" if told else ""))
    return FolderSplit(paths, torch.tensor(labels) if classes else None, mode), list(classes)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
