"""Tiny data sets in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]
"""Neither contiguous nor in order: the classes are car, dog and toothbrush."""

SQUARE = [[4.0, 2.0, 12.0, 2.0, 12.0, 8.0, 4.0, 8.0]]


def annotation(image: int | str, category: int = 3, **changes: Any) -> dict[str, Any]:
    """A car that is a square."""
    of_square = {"bbox": [4.0, 2.0, 8.0, 6.0], "area": 48.0, "segmentation": SQUARE, "iscrowd": 0}
    return {"id": 1, "image_id": image, "category_id": category} | of_square | changes


def content_of(annotations: list[dict[str, Any]] | None = None, images: int = 3) -> dict[str, Any]:
    """Annotations of images of 20 x 30 pixels, numbered from 7; by default a car on each."""
    ids = range(7, 7 + images)
    return {
        "info": {"year": 2017},
        "images": [{"id": id, "file_name": f"{id:012}.png", "height": 20, "width": 30, "license": 1} for id in ids],
        "annotations": [annotation(id) for id in ids] if annotations is None else annotations,
        "categories": CATEGORIES,
    }


def coco_layout(root: Path, part: str = "train2017", content: dict[str, Any] | None = None) -> Path:
    """Write a part with its images, each of which tells its place by its red; returns the file of annotations."""
    content = content_of() if content is None else content
    (root / part).mkdir(parents=True)
    for place, image in enumerate(content["images"]):
        Image.new("RGB", (30, 20), (10 * place, 0, 90)).save(root / part / image["file_name"])
    file = root / "annotations" / f"instances_{part}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file
