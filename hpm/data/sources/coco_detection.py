"""Images with annotated objects, in COCO's format.

Shape suffixes: N images, K images of the split.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from curriculum.sizes import Size
from hpm.data.sources.annotations import Objects, class_map_of
from hpm.data.sources.base import ImageSource
from hpm.data.sources.coco_file import CocoFile, CocoImage
from hpm.data.sources.folder_split import FolderSplit
from hpm.data.sources.image_folder import IMAGENET_MEAN, IMAGENET_STD
from hpm.data.sources.part_names import usual_roles
from hpm.data.sources.split import TEST, TRAIN, VALIDATION
from hpm.errors import Notice, UserError
from hpm.runtime.files import expanded

_BEGINNING = "instances_"


class CocoSplit(FolderSplit):
    """Images with objects.

    Args:
        folder: of the images.
        images: K, what the file of annotations says of each.
    """

    def __init__(self, folder: Path, images: Sequence[CocoImage]) -> None:
        super().__init__([folder / image.file_name for image in images], None)
        self.folder = folder
        self.images = list(images)

    def objects(self, indices_N: Tensor) -> list[Objects]:
        """The objects of images, which may have none."""
        sizes = self.sizes(indices_N).tolist()
        found = []
        for index, (height, width) in zip(indices_N.tolist(), sizes, strict=True):
            image = self.images[index]
            if (image.height, image.width) != (height, width):
                raise UserError(
                    f"{self.paths[index]} has {width} x {height} pixels (width x height), and {image.file} says "
                    f"{image.width} x {image.height}: its objects are annotated on another image"
                )
            found.append(image.objects())
        return found

    def class_maps(self, indices_N: Tensor) -> list[Tensor]:
        """The class of every pixel, by `class_map_of` the objects."""
        return [class_map_of(objects) for objects in self.objects(indices_N)]

    def subset(self, indices_K: Tensor) -> CocoSplit:
        """Some of the images, with their objects."""
        subset = CocoSplit(self.folder, [self.images[index] for index in indices_K.tolist()])
        subset.indices_K = indices_K
        return subset


class CocoDetection(ImageSource):
    """Images with objects in COCO's format (Lin et al. 2014): classes, boxes and masks, by polygons or run lengths.

    Annotations are in `root/annotations/instances_PART.json`, images in `root/PART`; PART begins with train, val or
    test, as `train2017` does. `hpm data export --format coco` writes such a folder. Where there are validation images
    and no test images they are the test images, as in what is published, and validation images are carved from the
    training images. Where an object has no mask its box stands in, which a notice tells. Objects that are crowds
    (`iscrowd`) are no objects to be found. Images have no classes of their own, so that probes of whole images have
    nothing to learn here.

    Each pixel has a class too: that of the smallest object which it shows, or the background.

    An image is shown whole, resized to `img_size` whatever its aspect.

    Needs the package faster-coco-eval.

    Args:
        root: the folder; None where a model is used or planned without its images.
        img_size: of the images in pixels, the side of squares or (height, width). Default 224.
        mean: of each channel, for pixel values scaled to [0, 1]. Default ImageNet's.
        std: of each channel, likewise. Default ImageNet's.
        validation_images: how many training images are carved for validation; see `ImageSource`. Default None.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"root"})

    def __init__(
        self,
        *,
        root: str | Path | None = None,
        img_size: Size = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        validation_images: int | None = None,
    ) -> None:
        super().__init__(img_size=img_size, in_chans=3, mean=mean, std=std, validation_images=validation_images)
        self.root = None if root is None or root == "" else expanded(root)
        self._files: dict[str, CocoFile] = {}

    @property
    def object_classes(self) -> tuple[str, ...]:
        return self._file(TRAIN).class_names

    @property
    def has_test(self) -> bool:
        return TEST in self._parts

    @property
    def has_own_validation(self) -> bool:
        return VALIDATION in self._parts

    def read(self, split: str) -> CocoSplit:
        """Read a split's annotations.

        Raises:
            UserError: if there are none, they are no annotations in COCO's format, or their classes are not those of
                the training images.
        """
        if self.validation_images and self.has_own_validation:
            raise UserError(
                f"CocoDetection.validation_images = {self.validation_images} carves nothing, for CocoDetection.root = "
                f"{self.root} has validation images; leave it out"
            )
        file = self._file(split)
        if split == TRAIN and not file.num_objects:
            raise UserError(f"{file.path}: it has no annotations: none of its images shows an object")
        if split == TRAIN and file.num_crowds == file.num_objects:
            raise UserError(f"{file.path}: all of its annotations are crowds (iscrowd), and none is an object to learn")
        if file.class_names != self.object_classes:
            differing = sorted(set(file.class_names) ^ set(self.object_classes)) or ["their order"]
            raise UserError(
                f"{file.path} and {self._file(TRAIN).path} must have the same categories; they differ in "
                + ", ".join(differing[:5])
            )
        if file.without_masks:
            text = f"{file.path}: {file.without_masks:,} of {file.num_objects:,} objects have no mask; boxes stand in"
            warnings.warn(text, Notice, stacklevel=2)
        return CocoSplit(self._folder / self._parts[split], file.images)

    def origin(self, split: str) -> str:
        return self._parts.get(split, "")

    def describe(self) -> str:
        counts = [f"{file.num_objects:,} {name}" for name, file in self._files.items()]
        told = f"{len(self.object_classes)} classes of objects, objects: {', '.join(counts)}" if counts else ""
        return "; ".join(filter(None, (super().describe(), told)))

    def _file(self, split: str) -> CocoFile:
        if split not in self._files:
            if split not in self._parts:
                raise UserError(
                    f"CocoDetection.root = {self.root} has no {split} images: there is no "
                    f"{self._folder / 'annotations' / (_BEGINNING + split)}.json"
                )
            self._files[split] = CocoFile(self._folder / "annotations" / f"{_BEGINNING}{self._parts[split]}.json")
        return self._files[split]

    @property
    def _folder(self) -> Path:
        if self.root is None:
            raise UserError("CocoDetection.root is not bound; bind it to the folder that holds images and annotations")
        return self.root

    @cached_property
    def _parts(self) -> dict[str, str]:
        """What each split is called, by the split's name."""
        folder = self._folder / "annotations"
        names = [path.stem.removeprefix(_BEGINNING) for path in sorted(folder.glob(f"{_BEGINNING}*.json"))]
        parts = usual_roles(names, folder)
        if TRAIN not in parts:
            raise UserError(
                f"CocoDetection.root = {self._folder} has no {folder / _BEGINNING}train.json, nor one whose name goes "
                "on after train, as instances_train2017.json; annotations of the training images belong there"
            )
        return parts
