"""What SegmentationFolder refuses, each in a sentence that names the file and what would be right."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_folders import ade_layout, own_layout, save_pair, voc_layout
from PIL import Image

from hpm.data import SegmentationFolder
from hpm.errors import UserError


def refusal(act: Callable[[], object]) -> str:
    """The sentence that it ends in."""
    with pytest.raises(UserError) as raised:
        act()
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 600
    return text


def read(root: Path, split: str = "train", **bound: object) -> Callable[[], object]:
    """Reads every mask of a split."""

    def act() -> object:
        found = SegmentationFolder(root=root, **bound).get_split(split)
        return found.class_maps(torch.arange(len(found)))

    return act


@pytest.fixture
def own(tmp_path: Path) -> Path:
    own_layout(tmp_path, {"train": 4, "val": 2})
    return tmp_path


# A mask that is none, or another image's.


def test_a_mask_of_another_size(own: Path) -> None:
    mask = own / "train" / "masks" / "1.png"
    Image.new("L", (7, 5)).save(mask)
    assert refusal(read(own)) == (
        f"the mask {mask} has 7 x 5 pixels (width x height), and its image {own / 'train' / 'images' / '1.png'} "
        "31 x 21; they must be of one size"
    )


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ((0, 3), "holds the numbers 3, which stand for no class: known are 0 to 2 and 255"),
        ((0, 3, 4, 5, 6, 7, 8, 9), "holds the numbers 3, 4, 5, 6, 7 and 2 more, which"),
    ],
)
def test_numbers_that_are_no_class(own: Path, numbers: tuple[int, ...], told: str) -> None:
    mask = own / "train" / "masks" / "1.png"
    numbers_HW = np.resize(np.array(numbers, dtype=np.uint8), (21, 31))
    Image.fromarray(numbers_HW).save(mask)
    text = refusal(read(own))
    assert text.startswith(f"the mask {mask} {told}")
    assert text.endswith("SegmentationFolder.ignore_index is the number of pixels that count for nothing")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_in_color(own: Path, mode: str) -> None:
    mask = own / "train" / "masks" / "1.png"
    Image.new(mode, (31, 21)).save(mask)
    assert f"the mask {mask} is a picture in color (Pillow's mode {mode})" in refusal(read(own))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_damaged_mask(own: Path, content: bytes | None) -> None:
    mask = own / "train" / "masks" / "1.png"
    mask.write_bytes(mask.read_bytes()[:60] if content is None else content)
    assert refusal(read(own)).startswith(f"the mask {mask} cannot be read as an image: ")


def test_a_damaged_image(own: Path) -> None:
    image = own / "train" / "images" / "1.png"
    image.write_bytes(b"no image")
    assert f"{image} cannot be read as an image" in refusal(read(own))


def test_a_mask_that_is_missing(own: Path) -> None:
    mask = own / "train" / "masks" / "1.png"
    mask.unlink()
    assert refusal(read(own)) == (
        f"{own / 'train' / 'images' / '1.png'} has no mask: there is no {mask}; add it, or remove the image"
    )
    shutil.rmtree(mask.parent)
    assert refusal(read(own)) == f"{own / 'train' / 'images'} has no masks: there is no folder {mask.parent}"


def test_two_masks_of_an_image_and_two_images_of_a_mask(own: Path) -> None:
    again = own / "train" / "masks" / "1.bmp"
    shutil.copy(again.with_suffix(".png"), again)
    assert refusal(read(own)) == (f"{again} and {again.with_suffix('.png')} are masks of one image; remove one of them")
    again.unlink()
    image = own / "train" / "images" / "1.bmp"
    shutil.copy(image.with_suffix(".png"), image)
    assert refusal(read(own)) == (
        f"{image} and {image.with_suffix('.png')} are images of one mask; rename or remove one of them"
    )


# Classes.


def test_classes_that_are_not_told(own: Path) -> None:
    file = own / "classes.txt"
    file.unlink()
    told = f"{file} cannot be read: No such file or directory; it must tell the names of the classes or images"
    assert refusal(read(own)) == told
    assert refusal(lambda: SegmentationFolder(root=own).pixel_classes) == told
    file.write_bytes(b"caf\xe9\nbar\n")
    assert f"{file} cannot be read: it is no text in UTF-8" in refusal(read(own))


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["wall", "door", "wall"], "wall stands there twice"),
        (["wall", "", "door"], "it has an empty line"),
        (["wall", "", "", "door"], "an empty name stands there twice"),
        (["wall"], "it has 1"),
        ([], "it has 0"),
    ],
)
def test_names_of_classes_that_are_none(own: Path, lines: list[str], why: str) -> None:
    file = own / "classes.txt"
    file.write_text("\n".join(lines))
    assert refusal(read(own)) == (
        f"{file} must hold the names of two classes or more, one a line and none twice: {why}"
    )


def test_editors_may_mark_and_end_the_file_of_classes(own: Path) -> None:
    (own / "classes.txt").write_bytes(b"\xef\xbb\xbfwall \r\nwindow\r\ndoor\r\n\r\n")
    assert SegmentationFolder(root=own).pixel_classes == ("wall", "window", "door")


def test_a_class_cannot_count_for_nothing(own: Path) -> None:
    assert refusal(read(own, ignore_index=1)) == (
        "SegmentationFolder.ignore_index = 1 is the number of a class, window; choose another"
    )
    ade_layout(own / "ade")
    assert refusal(read(own / "ade", ignore_index=4)) == (
        "SegmentationFolder.ignore_index = 4 is the number of a class, floor; choose another"
    )
    assert read(own / "ade", ignore_index=0)()
    for wrong in (-1, 65536):
        with pytest.raises(ValueError, match=r"SegmentationFolder\.ignore_index = -?\d+ must lie in \[0, 65535\]"):
            SegmentationFolder(ignore_index=wrong)


# Folders.


def test_a_root_that_is_none(own: Path) -> None:
    for root in (None, ""):
        told = "SegmentationFolder.root is not bound; bind it to the folder that holds images and masks"
        assert refusal(read(root)) == told
    for root in (own / "nowhere", own / "classes.txt"):
        assert refusal(read(root)) == f"SegmentationFolder.root = {root} is not a folder"


def test_a_root_without_training_images(own: Path) -> None:
    shutil.rmtree(own / "train")
    assert f"SegmentationFolder.root = {own} has no training images where they are looked for" in refusal(read(own))
    (own / "empty").mkdir()
    assert f"{own / 'empty'} has no training images" in refusal(read(own / "empty"))


def test_folders_without_images(own: Path) -> None:
    for path in (own / "train" / "images").iterdir():
        path.unlink()
    assert refusal(read(own)) == f"{own / 'train' / 'images'} holds no images"
    (own / "train" / "images" / "film.mp4").write_bytes(b"")
    assert refusal(read(own)) == f"{own / 'train' / 'images'} holds no images (left out: 1 .mp4)"


@pytest.mark.parametrize(("one", "other"), [("train", "training"), ("val", "validation"), ("test", "tests")])
def test_two_parts_of_one_split(own: Path, one: str, other: str) -> None:
    for part in (one, other):
        save_pair(own / part / "images" / "0.png", own / part / "masks" / "0.png", 0, (0, 1))
    split = {"val": "validation"}.get(one, one)
    assert refusal(read(own)) == f"{own} has two parts of {split} images, {one} and {other}; move one of them"


def test_splits_that_there_are_not(own: Path) -> None:
    shutil.rmtree(own / "val")
    assert refusal(read(own, "test")) == (
        f"SegmentationFolder.root = {own} has no test images: there is no folder {own / 'test' / 'images'}"
    )
    assert "SegmentationFolder.validation_images" in refusal(read(own, "validation"))
    ade_layout(own / "ade")
    shutil.rmtree(own / "ade" / "images" / "validation")
    assert f"there is no folder {own / 'ade' / 'images' / 'test'}" in refusal(read(own / "ade", "test"))
    voc_layout(own / "voc")
    (own / "voc" / "ImageSets" / "Segmentation" / "val.txt").unlink()
    assert f"there is no list {own / 'voc'}/ImageSets/Segmentation/test.txt" in refusal(read(own / "voc", "test"))


def test_nothing_is_carved_where_validation_images_are(own: Path) -> None:
    (own / "val").rename(own / "test")
    shutil.copytree(own / "test", own / "val")
    assert refusal(read(own, validation_images=2)) == (
        f"SegmentationFolder.validation_images = 2 carves nothing, for SegmentationFolder.root = {own} has validation "
        "images; leave it out"
    )


@pytest.mark.parametrize(("folder", "ending"), [("JPEGImages", "jpg"), ("SegmentationClass", "png")])
def test_a_list_of_pascal_vocs_that_names_what_is_not_there(tmp_path: Path, folder: str, ending: str) -> None:
    voc_layout(tmp_path)
    listed = tmp_path / "ImageSets" / "Segmentation" / "train.txt"
    missing = tmp_path / folder / f"2007_00001.{ending}"
    missing.unlink()
    assert refusal(read(tmp_path)) == f"{listed} lists 2007_00001, and there is no file {missing}"
    listed.write_text("\n\n")
    assert refusal(read(tmp_path)) == f"{listed} lists no images"
    listed.write_bytes(b"\xff\xfe")
    assert f"{listed} cannot be read: it is no text in UTF-8" in refusal(read(tmp_path))


def test_the_command_line_says_it_in_a_sentence(
    own: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "train" / "masks" / "1.png").unlink()
    root = f"SegmentationFolder.root = '{own}'"
    words = ("data", "export", "data/segmentation_folder", "--format", "segmentation", "--out", "out")
    assert hpm(*words, "-b", root, "-b", "IMG_SIZE = 8") == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: .*/1\.png has no mask: there is no .*/1\.png; add it, or remove the image\n", told)
    assert not Path("out").exists()
