"""Where folders of images and masks keep them: one's own layout, ADE20K's and Pascal VOC's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from hpm.data.sources.image_files import class_folders, describe_left_out, image_files
from hpm.data.sources.part_names import usual_roles
from hpm.errors import UserError

# Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) challenge": the order of the classes is published.
_VOC = (
    "background",
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class Layout(ABC):
    """Images and masks of the parts of a data set.

    Args:
        root: the data set's folder.

    Attributes:
        first_class: the number of the first class in a mask; smaller ones are not annotated.
        parts: what each split is called, by the split's name.
        class_names: in the order of their numbers.
    """

    first_class: ClassVar[int] = 0
    parts: dict[str, str]
    class_names: tuple[str, ...]

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def where(self, split: str) -> str:
        """For people, where the images of a split would be looked for."""

    @abstractmethod
    def find(self, split: str, left_out: Counter[str]) -> list[tuple[Path, Path]]:
        """The images of a split and their masks, in the order of the images' names, or of the list that names them.

        Args:
            split: one of `parts`.
            left_out: is told how many files of each kind are left out.

        Raises:
            UserError: if there are none, or an image has no mask.
        """


class _Beside(Layout):
    """Images in one folder, and masks in another under the same names."""

    def _pairs(self, images: Path, masks: Path, left_out: Counter[str]) -> list[tuple[Path, Path]]:
        if not masks.is_dir():
            raise UserError(f"{images} has no masks: there is no folder {masks}")
        by_name: dict[str, Path] = {}
        for path in image_files(masks, left_out):
            name = str(path.relative_to(masks).with_suffix(""))
            if by_name.setdefault(name, path) != path:
                raise UserError(f"{by_name[name]} and {path} are masks of one image; remove one of them")
        pairs = []
        taken: dict[str, Path] = {}
        for path in image_files(images, left_out):
            name = str(path.relative_to(images).with_suffix(""))
            if taken.setdefault(name, path) != path:
                raise UserError(f"{taken[name]} and {path} are images of one mask; rename or remove one of them")
            if name not in by_name:
                raise UserError(f"{path} has no mask: there is no {masks / name}.png; add it, or remove the image")
            pairs.append((path, by_name.pop(name)))
        if not pairs:
            told = describe_left_out(left_out)
            raise UserError(f"{images} holds no images" + (f" ({told})" if told else ""))
        if by_name:
            left_out["masks without an image"] += len(by_name)
        return pairs


class _Own(_Beside):
    """`train/images` and `train/masks`, likewise val and test, and `classes.txt`."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.parts = usual_roles((path.name for path in class_folders(root) if (path / "images").is_dir()), root)

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The lines of `classes.txt`."""
        file = self.root / "classes.txt"
        return _names(file, [line.strip() for line in _lines(file)])

    def where(self, split: str) -> str:
        return f"there is no folder {self.root / split / 'images'}"

    def find(self, split: str, left_out: Counter[str]) -> list[tuple[Path, Path]]:
        folder = self.root / self.parts[split]
        return self._pairs(folder / "images", folder / "masks", left_out)


class _Ade20k(_Beside):
    """`images/training` and `annotations/training`, likewise validation, and `objectInfo150.txt`."""

    first_class = 1

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.parts = usual_roles((path.name for path in class_folders(root / "images")), root / "images")

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The last column of `objectInfo150.txt`, below its title; of several names of a class the first."""
        file = self.root / "objectInfo150.txt"
        return _names(file, [line.split("\t")[-1].split(",")[0].strip() for line in _lines(file)[1:]])

    def where(self, split: str) -> str:
        return f"there is no folder {self.root / 'images' / split}"

    def find(self, split: str, left_out: Counter[str]) -> list[tuple[Path, Path]]:
        part = self.parts[split]
        return self._pairs(self.root / "images" / part, self.root / "annotations" / part, left_out)


class _PascalVoc(Layout):
    """`JPEGImages`, `SegmentationClass`, and the lists of `ImageSets/Segmentation`."""

    class_names = _VOC

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._lists = root / "ImageSets" / "Segmentation"
        # The masks of the test images are not published.
        self.parts = usual_roles((name for name in ("train", "val") if (self._lists / f"{name}.txt").is_file()), root)

    def where(self, split: str) -> str:
        return f"there is no list {self._lists / split}.txt"

    def find(self, split: str, left_out: Counter[str]) -> list[tuple[Path, Path]]:
        file = self._lists / f"{self.parts[split]}.txt"
        pairs = []
        for name in filter(None, (line.strip() for line in _lines(file))):
            if "/" in name or "\\" in name:
                raise UserError(f"{file} lists {name}, which is the name of no image in {self.root / 'JPEGImages'}")
            image, mask = self.root / "JPEGImages" / f"{name}.jpg", self.root / "SegmentationClass" / f"{name}.png"
            for path in (image, mask):
                if not path.is_file():
                    raise UserError(f"{file} lists {name}, and there is no file {path}")
            pairs.append((image, mask))
        if not pairs:
            raise UserError(f"{file} lists no images")
        return pairs


def find_layout(root: Path) -> Layout:
    """The layout of a folder.

    Args:
        root: the folder.

    Raises:
        UserError: if it has none that is known, or no training images.
    """
    if not root.is_dir():
        raise UserError(f"SegmentationFolder.root = {root} is not a folder")
    layout: Layout
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        layout = _PascalVoc(root)
    elif (root / "images").is_dir() and (root / "annotations").is_dir():
        layout = _Ade20k(root)
    else:
        layout = _Own(root)
    if "train" not in layout.parts:
        raise UserError(
            f"SegmentationFolder.root = {root} has no training images where they are looked for: in train/images with "
            "train/masks, in ADE20K's images/training with annotations/training, or in Pascal VOC's JPEGImages with "
            "SegmentationClass and ImageSets/Segmentation/train.txt"
        )
    return layout


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UserError(f"{file} cannot be read: {reason}; it must tell the names of the classes or images") from error


def _names(file: Path, names: list[str]) -> tuple[str, ...]:
    """Class names, each once."""
    while names and not names[-1]:
        names.pop()
    if len(names) < 2 or "" in names or len(set(names)) < len(names):
        again = next((name for place, name in enumerate(names) if name in names[:place]), None)
        why = f"{again or 'an empty name'} stands there twice" if again is not None else "it has an empty line"
        raise UserError(
            f"{file} must hold the names of two classes or more, one a line and none twice: "
            + (why if len(names) >= 2 else f"it has {len(names)}")
        )
    return tuple(names)
