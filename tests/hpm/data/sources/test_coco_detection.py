"""CocoDetection: images with objects, their classes, boxes, masks and crowds."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_folders import CATEGORIES, SQUARE, annotation, coco_layout, content_of
from pycocotools import mask as theirs
from pycocotools.coco import COCO

from hpm.data import BACKGROUND, IGNORED, SPLITS, CocoDetection, annotated_views
from hpm.errors import Notice

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:pycocotools")

FEW = torch.arange(3)


@pytest.fixture
def source(tmp_path: Path) -> CocoDetection:
    coco_layout(tmp_path)
    return CocoDetection(root=tmp_path, img_size=(10, 15))


def square(rows: slice = slice(2, 8), columns: slice = slice(4, 12)) -> torch.Tensor:
    mask_HW = torch.zeros(20, 30, dtype=torch.bool)
    mask_HW[rows, columns] = True
    return mask_HW


def one_image(tmp_path: Path, *annotations: dict, **bound: object) -> CocoDetection:
    coco_layout(tmp_path, content=content_of(list(annotations), images=1))
    return CocoDetection(root=tmp_path, **bound)


def test_every_image_has_its_objects(source: CocoDetection) -> None:
    for objects in source.train().objects(FEW):
        assert objects.labels_O.tolist() == [0]
        assert objects.boxes_O4.tolist() == [[4.0, 2.0, 12.0, 8.0]]
        assert torch.equal(objects.masks_OHW, square()[None])
        assert objects.crowd_O.tolist() == [False]
    assert source.load(source.train(), FEW).shape == (3, 3, 10, 15)
    assert source.describe() == ("CocoDetection, images: 3 train (train2017); 3 classes of objects, objects: 3 train")


def test_classes_are_the_categories_in_the_order_of_their_ids(tmp_path: Path) -> None:
    source = one_image(tmp_path, *(annotation(7, category["id"]) for category in CATEGORIES))
    assert source.object_classes == ("car", "dog", "toothbrush")
    assert source.pixel_classes == (BACKGROUND, "car", "dog", "toothbrush")
    assert source.class_names == ()
    assert source.train().objects(torch.tensor([0]))[0].labels_O.tolist() == [1, 0, 2]


def test_masks_may_be_polygons_and_run_lengths_and_boxes_need_not_be_tight(tmp_path: Path) -> None:
    run_lengths = theirs.encode(np.asfortranarray(square().numpy(), dtype=np.uint8))
    compressed = {"size": [20, 30], "counts": run_lengths["counts"].decode()}
    plain = {"size": [20, 30], "counts": [82, *[6, 14] * 7, 6, 600 - 82 - 8 * 6 - 7 * 14]}
    two = [[1, 1, 5, 1, 5, 3, 1, 3], [20, 10, 28, 10, 28, 18, 20, 18]]
    segmentations = [SQUARE, compressed, plain, two]
    source = one_image(tmp_path, *(annotation(7, segmentation=each, bbox=[1, 1.5, 25, 16]) for each in segmentations))
    (objects,) = source.train().objects(torch.tensor([0]))
    for mask_HW in objects.masks_OHW[:3]:
        assert torch.equal(mask_HW, square())
    assert torch.equal(objects.masks_OHW[3], square(slice(1, 3), slice(1, 5)) | square(slice(10, 18), slice(20, 28)))
    assert objects.boxes_O4.tolist() == [[1.0, 1.5, 26.0, 17.5]] * 4


def test_all_is_as_pycocotools_reads_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    annotations = []
    for number in range(12):
        mask_HW = np.asfortranarray(generator.random((20, 30)) < 0.3, dtype=np.uint8)
        run_lengths = {"size": [20, 30], "counts": theirs.encode(mask_HW)["counts"].decode()}
        polygons = [[float(value) for value in generator.uniform(0, 20, 10)] for _ in range(1 + number % 2)]
        annotations.append(
            annotation(
                7 + number % 3,
                [3, 18, 90][number % 3],
                id=number + 1,
                iscrowd=int(number % 4 == 0),
                segmentation=run_lengths if number % 4 == 0 else polygons,
                bbox=generator.uniform(0, 15, 4).tolist(),
            )
        )
    file = coco_layout(tmp_path, content=content_of(annotations))
    coco, source = COCO(str(file)), CocoDetection(root=tmp_path)
    names = {id: coco.loadCats(id)[0]["name"] for id in coco.getCatIds()}
    for image, objects in zip(coco.getImgIds(), source.train().objects(FEW), strict=True):
        expected = coco.loadAnns(coco.getAnnIds(image))
        assert [source.object_classes[label] for label in objects.labels_O] == [
            names[one["category_id"]] for one in expected
        ]
        assert objects.crowd_O.tolist() == [bool(one["iscrowd"]) for one in expected]
        boxes = [(left, top, left + width, top + height) for left, top, width, height in (e["bbox"] for e in expected)]
        torch.testing.assert_close(objects.boxes_O4, torch.tensor(boxes))
        masks = np.stack([coco.annToMask(one) for one in expected]).astype(bool)
        assert np.array_equal(objects.masks_OHW.numpy(), masks)


def test_a_pixel_is_of_the_smallest_object_and_a_crowd_counts_for_nothing(tmp_path: Path) -> None:
    whole = [[0, 0, 30, 0, 30, 10, 0, 10]]
    crowd = {"size": [20, 30], "counts": [300, 300]}
    source = one_image(
        tmp_path,
        annotation(7, 90),
        annotation(7, 18, segmentation=whole),
        annotation(7, segmentation=crowd, iscrowd=1),
    )
    (map_HW,) = source.train().class_maps(torch.tensor([0]))
    expected = torch.zeros(20, 30, dtype=torch.int16)
    expected[:, 15:] = IGNORED
    expected[:10] = 2
    expected[square()] = 3
    assert torch.equal(map_HW, expected)
    shown_NSS = annotated_views.class_maps(source, source.train(), torch.tensor([0]))
    assert shown_NSS.shape == (1, 224, 224)
    assert {IGNORED, 0, 2, 3} == set(shown_NSS.unique().tolist())


@pytest.mark.parametrize("changes", [{"segmentation": []}, {"segmentation": None}, {"segmentation": {}}, None])
def test_where_there_is_no_mask_the_box_stands_in_and_a_notice_tells(tmp_path: Path, changes: dict | None) -> None:
    without = annotation(7, **(changes or {}))
    if changes is None:
        del without["segmentation"]
    source = one_image(tmp_path, without, annotation(7))
    with pytest.warns(Notice, match=r"instances_train2017\.json: 1 of 2 objects have no mask; boxes stand in$"):
        split = source.train()
    assert torch.equal(split.objects(torch.tensor([0]))[0].masks_OHW, torch.stack([square(), square()]))


def test_nothing_is_told_where_every_object_has_a_mask(source: CocoDetection) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source.train()


def test_images_may_show_no_object(tmp_path: Path) -> None:
    coco_layout(tmp_path, content=content_of([annotation(8)]))
    source = CocoDetection(root=tmp_path, img_size=8)
    first, second, third = source.train().objects(FEW)
    assert [len(objects.labels_O) for objects in (first, second, third)] == [0, 1, 0]
    assert [tuple(part.shape) for part in first] == [(0,), (0, 4), (0, 20, 30), (0,)]
    assert [part.dtype for part in first] == [part.dtype for part in second]
    shown = annotated_views.objects(source, source.train(), FEW)
    assert [len(objects.labels_O) for objects in shown] == [0, 1, 0]
    assert not source.train().class_maps(torch.tensor([0]))[0].any()


def test_annotations_come_in_any_order_and_ids_may_be_texts(tmp_path: Path) -> None:
    content = content_of([annotation("b", 18), annotation("a"), annotation("b", 90)], images=2)
    for image, id in zip(content["images"], ("a", "b"), strict=True):
        image["id"] = id
    coco_layout(tmp_path, content=content)
    objects = CocoDetection(root=tmp_path).train().objects(torch.tensor([1, 0]))
    assert [of_image.labels_O.tolist() for of_image in objects] == [[1, 2], [0]]


def test_a_file_may_begin_with_a_mark(tmp_path: Path) -> None:
    file = coco_layout(tmp_path)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(CocoDetection(root=tmp_path).train()) == 3


# The splits.


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("train2017", "val2017"), ["train2017", "carved", "val2017"]),
        (("train", "val", "test"), ["train", "val", "test"]),
        (("training", "valid", "testing"), ["training", "valid", "testing"]),
        (("Train", "test2017"), ["Train", "carved", "test2017"]),
    ],
)
def test_what_is_for_validation_and_what_for_testing(
    tmp_path: Path, parts: tuple[str, ...], expected: list[str]
) -> None:
    for part in parts:
        coco_layout(tmp_path, part, content_of(images=20 if part == parts[0] else 2))
    (tmp_path / "annotations" / "instances_minival.json").write_text("none of ours")
    (tmp_path / "annotations" / "captions_train2017.json").write_text("none of ours")
    source = CocoDetection(root=tmp_path)
    assert source.has_test
    assert source.has_own_validation == ("carved" not in expected)
    counts = [18, 2, 2] if "carved" in expected else [20, 2, 2]
    assert [len(split) for split in source.existing(SPLITS).values()] == counts
    for name, count, part in zip(SPLITS, counts, expected, strict=True):
        assert f"{count} {name} ({part})" in source.describe()


def test_data_without_held_out_images_are_for_training(source: CocoDetection) -> None:
    assert [source.has_test, source.has_validation] == [False, False]


def test_carving_keeps_images_and_objects_together(tmp_path: Path) -> None:
    """The red of each image tells its place, and so does the box of its object."""
    annotations = [annotation(7 + place, bbox=[place, 0, 3, 3]) for place in range(20)]
    coco_layout(tmp_path, content=content_of(annotations, images=20))
    source = CocoDetection(root=tmp_path, img_size=4, validation_images=5)
    seen = []
    for name in ("train", "validation"):
        split = source.get_split(name)
        indices_N = torch.arange(len(split)).flip(0)
        reds = source.denormalize(source.load(split, indices_N))[:, 0, 0, 0] * 255
        for red, objects in zip(reds.tolist(), split.objects(indices_N), strict=True):
            assert objects.boxes_O4[0, 0] == round(red / 10)
            seen.append(round(red / 10))
    assert sorted(seen) == list(range(20))


def test_a_data_set_may_move(tmp_path: Path) -> None:
    coco_layout(tmp_path / "here")
    moved = shutil.copytree(tmp_path / "here", tmp_path / "there")
    here, there = (CocoDetection(root=root).train() for root in (tmp_path / "here", moved))
    assert here.fingerprint() == there.fingerprint()


def test_making_one_reads_nothing() -> None:
    assert CocoDetection(root="/nowhere").img_size == CocoDetection().img_size == 224
