"""SegmentationFolder: three layouts of images with masks, whose numbers become classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_folders import ADE_CLASSES, OWN_CLASSES, ade_layout, own_layout, save_pair, voc_layout
from PIL import Image
from torchvision.datasets import VOCSegmentation

from hpm.data import IGNORED, SPLITS, SegmentationFolder, annotated_views


def maps(source: SegmentationFolder, split: str) -> list[np.ndarray]:
    found = source.get_split(split)
    return [map_HW.numpy() for map_HW in found.class_maps(torch.arange(len(found)))]


def same(found: list[np.ndarray], masks: list[np.ndarray], ignored: int = 255) -> bool:
    """Whether class maps are these masks, whose numbers are classes but for that which is ignored."""
    expected = [np.where(mask_HW == ignored, IGNORED, mask_HW.astype(int)) for mask_HW in masks]
    return len(found) == len(expected) and all(map(np.array_equal, found, expected))


# The layouts.


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_ones_own_layout(tmp_path: Path, mode: str) -> None:
    masks = own_layout(tmp_path, {"train": 4, "val": 2, "test": 3}, mode=mode)
    with Image.open(tmp_path / "train" / "masks" / "0.png") as image:
        assert image.mode == mode
    source = SegmentationFolder(root=tmp_path, img_size=(8, 12))
    assert source.pixel_classes == OWN_CLASSES
    assert source.object_classes == source.class_names == ()
    for split, part in zip(SPLITS, ("train", "val", "test"), strict=True):
        assert same(maps(source, split), masks[part])
        assert source.get_split(split).class_maps(torch.tensor([0]))[0].dtype == torch.int16
    assert source.load(source.test(), torch.arange(3)).shape == (3, 3, 8, 12)
    assert source.describe() == (
        "SegmentationFolder, images: 4 train (train), 2 validation (val), 3 test (test); 3 classes of pixels"
    )


def test_masks_of_one_bit_have_two_classes(tmp_path: Path) -> None:
    masks = own_layout(tmp_path, {"train": 3}, (0, 1), mode="1")
    (tmp_path / "classes.txt").write_text("no\nyes")
    assert same(maps(SegmentationFolder(root=tmp_path), "train"), masks["train"])


def test_numbers_beyond_a_byte_are_read(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(1_000)]
    mask_HW = save_pair(
        tmp_path / "train/images/a.png", tmp_path / "train/masks/a.png", 1, (0, 999, 65535), mode="I;16"
    )
    (tmp_path / "classes.txt").write_text("\n".join(names))
    source = SegmentationFolder(root=tmp_path, ignore_index=65535)
    assert {0, 999, 65535} == set(np.unique(mask_HW).tolist())
    assert same(maps(source, "train"), [mask_HW], ignored=65535)


def test_ade20ks_layout_where_0_counts_for_nothing(tmp_path: Path) -> None:
    masks = ade_layout(tmp_path)
    source = SegmentationFolder(root=tmp_path, validation_images=1)
    assert source.pixel_classes == ADE_CLASSES
    for found, mask_HW in zip(maps(source, "test"), masks["validation"], strict=True):
        assert np.array_equal(found, mask_HW.astype(int) - 1)  # 0 becomes -1, which is IGNORED
    assert {IGNORED, 0, 1, 2, 3} == set(np.unique(np.concatenate([map_.ravel() for map_ in maps(source, "test")])))
    assert len(source.train()) == 3
    assert source.describe() == (
        "SegmentationFolder, images: 3 train (training), 1 validation (carved), 2 test (validation); "
        "4 classes of pixels"
    )


def test_pascal_vocs_layout(tmp_path: Path) -> None:
    """As torchvision reads it."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    masks = voc_layout(root)
    source = SegmentationFolder(root=root, validation_images=1)
    theirs = VOCSegmentation(str(tmp_path), image_set="val")
    assert source.pixel_classes[:2] == ("background", "aeroplane")
    assert len(source.pixel_classes) == 21
    assert source.pixel_classes[20] == "tvmonitor"
    assert same(maps(source, "test"), masks["val"])
    assert same(maps(source, "test"), [np.asarray(mask) for _, mask in theirs])
    split = source.test()
    assert [Path(path).name for path in split.paths] == [Path(path).name for path in theirs.images]
    assert [len(source.train()), len(source.validation())] == [2, 1]


def test_another_number_may_count_for_nothing(tmp_path: Path) -> None:
    masks = own_layout(tmp_path, {"train": 3}, (0, 1, 2, 77))
    assert same(maps(SegmentationFolder(root=tmp_path, ignore_index=77), "train"), masks["train"], ignored=77)


