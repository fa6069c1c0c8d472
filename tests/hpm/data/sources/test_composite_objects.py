"""Composites tell all their objects, which are what the pixels show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpm.data import BACKGROUND, SPLITS, Composites, DigitScenes, Objects, Scenes
from hpm.data.sources.annotations import class_map_of
from hpm.data.sources.composite_layers import Layer, Layers

FEW = {"img_size": 24, "train_size": 60, "validation_size": 24, "test_size": 24}
MANY = FEW | {"background_objects": 6}
WIDE = FEW | {"img_size": (16, 40), "background_objects": 3}
ALL = torch.arange(60)


@pytest.fixture(scope="module")
def folders(composite_folders: Callable[..., dict[str, str]]) -> dict[str, str]:
    return composite_folders()


@pytest.fixture(scope="module")
def on_blue(composite_folders: Callable[..., dict[str, str]]) -> dict[str, str]:
    """Cut-outs of pure red and pure green on pure blue."""
    return composite_folders(blues=[255] * 4, colors={"green": (0, 255, 0), "red": (255, 0, 0)})


@pytest.fixture(scope="module")
def crowded(on_blue: dict[str, str]) -> Composites:
    return Composites(**on_blue, **MANY)


def all_objects(source: Scenes, indices_N: torch.Tensor = ALL) -> list[Objects]:
    return source.train().objects(indices_N)


def same(one: Objects, other: Objects) -> bool:
    return all(torch.equal(*parts) for parts in zip(one, other, strict=True))


@pytest.mark.parametrize("how", [FEW | {"occlusion": 1.0}, MANY, WIDE])
def test_no_pixel_is_of_two_objects_and_boxes_are_tight(on_blue: dict[str, str], how: dict) -> None:
    for objects in all_objects(Composites(**on_blue, **how)):
        assert int(objects.masks_OHW.sum(dim=0).max()) == 1
        for box_4, mask_HW in zip(objects.boxes_O4, objects.masks_OHW, strict=True):
            left, top, right, bottom = box_4.int().tolist()
            inside_HW = mask_HW[top:bottom, left:right]
            assert int(inside_HW.sum()) == int(mask_HW.sum()) > 0
            for edge in (inside_HW[0], inside_HW[-1], inside_HW[:, 0], inside_HW[:, -1]):
                assert bool(edge.any())


@pytest.mark.parametrize("how", [FEW | {"occlusion": 1.0}, MANY, WIDE])
def test_what_a_mask_covers_has_the_colour_of_its_class(on_blue: dict[str, str], how: dict) -> None:
    """At least half of such a pixel is the object, and light takes up to three tenths of a colour."""
    source = Composites(**on_blue, **how)
    images_N3SS, clear = source.train().images(ALL), []
    for image_3SS, objects in zip(images_N3SS, all_objects(source), strict=True):
        for label, mask_SS in zip(objects.labels_O.tolist(), objects.masks_OHW, strict=True):
            own_K, other_K = image_3SS[1 - label, mask_SS], image_3SS[label, mask_SS]
            assert bool((own_K >= 0.7 * 128 - 3).all())
            assert bool((other_K <= 130).all())
            clear.append(own_K > other_K.int() + 100)
    assert float(torch.cat(clear).float().mean()) > 0.8


def test_what_has_the_colour_of_a_class_is_covered_by_a_mask(on_blue: dict[str, str]) -> None:
    source = Composites(**on_blue, **FEW, occlusion=1.0)
    seen = 0
    for image_3SS, objects in zip(source.train().images(ALL), all_objects(source), strict=True):
        for label in (0, 1):
            of_class_SS = objects.masks_OHW[objects.labels_O == label].any(dim=0)
            # Light adds three tenths at most, so that of a brighter pixel more than half is the object.
            bright_SS = image_3SS[1 - label] > 1.3 * 128 + 3
            assert bool(of_class_SS[bright_SS].all())
            seen += int(bright_SS.sum())
    assert seen > 5_000


@pytest.mark.parametrize("how", [FEW, FEW | {"occlusion": 1.0}, MANY, WIDE])
def test_one_of_them_is_the_object_of_the_scene(on_blue: dict[str, str], how: dict) -> None:
    source = Composites(**on_blue, **how)
    for name in SPLITS:
        split, indices_N = source.get_split(name), torch.arange(24)
        masks_NSS = source.object_masks(split, indices_N)
        for label, mask_SS, objects in zip(split.labels, masks_NSS, split.objects(indices_N), strict=False):
            number = [torch.equal(mask_SS, other_SS) for other_SS in objects.masks_OHW].index(True)
            assert objects.labels_O[number] == label
            assert not objects.crowd_O[number]


def test_masks_and_images_of_scenes_that_are_no_squares_agree(on_blue: dict[str, str]) -> None:
    source = Composites(**on_blue, **WIDE | {"background_objects": 0}, occlusion=0.0)
    for image_3SS, objects in zip(source.train().images(ALL), all_objects(source), strict=True):
        assert objects.masks_OHW.shape == (1, 16, 40)
        assert torch.equal(objects.masks_OHW[0], image_3SS[2] <= 255 - 128)


@settings(deadline=None, max_examples=25)
@given(indices=st.lists(st.integers(0, 59), min_size=1, max_size=5))
def test_objects_are_the_same_in_any_batch(crowded: Composites, indices: list[int]) -> None:
    everything = all_objects(crowded)
    for index, objects in zip(indices, all_objects(crowded, torch.tensor(indices)), strict=True):
        assert same(objects, everything[index])


def test_further_objects_stand_behind_and_differ_in_number(on_blue: dict[str, str], crowded: Composites) -> None:
    without = Composites(**on_blue, **FEW)
    assert torch.equal(crowded.train().labels, without.train().labels)
    assert torch.equal(crowded.object_masks(crowded.train(), ALL), without.object_masks(without.train(), ALL))
    few, many = ([len(objects.labels_O) for objects in all_objects(source)] for source in (without, crowded))
    assert set(few) == {1, 2}
    assert sum(few) < 60 * 1.5
    assert {1, 2, 3, 4, 5} <= set(many) <= {1, 2, 3, 4, 5, 6, 7, 8}
    labels = torch.cat([objects.labels_O for objects in all_objects(crowded)])
    assert 0.4 < float(labels.float().mean()) < 0.6


def test_how_many_there_are_is_drawn_evenly(on_blue: dict[str, str]) -> None:
    without, one = (Composites(**on_blue, **FEW, background_objects=most).train() for most in (0, 1))
    changed_N = (without.images(ALL) != one.images(ALL)).flatten(1).any(dim=1)
    assert 0.35 < float(changed_N.float().mean()) < 0.65


def test_what_would_hide_more_than_half_of_the_object_stands_behind_it(tmp_path: Path) -> None:
    """A bar, and a square that covers much of it."""
    for name, size in {"bar": (100, 12), "square": (60, 60)}.items():
        (tmp_path / "cutouts" / name).mkdir(parents=True)
        cutout = Image.new("RGBA", size, "red")
        cutout.putpixel((0, 0), (0, 0, 0, 0))
        cutout.save(tmp_path / "cutouts" / name / "a.png")
    (tmp_path / "photographs").mkdir()
    for number in range(3):
        Image.new("RGB", (60, 60), (0, 0, 255)).save(tmp_path / "photographs" / f"{number}.png")
    folders = {"cutouts": tmp_path / "cutouts", "photographs": tmp_path / "photographs"}
    whole, occluded = (Composites(**folders, **FEW, occlusion=share) for share in (0.0, 1.0))
    before_NSS, masks_NSS = (source.object_masks(source.train(), ALL) for source in (whole, occluded))
    behind = 0
    for label, before_SS, mask_SS, objects in zip(
        occluded.train().labels, before_NSS, masks_NSS, all_objects(occluded), strict=True
    ):
        number = [torch.equal(mask_SS, other_SS) for other_SS in objects.masks_OHW].index(True)
        assert objects.labels_O[number] == label
        assert int(mask_SS.sum()) > 0.4 * int(before_SS.sum())
        behind += number == 1 and label == 0 and torch.equal(mask_SS, before_SS)
    assert behind >= 3


# Digests of pixels and masks of before scenes told their objects, so that runs and stored scenes of then go on.
BEFORE = [(24, "2b81fe7d610b9bf2", "de0500580949bc54"), ((16, 40), "d2517852ae795cfb", "9c8b374e54ab499f")]


@pytest.mark.parametrize(("size", "pixels", "masks"), BEFORE)
def test_without_further_objects_scenes_are_those_of_before(
    folders: dict[str, str], size: int, pixels: str, masks: str
) -> None:
    source = Composites(**folders, **FEW | {"img_size": size})
    assert _digest(source.train().images(ALL)) == pixels
    assert _digest(source.object_masks(source.train(), ALL)) == masks


def _digest(scenes: torch.Tensor) -> str:
    return hashlib.sha256(scenes.numpy().tobytes()).hexdigest()[:16]


def test_a_fingerprint_tells_further_objects_and_nothing_where_there_are_none(folders: dict[str, str]) -> None:
    before, others = (Composites(**folders, **FEW, background_objects=most).train() for most in (0, 1))
    version, _, counts, photographs, *drawn = before.renderer.settings
    assert (version, counts, photographs) == (1, (2, 2, 2), 8)
    assert drawn == [(0.45, 0.85), 0.25, before.renderer.seed]
    assert before.fingerprint() != others.fingerprint()


def test_a_source_names_the_classes_of_its_objects_and_pixels(crowded: Composites) -> None:
    assert crowded.object_classes == ("green", "red")
    assert crowded.pixel_classes == (BACKGROUND, "green", "red")
    maps = crowded.train().class_maps(ALL)
    for map_SS, objects in zip(maps, all_objects(crowded), strict=True):
        assert torch.equal(map_SS, class_map_of(objects))
    assert {-1, 0, 1, 2} == set(torch.stack(maps).unique().tolist())


# What is hardly seen.


def layer(label: int, rows: Sequence[int], columns: Sequence[int]) -> Layer:
    pixels_SS4 = np.zeros((20, 30, 4), dtype=np.uint8)
    pixels_SS4[slice(*rows), slice(*columns)] = 255
    return Layer(label, pixels_SS4)


@pytest.mark.parametrize(("covered", "expected"), [(0, False), (90, False), (91, True), (99, True), (100, None)])
def test_what_is_hardly_seen_is_a_crowd_and_what_is_hidden_is_none(covered: int, expected: bool | None) -> None:
    """Of a hundred pixels so many are covered."""
    behind, rest = layer(1, (0, 1), (0, 30)), covered % 10
    pixels_SS4 = np.zeros((20, 30, 4), dtype=np.uint8)
    pixels_SS4[5 : 5 + covered // 10, 10:20] = 255
    pixels_SS4[5 + covered // 10, 10 : 10 + rest] = 255
    objects = Layers([behind, layer(2, (5, 15), (10, 20)), Layer(0, pixels_SS4)], main=0).objects()
    labels = [1] + [2] * (expected is not None) + [0] * (covered > 0)
    assert objects.labels_O.tolist() == labels
    assert objects.crowd_O.tolist() == [expected if label == 2 else False for label in labels]
    assert objects.masks_OHW.flatten(1).sum(dim=1).tolist() == [
        {1: 30, 2: 100 - covered, 0: covered}[label] for label in labels
    ]


def test_crowds_are_rare_and_small(crowded: Composites) -> None:
    everything = all_objects(crowded)
    crowd = torch.cat([objects.crowd_O for objects in everything])
    sizes = torch.cat([objects.masks_OHW.flatten(1).sum(dim=1) for objects in everything])
    assert 0 < int(crowd.sum()) < 0.2 * len(crowd)
    assert int(sizes[crowd].max()) < float(sizes[~crowd].float().median())


def test_digit_scenes_have_one_object_each() -> None:
    source = DigitScenes(img_size=24, train_size=60, validation_size=5, test_size=5)
    for label, mask_SS, objects in zip(
        source.train().labels, source.object_masks(source.train(), ALL), all_objects(source), strict=True
    ):
        assert objects.labels_O.tolist() == [label]
        assert torch.equal(objects.masks_OHW, mask_SS[None])
        assert objects.crowd_O.tolist() == [False]
    assert source.pixel_classes == (BACKGROUND, *map(str, range(10)))
