"""What CocoDetection refuses, each in a sentence that names the file and what is wrong with it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_folders import CATEGORIES, annotation, coco_layout, content_of
from PIL import Image

from hpm.data import CocoDetection
from hpm.errors import UserError


def refusal(act: Callable[[], object]) -> str:
    """The sentence that it ends in."""
    with pytest.raises(UserError) as raised:
        act()
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def read(root: Path | None, split: str = "train", **bound: Any) -> Callable[[], object]:
    """Reads the objects of every image of a split."""

    def act() -> object:
        found = CocoDetection(root=root, **bound).get_split(split)
        return found.objects(torch.arange(len(found)))

    return act


def refused(tmp_path: Path, content: Any) -> str:
    """What is said of a file of this content, less the file's name."""
    file = coco_layout(tmp_path)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    text = refusal(read(tmp_path))
    assert text.startswith(f"{file}")
    return text.removeprefix(f"{file}")


# The file.


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", " cannot be read: Expecting value: line 1 column 1 (char 0)"),
        ("no JSON", " cannot be read: Expecting value: line 1 column 1 (char 0)"),
        ('{"images": [', " cannot be read: Expecting value: line 1 column 13 (char 12)"),
        ("[" * 100_000, " cannot be read: its content is nested too deep"),
        ([], ": it has no list called images, as COCO's annotations do"),
        ({}, ": it has no list called images, as COCO's annotations do"),
        (content_of() | {"annotations": None}, ": it has no list called annotations, as COCO's annotations do"),
        (content_of() | {"categories": {"1": "car"}}, ": it has no list called categories, as COCO's annotations do"),
        (content_of([]), ": it has no annotations: none of its images shows an object"),
        (content_of() | {"images": []}, ": it has no images"),
        (content_of() | {"categories": []}, ": categories must be 1 to 32,766, each with an id of its own"),
        (content_of() | {"categories": CATEGORIES * 2}, ": categories must be 1 to 32,766, each with an id of its own"),
    ],
)
def test_a_file_that_is_none_of_coco(tmp_path: Path, content: Any, why: str) -> None:
    assert refused(tmp_path, content) == why


@pytest.mark.parametrize(
    ("name", "field", "wrong", "why"),
    [
        ("images", "id", None, "must have 'id', a whole number"),
        ("images", "id", 7.0, "must have 'id', a whole number"),
        ("images", "id", True, "must have 'id', a whole number"),
        ("images", "file_name", 5, "must have 'file_name', a text"),
        ("images", "height", "20", "must have 'height', a whole number"),
        ("images", "width", None, "must have 'width', a whole number"),
        ("annotations", "image_id", [], "must have 'image_id', a whole number"),
        ("annotations", "category_id", "car", "must have 'category_id', a whole number"),
        ("annotations", "bbox", {}, "must have 'bbox', a list"),
        ("categories", "id", "3", "must have 'id', a whole number"),
        ("categories", "name", 3, "must have 'name', a text"),
    ],
)
def test_what_is_missing_or_of_another_kind(tmp_path: Path, name: str, field: str, wrong: Any, why: str) -> None:
    content = json.loads(json.dumps(content_of()))
    content[name][1][field] = wrong
    assert refused(tmp_path / "wrong", content) == f": number 1 of {name} {why}"
    del content[name][1][field]
    assert refused(tmp_path / "missing", content) == f": number 1 of {name} {why}"
    content[name][1] = "no entry"
    assert f": number 1 of {name} must have '" in refused(tmp_path / "entry", content)


def test_an_image_and_a_category_that_are_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path / "image", content_of([annotation(7), annotation(99)])) == (
        ": annotation number 1 is of image 99, which is not there"
    )
    assert refused(tmp_path / "category", content_of([annotation(7, 1)])) == (
        ": annotation number 0 is of category 1, which is none of its categories: 3, 18, 90"
    )
    content = content_of([annotation(7, 1)]) | {
        "categories": [{"id": id, "name": f"kind {id}"} for id in range(10, 20)]
    }
    assert refused(tmp_path / "categories", content).endswith("categories: 10, 11, 12, 13, 14, ...")


def test_two_categories_of_one_name(tmp_path: Path) -> None:
    content = content_of([annotation(7)]) | {"categories": [{"id": 1, "name": "dog"}, {"id": 18, "name": "dog"}]}
    assert refused(tmp_path, content) == ": two categories are called 'dog'"


def test_two_images_of_one_id(tmp_path: Path) -> None:
    content = content_of()
    content["images"][2]["id"] = 7
    content["annotations"] = [annotation(7)]
    assert refused(tmp_path, content) == ": two images have one id"


@pytest.mark.parametrize(
    "box",
    [[], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, -3, 4], [1, 2, 3, "4"], [1, 2, 3, True], [1, 2, 3, None], [1, 2, 3, 1e9]],
)
def test_a_box_that_is_none(tmp_path: Path, box: list[Any]) -> None:
    assert refused(tmp_path, content_of([annotation(7, bbox=box)])) == (
        f": annotation number 0 has the bbox {box}; it must be [left, top, width, height]"
    )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 400])
def test_a_box_of_numbers_that_are_no_places(tmp_path: Path, number: str) -> None:
    content = json.dumps(content_of([annotation(7, bbox=[1, 2, 3, 0.125])])).replace("0.125", number)
    assert ": annotation number 0 has the bbox [1, 2, 3, " in refused(tmp_path, content)


@pytest.mark.parametrize("name", ["/etc/passwd", "../val2017/a.png", "a/../../b.png", ".."])
def test_an_image_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    content = content_of()
    content["images"][0]["file_name"] = name
    assert refused(tmp_path, content) == f": image {name} lies outside of the folder of images"