def test_images_lie_in_folders_of_any_depth_and_files_are_told_that_count_for_nothing(tmp_path: Path) -> None:
    own_layout(tmp_path, {"train": 2, "val": 1})
    deep = save_pair(tmp_path / "train/images/a/b/c.jpg", tmp_path / "train/masks/a/b/c.png", 8, (0, 2))
    (tmp_path / "train" / "images" / "notes.txt").write_text("notes")
    (tmp_path / "train" / "masks" / ".hidden.png").write_bytes(b"")
    shutil.copy(tmp_path / "train" / "masks" / "0.png", tmp_path / "train" / "masks" / "of none.png")
    source = SegmentationFolder(root=tmp_path, validation_images=0)
    assert np.array_equal(maps(source, "train")[-1], deep)
    assert source.describe().endswith("left out: 1 hidden, 1 .txt, 1 masks without an image")


# The splits.


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"train": 20, "val": 2, "test": 3}, ["train", "val", "test"]),
        ({"train": 20, "validation": 2, "testing": 3}, ["train", "validation", "testing"]),
        ({"Train": 20, "Valid": 2}, ["Train", "carved", "Valid"]),
        ({"train": 20, "test": 2}, ["train", "carved", "test"]),
    ],
)
def test_what_is_for_validation_and_what_for_testing(
    tmp_path: Path, parts: dict[str, int], expected: list[str]
) -> None:
    own_layout(tmp_path, parts)
    source = SegmentationFolder(root=tmp_path)
    assert source.has_test
    assert source.has_own_validation == ("carved" not in expected)
    counts = [parts.get(part, 2) for part in expected]
    counts[0] -= 2 * ("carved" in expected)
    assert [len(split) for split in source.existing(SPLITS).values()] == counts
    for name, count, part in zip(SPLITS, counts, expected, strict=True):
        assert f"{count} {name} ({part})" in source.describe()


def test_data_without_held_out_images_are_for_training(tmp_path: Path) -> None:
    own_layout(tmp_path, {"train": 20})
    source = SegmentationFolder(root=tmp_path)
    assert [source.has_test, source.has_validation] == [False, False]
    assert len(source.train()) == 20
    carving = SegmentationFolder(root=tmp_path, validation_images=5)
    assert [len(carving.train()), len(carving.validation())] == [15, 5]


def test_carving_keeps_image_and_mask_together(tmp_path: Path) -> None:
    """The red of each image tells which mask is its own."""
    masks = own_layout(tmp_path, {"train": 25, "test": 1})["train"]
    source = SegmentationFolder(root=tmp_path, img_size=4, validation_images=6)
    seen = []
    for name in ("train", "validation"):
        split = source.get_split(name)
        indices_N = torch.arange(len(split)).flip(0)
        reds = source.denormalize(source.load(split, indices_N))[:, 0, 0, 0] * 255
        for red, map_HW in zip(reds.tolist(), split.class_maps(indices_N), strict=True):
            number = round(red / 10)
            assert same([map_HW.numpy()], [masks[number]])
            seen.append(number)
        again = split.subset(torch.tensor([1, 0]))
        assert torch.equal(again.class_maps(torch.tensor([0]))[0], split.class_maps(torch.tensor([1]))[0])
    assert sorted(seen) == list(range(25))


def test_masks_are_seen_as_the_images_are(tmp_path: Path) -> None:
    masks = own_layout(tmp_path, {"train": 3})["train"]
    source = SegmentationFolder(root=tmp_path, img_size=(10, 6))
    shown_NSS = annotated_views.class_maps(source, source.train(), torch.tensor([2, 0]))
    for mask_HW, shown_SS in zip((masks[2], masks[0]), shown_NSS, strict=True):
        rows = ((np.arange(10) + 0.5) * mask_HW.shape[0] / 10).astype(int)
        columns = ((np.arange(6) + 0.5) * mask_HW.shape[1] / 6).astype(int)
        assert same([shown_SS.numpy()], [mask_HW[np.ix_(rows, columns)]])


def test_a_fingerprint_follows_the_names_of_masks_wherever_they_lie(tmp_path: Path) -> None:
    own_layout(tmp_path / "one", {"train": 3})
    moved, other = (shutil.copytree(tmp_path / "one", tmp_path / name) for name in ("moved", "other"))
    shutil.move(other / "train" / "masks" / "2.png", other / "train" / "masks" / "2.bmp")
    first, second, third = (
        SegmentationFolder(root=root).train().fingerprint() for root in (tmp_path / "one", moved, other)
    )
    assert first == second
    assert len(first) == 16
    assert third != first


def test_making_one_reads_nothing() -> None:
    assert SegmentationFolder(root="/nowhere").img_size == SegmentationFolder().img_size == 224
