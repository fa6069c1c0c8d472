"""A file of annotations in COCO's format, checked where it is read.

Shape suffixes: O objects of an image, H W its height and width in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpm.data.sources.annotations import Objects
from hpm.data.sources.coco_masks import are_places, box_mask, decode_mask
from hpm.errors import UserError
from hpm.runtime.files import read_json

# What an entry of each list must have, and what that must be.
_FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": (int, str), "file_name": (str,), "height": (int,), "width": (int,)},
    "annotations": {"image_id": (int, str), "category_id": (int,), "bbox": (list,)},
    "categories": {"id": (int,), "name": (str,)},
}
_KINDS = {int: "a whole number", str: "a text", list: "a list"}
_MOST_CLASSES = 32_766  # of class maps in 16 bits, beside the background


class CocoObject(NamedTuple):
    """An annotated object.

    Args:
        label: its class, from 0.
        box: (left, top, width, height) in pixels.
        segmentation: polygons, or run lengths as a dict; None where the box stands in.
        crowd: whether it is no object to be found, but a region full of them.
        number: its place in the file, for messages.
    """

    label: int
    box: Sequence[float]
    segmentation: Any
    crowd: bool
    number: int


class CocoImage(NamedTuple):
    """An image and its objects, as the file has them.

    Args:
        file: of the annotations.
        file_name: of the image, in the folder of its part.
        height: H.
        width: W.
        num_objects: how many are annotated, crowds among them.
        num_crowds: how many of them are crowds.
        without_masks: how many of them have none.
        annotated: the objects, a `CocoObject` each, as JSON: lists of numbers would take several times the memory, and
            every loader process would copy them, for it counts references to them.
    """

    file: Path
    file_name: str
    height: int
    width: int
    num_objects: int
    num_crowds: int
    without_masks: int
    annotated: bytes

    def objects(self) -> Objects:
        """The objects, their masks decoded.

        Raises:
            UserError: if a mask cannot be decoded, or the package that does is missing.
        """
        objects = [CocoObject(*fields) for fields in json.loads(self.annotated)]
        masks_OHW = torch.zeros(len(objects), self.height, self.width, dtype=torch.bool)
        for place, annotated in enumerate(objects):
            masks_OHW[place] = self._mask(annotated)
        boxes_O4 = torch.tensor([list(annotated.box) for annotated in objects]).view(-1, 4).float()
        boxes_O4 = torch.cat([boxes_O4[:, :2], boxes_O4[:, :2] + boxes_O4[:, 2:]], dim=1)
        return Objects(
            torch.tensor([annotated.label for annotated in objects], dtype=torch.int64),
            boxes_O4,
            masks_OHW,
            torch.tensor([annotated.crowd for annotated in objects]).bool(),
        )

    def _mask(self, annotated: CocoObject) -> Tensor:
        """Bool [H, W]."""
        if annotated.segmentation is None:
            return box_mask(annotated.box, self.height, self.width)
        try:
            return decode_mask(annotated.segmentation, self.height, self.width)
        except ValueError as error:
            raise UserError(
                f"{self.file}: the mask of annotation number {annotated.number}, of image {self.file_name}, cannot be "
                f"decoded: {error}"
            ) from error


class CocoFile:
    """A file of annotations.

    Args:
        path: of the file.

    Raises:
        UserError: if it cannot be read, is no such file, or names an image or a category that it does not have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._content = self._read()
        categories = sorted(self._content["categories"], key=lambda category: category["id"])
        self.class_names = tuple(category["name"] for category in categories)
        self._labels = {category["id"]: label for label, category in enumerate(categories)}
        if not 1 <= len(self._labels) <= _MOST_CLASSES or len(self._labels) < len(categories):
            raise self._wrong(f"categories must be 1 to {_MOST_CLASSES:,}, each with an id of its own")
        if len(set(self.class_names)) < len(self.class_names):
            again = next(name for name in self.class_names if self.class_names.count(name) > 1)
            raise self._wrong(f"two categories are called {again!r}")
        if not self._content["images"]:
            raise self._wrong("it has no images")

    @property
    def num_objects(self) -> int:
        """How many objects are annotated, crowds among them."""
        return sum(image.num_objects for image in self.images)

    @property
    def num_crowds(self) -> int:
        """How many of them are crowds."""
        return sum(image.num_crowds for image in self.images)

    @property
    def without_masks(self) -> int:
        """How many of them have no mask."""
        return sum(image.without_masks for image in self.images)

    @cached_property
    def images(self) -> list[CocoImage]:
        """The images, in the order of the file; what it said is not held any longer."""
        objects: dict[Any, list[CocoObject]] = {image["id"]: [] for image in self._content["images"]}
        if len(objects) < len(self._content["images"]):
            raise self._wrong("two images have one id")
        for number, annotation in enumerate(self._content["annotations"]):
            if annotation["image_id"] not in objects:
                raise self._wrong(
                    f"annotation number {number} is of image {annotation['image_id']}, which is not there"
                )
            objects[annotation["image_id"]].append(self._object(number, annotation))
        images = [self._image(image, objects[image["id"]]) for image in self._content["images"]]
        self._content = {}
        return images

    def _image(self, image: dict[str, Any], annotated: list[CocoObject]) -> CocoImage:
        name = Path(image["file_name"])
        if name.is_absolute() or ".." in name.parts:
            raise self._wrong(f"image {image['file_name']} lies outside of the folder of images")
        return CocoImage(
            self.path,
            image["file_name"],
            image["height"],
            image["width"],
            num_objects=len(annotated),
            num_crowds=sum(one.crowd for one in annotated),
            without_masks=sum(one.segmentation is None for one in annotated),
            annotated=json.dumps(annotated, separators=(",", ":")).encode(),
        )

    def _object(self, number: int, annotation: dict[str, Any]) -> CocoObject:
        category, box = annotation["category_id"], annotation["bbox"]
        if category not in self._labels:
            known = ", ".join(map(str, list(self._labels)[:5])) + (", ..." if len(self._labels) > 5 else "")
            raise self._wrong(
                f"annotation number {number} is of category {category}, which is none of its categories: {known}"
            )
        if len(box) != 4 or not are_places(box) or min(box[2:]) < 0:
            raise self._wrong(f"annotation number {number} has the bbox {box}; it must be [left, top, width, height]")
        return CocoObject(
            self._labels[category],
            box,
            annotation.get("segmentation") or None,
            bool(annotation.get("iscrowd", 0)),
            number,
        )

    def _read(self) -> dict[str, Any]:
        content = read_json(self.path)
        for name, fields in _FIELDS.items():
            entries = content.get(name) if isinstance(content, dict) else None
            if not isinstance(entries, list):
                raise self._wrong(f"it has no list called {name}, as COCO's annotations do")
            for number, entry in enumerate(entries):
                for field, kinds in fields.items():
                    if not isinstance(entry, dict) or type(entry.get(field)) not in kinds:
                        raise self._wrong(f"number {number} of {name} must have '{field}', {_KINDS[kinds[0]]}")
        return content

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}")
