"""COCO's average precision of boxes and masks, by faster-coco-eval.

Shape suffixes: O objects or detections of an image, H W its height and width in pixels.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from hpm.data import Objects
from hpm.data.sources.coco_masks import coco_entry
from hpm.runtime.extras import import_extra

KINDS = {"box": "bbox", "mask": "segm"}
"""What is compared, and what COCO calls that."""

_STATS = {"ap": 0, "ap50": 1, "ap75": 2}  # where COCO's summary has them


_entry = partial(coco_entry, needed_by="Detection")


class DetectionResults:
    """What is annotated on images and what was found there, gathered image by image, in COCO's format.

    Args:
        class_names: of the objects.

    Attributes:
        images: entries of COCO's list `images`, one for each.
        annotations: likewise, without ids.
        found: entries of COCO's results.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(self, image: int, objects: Objects, found: Mapping[str, Tensor]) -> None:
        """Take in an image.

        Args:
            image: its number; none comes twice.
            objects: that are annotated.
            found: `boxes` float [O, 4], `labels` int64 [O] from 0, `scores` float [O], `masks` bool [O, H, W].
        """
        height, width = objects.masks_OHW.shape[1:]
        self.images.append({"id": image, "height": int(height), "width": int(width)})
        for label, box, mask_HW, crowd in zip(*objects, strict=True):
            self.annotations.append(
                _entry(image, int(label), box, mask_HW) | {"iscrowd": int(crowd), "area": int(mask_HW.sum())}
            )
        for label, box, mask_HW, score in zip(
            *(found[name].cpu() for name in ("labels", "boxes", "masks", "scores")), strict=True
        ):
            self.found.append(_entry(image, int(label), box, mask_HW) | {"score": float(score)})

    def with_others(self, others: Sequence[DetectionResults]) -> DetectionResults:
        """All of several processes' images together, in their order."""
        whole = DetectionResults(self.class_names)
        for other in others:
            whole.images += other.images
            whole.annotations += other.annotations
            whole.found += other.found
        return whole

    def ground_truth(self) -> dict[str, Any]:
        """COCO's file of annotations; objects are numbered from 1, for 0 means "none" to some readers."""
        return {
            "images": self.images,
            "annotations": [{"id": number} | entry for number, entry in enumerate(self.annotations, start=1)],
            "categories": [{"id": number, "name": name} for number, name in enumerate(self.class_names)],
        }

    def evaluate(self, kind: str) -> tuple[dict[str, float], dict[str, float]]:
        """COCO's figures, in [0, 1].

        Args:
            kind: "box" or "mask".

        Returns:
            `ap`, the mean average precision over intersections over union of 0.5 to 0.95 and over classes, `ap50` and
            `ap75`, at those; and the AP of each class that is annotated, by its name.
        """
        coco = import_extra("faster_coco_eval", package="faster-coco-eval", needed_by="Detection")
        if not self.found:
            annotated = {entry["category_id"] for entry in self.annotations if not entry["iscrowd"]}
            return dict.fromkeys(_STATS, 0.0), {self.class_names[number]: 0.0 for number in sorted(annotated)}
        with contextlib.redirect_stdout(io.StringIO()):
            truth = coco.COCO(self.ground_truth())
            # A copy, for the library writes into it.
            results = truth.loadRes(json.loads(json.dumps(self.found)))
            evaluation = coco.COCOeval_faster(truth, results, KINDS[kind])
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # Thresholds, recalls, classes, areas (all of them first), most detections (most of them last); -1 for none.
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        per_class = {}
        for number, name in enumerate(self.class_names):
            own = precision[:, :, number]
            if (own > -1).any():
                per_class[name] = float(own[own > -1].mean())
        return {name: max(0.0, float(evaluation.stats[place])) for name, place in _STATS.items()}, per_class
