"""COCO's average precision is what pycocotools computes of the same annotations and detections."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hpm.data import Objects
from hpm.data.sources.annotations import objects_from
from hpm.evaluation.dense.coco_ap import KINDS, DetectionResults

NAMES = ("cat", "dog", "cow")
SIZE = 24


def rectangle(left: int, top: int, width: int, height: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def random_results(seed: int, images: int) -> DetectionResults:
    """Annotated rectangles, and detections that are some of them moved a little, and others."""
    draw = np.random.default_rng(seed)
    results = DetectionResults(NAMES)
    for image in range(images):
        count = int(draw.integers(0, 4))
        masks = [rectangle(*draw.integers(0, 12, 2), *draw.integers(1, 13, 2)) for _ in range(count)]
        labels = draw.integers(0, 2, count).tolist()  # of the third class there is none
        objects = objects_from(masks, labels, (draw.random(count) < 0.2).tolist(), height=SIZE, width=SIZE)
        found = [mask.roll(tuple(draw.integers(-2, 3, 2)), (0, 1)) for mask in masks if draw.random() < 0.8]
        found += [
            rectangle(*draw.integers(0, 12, 2), *draw.integers(1, 13, 2)) for _ in range(int(draw.integers(0, 3)))
        ]
        labels = [label if draw.random() < 0.9 else 2 for label in [*labels, *draw.integers(0, 3, 9).tolist()]]
        detected = objects_from(found, labels[: len(found)], [False] * len(found), height=SIZE, width=SIZE)
        results.add(
            image,
            objects,
            {
                "boxes": detected.boxes_O4,
                "labels": detected.labels_O,
                "scores": torch.from_numpy(draw.random(len(found))).float(),
                "masks": detected.masks_OHW,
            },
        )
    return results


def by_pycocotools(results: DetectionResults, kind: str) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(results.ground_truth()))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results.found))), KINDS[kind])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 12))
def test_it_is_pycocotools(seed: int, images: int) -> None:
    results = random_results(seed, images)
    if not results.found or not any(not entry["iscrowd"] for entry in results.annotations):
        return
    for kind in KINDS:
        reference = by_pycocotools(results, kind)
        figures, per_class = results.evaluate(kind)
        for name, value in zip(("ap", "ap50", "ap75"), reference.stats[:3], strict=True):
            assert figures[name] == pytest.approx(max(0.0, value), abs=1e-9)
        for number, name in enumerate(NAMES):
            precision = reference.eval["precision"][:, :, number, 0, -1]
            if (precision > -1).any():
                assert per_class[name] == pytest.approx(precision[precision > -1].mean(), abs=1e-9)
            else:
                assert name not in per_class


def test_what_is_found_exactly_has_an_ap_of_one_and_nothing_found_of_zero() -> None:
    mask = rectangle(2, 3, 8, 9)
    objects = objects_from([mask], [1], [False], height=SIZE, width=SIZE)
    results, nothing = DetectionResults(NAMES), DetectionResults(NAMES)
    found = {"boxes": objects.boxes_O4, "labels": objects.labels_O, "scores": torch.ones(1), "masks": objects.masks_OHW}
    results.add(7, objects, found)
    nothing.add(7, objects, {name: values[:0] for name, values in found.items()})
    for kind in KINDS:
        for of, value in ((results, 1.0), (nothing, 0.0)):
            figures, per_class = of.evaluate(kind)
            assert figures == pytest.approx({"ap": value, "ap50": value, "ap75": value})
            assert per_class == pytest.approx({"dog": value})


def test_finding_a_crowd_is_no_mistake() -> None:
    masks = [rectangle(0, 0, 6, 6), rectangle(10, 10, 8, 8)]
    objects = objects_from(masks, [0, 0], [False, True], height=SIZE, width=SIZE)
    results = DetectionResults(NAMES)
    found = objects._replace(crowd_O=torch.zeros(2, dtype=torch.bool))
    results.add(
        0,
        objects,
        {
            "boxes": found.boxes_O4,
            "labels": found.labels_O,
            "scores": torch.tensor([0.5, 0.9]),
            "masks": found.masks_OHW,
        },
    )
    assert results.evaluate("mask")[0]["ap"] == pytest.approx(1)


def test_several_processes_results_are_one() -> None:
    whole = random_results(3, 8)
    parts = []
    for start in (0, 5):
        part = DetectionResults(NAMES)
        wanted = range(start, start + 5) if start == 0 else range(5, 8)
        part.images = [entry for entry in whole.images if entry["id"] in wanted]
        part.annotations = [entry for entry in whole.annotations if entry["image_id"] in wanted]
        part.found = [entry for entry in whole.found if entry["image_id"] in wanted]
        parts.append(part)
    together = parts[0].with_others(parts)
    assert together.evaluate("box") == whole.evaluate("box")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hpm.errors import UserError

    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    results = DetectionResults(NAMES)
    with pytest.raises(UserError, match=r"Detection needs the package faster-coco-eval.*curriculum-masking\[dense\]"):
        results.evaluate("box")


def test_objects_have_the_smallest_boxes() -> None:
    objects: Objects = objects_from([rectangle(2, 3, 4, 5)], [0], [False], height=SIZE, width=SIZE)
    assert objects.boxes_O4.tolist() == [[2, 3, 6, 8]]
