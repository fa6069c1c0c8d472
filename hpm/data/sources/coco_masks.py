"""Masks as COCO's annotations hold them, decoded: polygons, and run lengths in plain numbers or compressed.

Shape suffixes: H W height and width of the image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpm.runtime.extras import import_extra

FARTHEST = 100_000
"""So many pixels from an image's corner nothing lies; a polygon takes memory for every pixel along its edges."""


def decode_mask(segmentation: Any, height: int, width: int) -> Tensor:
    """A mask, bool [H, W].

    Args:
        segmentation: what an annotation says, a list of polygons or a dict of run lengths.
        height: H.
        width: W.

    Raises:
        ValueError: if it is no mask of these sizes; it says why.
        UserError: if the package that decodes is missing.
    """
    masks = import_extra("faster_coco_eval.core.mask", package="faster-coco-eval", needed_by="CocoDetection")
    try:
        if isinstance(segmentation, dict):
            encoded = _run_lengths(segmentation, height, width, masks)
        else:
            _check_polygons(segmentation)
            encoded = masks.merge(masks.frPyObjects(segmentation, height, width))
        return torch.from_numpy(masks.decode(encoded)).bool()
    except Exception as error:  # the package tells what is wrong with run lengths in many ways
        raise ValueError(str(error)) from error


def _run_lengths(segmentation: dict[str, Any], height: int, width: int, masks: Any) -> Any:
    """Run lengths as the package decodes them."""
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"its size is {size}, and that of its image [{height}, {width}] (height, width)")
    if isinstance(counts, str):
        return {"size": size, "counts": counts.encode("ascii")}
    if not isinstance(counts, list) or any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("its counts are neither a text nor a list of whole numbers")
    if sum(counts) != height * width:
        raise ValueError(f"its counts add up to {sum(counts)}, and its image has {height * width} pixels")
    return masks.frPyObjects(segmentation, height, width)


def _check_polygons(segmentation: Any) -> None:
    """Refuse what the package would take for something else, or for a polygon that fills the memory."""
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("it is neither a list of polygons nor run lengths")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon must be a list of six numbers or more, x and y of each corner")
        if not are_places(polygon):
            raise ValueError(f"a corner of a polygon is no number, or lies more than {FARTHEST:,} pixels away")


def box_mask(box: Sequence[float], height: int, width: int) -> Tensor:
    """The pixels of a box, bool [H, W].

    Args:
        box: (left, top, width, height) in pixels.
        height: H.
        width: W.
    """
    left, top, right, bottom = (max(0, round(place)) for place in (*box[:2], box[0] + box[2], box[1] + box[3]))
    mask_HW = torch.zeros(height, width, dtype=torch.bool)
    mask_HW[top:bottom, left:right] = True
    return mask_HW


def are_places(values: list[Any]) -> bool:
    """Whether all of these are numbers that can be places in an image, or near it."""
    return all(type(value) in (int, float) and abs(value) <= FARTHEST for value in values)  # NaN is not, either


def coco_entry(image: int, label: int, box_4: Tensor, mask_HW: Tensor, *, needed_by: str) -> dict[str, Any]:
    """What COCO's annotations and results have in common of an object: image, category, box and compressed run lengths.

    Args:
        image: its number.
        label: the number of the category.
        box_4: (left, top, right, bottom) in pixels.
        mask_HW: bool.
        needed_by: who needs the package that encodes, for the error.

    Raises:
        UserError: if the package is missing.
    """
    masks = import_extra("faster_coco_eval.core.mask", package="faster-coco-eval", needed_by=needed_by)
    counts = masks.encode(np.asfortranarray(mask_HW.cpu().numpy(), dtype=np.uint8))["counts"]
    left, top, right, bottom = box_4.tolist()
    return {
        "image_id": image,
        "category_id": label,
        "bbox": [left, top, right - left, bottom - top],
        "segmentation": {
            "size": list(mask_HW.shape),
            "counts": counts.decode() if isinstance(counts, bytes) else counts,
        },
    }