# Images and masks.


def test_crowds_alone_are_nothing_to_learn(tmp_path: Path) -> None:
    file = coco_layout(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"] = [of | {"iscrowd": 1} for of in content["annotations"]]
    file.write_text(json.dumps(content))
    told = f"{file}: all of its annotations are crowds (iscrowd), and none is an object to learn"
    assert refusal(read(tmp_path)) == told


def test_an_image_of_another_size_than_the_file_says(tmp_path: Path) -> None:
    file = coco_layout(tmp_path)
    image = tmp_path / "train2017" / "000000000008.png"
    Image.new("RGB", (20, 30)).save(image)
    assert refusal(read(tmp_path)) == (
        f"{image} has 20 x 30 pixels (width x height), and {file} says 30 x 20: its objects are annotated on another "
        "image"
    )


def test_an_image_that_is_missing(tmp_path: Path) -> None:
    coco_layout(tmp_path)
    image = tmp_path / "train2017" / "000000000008.png"
    image.unlink()
    assert f"{image} cannot be read as an image: " in refusal(read(tmp_path))


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        ({"size": [30, 20], "counts": [600]}, "its size is [30, 20], and that of its image [20, 30] (height, width)"),
        ({"size": [20, 30], "counts": [599]}, "its counts add up to 599, and its image has 600 pixels"),
        ([[1, 2, 3, 4]], "a polygon must be a list of six numbers or more, x and y of each corner"),
        ([[1, 2, 3, 4, 5, 1e9]], "a corner of a polygon is no number, or lies more than 100,000 pixels away"),
        (True, "it is neither a list of polygons nor run lengths"),
    ],
)
def test_a_mask_that_cannot_be_decoded(tmp_path: Path, segmentation: Any, why: str) -> None:
    content = content_of([annotation(8), annotation(8, segmentation=segmentation)])
    assert refused(tmp_path, content) == (
        f": the mask of annotation number 1, of image 000000000008.png, cannot be decoded: {why}"
    )


def test_masks_need_a_package_and_boxes_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco_layout(tmp_path / "masks")
    coco_layout(tmp_path / "boxes", content=content_of([annotation(7, segmentation=None)]))
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core.mask", None)
    text = refusal(read(tmp_path / "masks"))
    assert text.startswith("CocoDetection needs the package faster-coco-eval, which cannot be imported (")
    assert text.endswith("; install it: pip install 'curriculum-masking[dense]'")
    with pytest.warns(match="3 of 3 objects have no mask|1 of 1 objects have no mask"):
        assert read(tmp_path / "boxes")()


# Folders.


def test_a_root_that_is_none(tmp_path: Path) -> None:
    for root in (None, ""):
        told = "CocoDetection.root is not bound; bind it to the folder that holds images and annotations"
        assert refusal(read(root)) == told
    (tmp_path / "a file").write_text("")
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "nowhere", tmp_path / "a file", tmp_path / "empty"):
        assert refusal(read(root)) == (
            f"CocoDetection.root = {root} has no {root}/annotations/instances_train.json, nor one whose name goes on "
            "after train, as instances_train2017.json; annotations of the training images belong there"
        )


def test_annotations_that_are_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "annotations" / "instances_train.json"
    file.mkdir(parents=True)
    assert refusal(read(tmp_path)) == f"{file} cannot be read: it is a folder and no file"


def test_two_files_of_one_split(tmp_path: Path) -> None:
    for part in ("train2014", "train2017"):
        coco_layout(tmp_path, part)
    assert refusal(read(tmp_path)) == (
        f"{tmp_path / 'annotations'} has two parts of train images, train2014 and train2017; move one of them"
    )


def test_splits_that_there_are_not(tmp_path: Path) -> None:
    coco_layout(tmp_path)
    assert refusal(read(tmp_path, "test")) == (
        f"CocoDetection.root = {tmp_path} has no test images: there is no "
        f"{tmp_path / 'annotations' / 'instances_test.json'}"
    )


def test_categories_that_differ_between_splits(tmp_path: Path) -> None:
    train = coco_layout(tmp_path, "train")
    content = content_of() | {"categories": [*CATEGORIES[:2], {"id": 90, "name": "hair drier"}]}
    val = coco_layout(tmp_path, "val", content)
    told = f"{val} and {train} must have the same categories; they differ in "
    assert refusal(read(tmp_path, "test")) == told + "hair drier, toothbrush"
    renumbered = [{"id": 90 - category["id"], "name": category["name"]} for category in CATEGORIES]
    val.write_text(json.dumps(content_of([annotation(7, 0)]) | {"categories": renumbered}))
    assert refusal(read(tmp_path, "test")) == told + "their order"


def test_nothing_is_carved_where_validation_images_are(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        coco_layout(tmp_path, part)
    assert refusal(read(tmp_path, validation_images=2)) == (
        f"CocoDetection.validation_images = 2 carves nothing, for CocoDetection.root = {tmp_path} has validation "
        "images; leave it out"
    )


def test_the_command_line_says_it_in_a_sentence(
    tmp_path: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    file = coco_layout(tmp_path / "coco")
    shutil.copy(file, tmp_path / "coco" / "annotations" / "instances_val.json")
    file.write_text("[]")
    words = ("data", "export", "data/coco_detection", "-b", "CocoDetection.root = 'coco'", "-b", "IMG_SIZE = 8")
    assert hpm(*words, "--out", "out") == 2
    told = capsys.readouterr().err
    assert told == (
        "error: coco/annotations/instances_train2017.json: it has no list called images, as COCO's annotations do\n"
    )
