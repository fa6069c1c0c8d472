"""Composites: every scene depends on its index alone, and says exactly where its object is."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from curriculum.noise import Noise
from hpm.data import SPLITS, Composites, RandomResizedCrop
from hpm.data.sources import scene_split
from hpm.data.sources.composite_files import divide
from hpm.data.sources.composite_renderer import CompositeRenderer

Folders = Callable[..., dict[str, str]]
FEW = {"img_size": 24, "train_size": 60, "validation_size": 24, "test_size": 24}


@pytest.fixture(scope="module")
def folders(composite_folders: Folders) -> dict[str, str]:
    return composite_folders()


@pytest.fixture(scope="module")
def scenes(folders: dict[str, str]) -> Composites:
    return Composites(**folders, **FEW)


# What a scene is.


def test_shapes_and_classes(scenes: Composites) -> None:
    split = scenes.train()
    assert split is scenes.train()
    assert [len(scenes.get_split(name)) for name in SPLITS] == [60, 24, 24]
    assert scenes.class_names == ("green", "red", "yellow")
    assert scenes.known_train_size == 60
    images_N3SS = split.images(torch.arange(5))
    assert images_N3SS.shape == (5, 3, 24, 24)
    assert images_N3SS.dtype == torch.uint8
    assert scenes.load(split, torch.arange(5)).shape == (5, 3, 24, 24)


def test_it_says_what_it_is_made_of_and_takes_no_photograph_twice(composite_folders: Folders, tmp_path: Path) -> None:
    folders = composite_folders()
    copies = {setting: str(shutil.copytree(folder, tmp_path / setting)) for setting, folder in folders.items()}
    photographs = [path for path in sorted(Path(copies["photographs"]).rglob("*")) if path.is_file()]
    for name, path in (("z.png", photographs[0]), ("zz.png", photographs[1])):
        (tmp_path / "photographs" / name).symlink_to(path)
    (tmp_path / "photographs" / "phone.heic").write_bytes(b"heic")
    (next((tmp_path / "cutouts").iterdir()) / "moves.gif").write_bytes(b"GIF89a")
    shutil.copy(photographs[0], tmp_path / "cutouts" / "loose.png")
    source = Composites(**copies, **FEW)
    assert source.describe() == "Composites, 3 classes, images: none read"
    assert source.photograph_files == photographs  # in their order, so that all stay in their splits
    source.train()
    cutouts = sum(map(len, source.cutout_files.values()))
    shares = ", ".join(str(len(paths)) for paths in divide(photographs).values())
    assert source.describe() == (
        f"Composites, 3 classes, images: 60 train; {cutouts} cut-outs on {shares} photographs; "
        "left out: 2 links to photographs that were seen, 1 images in no class folder, 1 .gif, 1 .heic"
    )


def test_making_one_reads_nothing() -> None:
    source = Composites(cutouts="/nowhere", photographs="/nowhere")
    assert source.has_validation
    assert source.known_train_size == 20_000


@settings(deadline=None, max_examples=25)
@given(indices=st.lists(st.integers(0, 59), min_size=1, max_size=9))
def test_a_scene_is_the_same_in_any_batch(scenes: Composites, indices: list[int]) -> None:
    indices_N = torch.tensor(indices)
    split = scenes.train()
    assert torch.equal(split.renderer.render(indices_N), split.images(indices_N))
    assert torch.equal(split.renderer.labels(indices_N), split.labels[indices_N])
    assert torch.equal(scenes.object_masks(split, indices_N), scenes.object_masks(split, torch.arange(60))[indices_N])


def test_another_source_renders_the_same_and_another_seed_others(folders: dict[str, str], scenes: Composites) -> None:
    before = torch.random.get_rng_state()
    same, other = (Composites(**folders, **FEW, seed=seed).train() for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    indices_N = torch.arange(60)
    assert torch.equal(same.images(indices_N), scenes.train().images(indices_N))
    assert not torch.equal(other.images(indices_N), same.images(indices_N))
    assert not torch.equal(other.labels, same.labels)


def test_a_larger_split_begins_with_the_same_scenes(folders: dict[str, str], scenes: Composites) -> None:
    few = Composites(**folders, **FEW | {"train_size": 10}).train()
    assert torch.equal(few.images(torch.arange(10)), scenes.train().images(torch.arange(10)))
    assert torch.equal(few.labels, scenes.train().labels[:10])


def test_scenes_rendered_on_demand_are_the_stored_ones(
    folders: dict[str, str], scenes: Composites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene_split, "MEMORY_LIMIT", 0)
    rendered = Composites(**folders, **FEW).train()
    indices_N = torch.tensor([5, 59, 17, 5])
    boxes_N4, flips_N = RandomResizedCrop().draw(rendered.sizes(indices_N), Noise(0, 0, indices_N))
    stored = scenes.train()
    assert torch.equal(rendered.labels, stored.labels)
    assert torch.equal(rendered.crop(indices_N, boxes_N4, flips_N, 16), stored.crop(indices_N, boxes_N4, flips_N, 16))
    assert rendered.to(torch.device("meta")) is rendered
    assert stored.to(torch.device("meta")).images_KCHW.shape == (60, 3, 24, 24)


@settings(deadline=None, max_examples=25)
@given(classes=st.integers(2, 12), size=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_every_class_is_equally_frequent(classes: int, size: int, seed: int) -> None:
    renderer = CompositeRenderer(
        cutouts=[[]] * classes,
        photographs=[],
        size=8,
        scales=(0.5, 0.5),
        occlusion=0.0,
        background_objects=0,
        seed=seed,
    )
    labels_N = renderer.labels(torch.arange(size))
    counts = torch.bincount(labels_N, minlength=classes)
    assert int(counts.max() - counts.min()) <= 1
    for first in range(0, size - classes + 1, classes):
        assert sorted(labels_N[first : first + classes].tolist()) == list(range(classes))


def test_labels_are_shuffled(scenes: Composites) -> None:
    rounds = {tuple(labels.tolist()) for labels in scenes.train().labels.split(3)}
    assert len(rounds) >= 4  # of the six orders of three classes, within twenty


def test_the_pixels_are_those_of_before(scenes: Composites) -> None:
    """Whoever means to change them raises `composite_renderer.VERSION`, by which files of stored scenes go."""
    images_N3SS = scenes.train().images(torch.arange(4)).float()
    assert scenes.train().labels[:9].tolist() == LABELS
    torch.testing.assert_close(images_N3SS.mean(dim=(2, 3)), torch.tensor(MEANS), rtol=0, atol=0.5)


LABELS = [0, 1, 2, 2, 0, 1, 1, 0, 2]
MEANS = [[0.0, 33.3, 93.7], [72.2, 0.0, 71.7], [56.6, 56.6, 127.2], [60.5, 60.5, 151.4]]


# The photographs.


@given(count=st.integers(3, 300))
def test_photographs_are_dealt_to_all_splits(count: int) -> None:
    photographs = [Path(str(number)) for number in range(count)]
    parts = divide(photographs)
    assert tuple(parts) == SPLITS
    assert sorted(itertools.chain(*parts.values())) == sorted(photographs)
    assert min(map(len, parts.values())) >= 1
    if count % 20 == 0:
        assert [len(part) / count for part in parts.values()] == [0.65, 0.15, 0.2]


def test_the_splits_share_no_photograph(scenes: Composites) -> None:
    """Each photograph is of one blue, which is most of a scene."""
    blues = {}
    for name in SPLITS:
        images_N3SS = scenes.get_split(name).images(torch.arange(24))
        most = [images_3SS[2].flatten().mode().values.item() for images_3SS in images_N3SS]
        blues[name] = set(most)
        assert blues[name] <= set(range(100, 220, 10))
    assert all(not blues[one] & blues[other] for one, other in itertools.combinations(SPLITS, 2))
    assert [len(blues[name]) for name in SPLITS] == [8, 2, 2]


# Where the object is.


@pytest.fixture(scope="module")
def on_blue(composite_folders: Folders) -> dict[str, str]:
    """Cut-outs of pure red and pure green on pure blue."""
    return composite_folders(blues=[255] * 4, colors={"green": (0, 255, 0), "red": (255, 0, 0)})


def test_the_mask_is_what_differs_from_the_photograph(on_blue: dict[str, str]) -> None:
    """A pixel's blue is what the object leaves of the photograph."""
    source = Composites(**on_blue, **FEW, occlusion=0.0)
    images_N3SS = source.train().images(torch.arange(60))
    masks_NSS = source.object_masks(source.train(), torch.arange(60))
    assert masks_NSS.dtype == torch.bool
    assert torch.equal(masks_NSS, images_N3SS[:, 2] <= 255 - 128)
    assert 0.05 < masks_NSS.float().mean() < 0.5
    assert bool(masks_NSS.any(dim=(1, 2)).all())
    other_NSS = images_N3SS[torch.arange(60), source.train().labels]  # the channel of the other class
    assert int(other_NSS.max()) == 0


def test_occluded_parts_do_not_count(on_blue: dict[str, str]) -> None:
    whole, occluded = (Composites(**on_blue, **FEW, occlusion=occlusion) for occlusion in (0.0, 1.0))
    indices_N = torch.arange(60)
    labels_N = occluded.train().labels
    images_N3SS = occluded.train().images(indices_N)
    own_NSS, other_NSS = images_N3SS[indices_N, 1 - labels_N], images_N3SS[indices_N, labels_N]
    masks_NSS = occluded.object_masks(occluded.train(), indices_N)
    assert torch.equal(whole.train().labels, labels_N)
    # Light takes up to three tenths of a colour.
    assert bool((own_NSS[masks_NSS] >= 0.7 * 128 - 3).all())
    assert bool((own_NSS[~masks_NSS] <= 130).all())
    assert not bool(masks_NSS[other_NSS > 130].any())
    assert int((other_NSS > 130).sum()) > 200
    before_NSS = whole.object_masks(whole.train(), indices_N)
    assert not bool((masks_NSS & ~before_NSS).any())
    share_N = masks_NSS.float().sum(dim=(1, 2)) / before_NSS.float().sum(dim=(1, 2))
    assert float(share_N.min()) > 0.4
    assert 0.1 < float((share_N < 1).float().mean()) < 1


def test_the_object_map_is_a_quarter_of_a_patch_or_more(scenes: Composites) -> None:
    indices_N = torch.tensor([3, 0, 21])
    split = scenes.test()
    masks = scenes.object_masks(split, indices_N).numpy()
    map_NL = scenes.object_map(split, indices_N, patch_size=6)
    expected = [
        [np.mean(mask[top : top + 6, left : left + 6]) >= 0.25 for top in range(0, 24, 6) for left in range(0, 24, 6)]
        for mask in masks
    ]
    assert scenes.knows_objects
    assert map_NL.tolist() == expected
    with pytest.raises(ValueError, match=r"patch_size = 7 does not divide Composites\.img_size = 24"):
        scenes.object_map(split, indices_N, patch_size=7)


def test_scenes_of_any_size_show_the_same(folders: dict[str, str], scenes: Composites) -> None:
    large = Composites(**folders, **FEW | {"img_size": 48})
    indices_N = torch.arange(24)
    masks_N1SS = large.object_masks(large.train(), indices_N).float().unsqueeze(1)
    small_NSS = scenes.object_masks(scenes.train(), indices_N).float()
    difference_N1SS = torch.nn.functional.avg_pool2d(masks_N1SS, 2) - small_NSS.unsqueeze(1)
    assert float(difference_N1SS.abs().mean()) < 0.04
    assert torch.equal(large.train().labels, scenes.train().labels)


# What a run records of the data.


def test_the_fingerprint_follows_what_is_seen(folders: dict[str, str], scenes: Composites, tmp_path: Path) -> None:
    expected = scenes.train().fingerprint()
    moved = {name: str(tmp_path / name) for name in folders}
    for name, folder in folders.items():
        shutil.copytree(folder, moved[name])
    assert Composites(**moved, **FEW, cache_dir=tmp_path / "cache").train().fingerprint() == expected
    for change in ({"seed": 1}, {"occlusion": 0.5}, {"min_scale": 0.5}, {"img_size": 16}, {"train_size": 59}):
        assert Composites(**folders, **FEW | change).train().fingerprint() != expected
    Image.new("RGB", (120, 70), (0, 0, 99)).save(tmp_path / "photographs" / "of 0" / "00.png")
    changed = Composites(**moved, **FEW)
    found = [changed.get_split(name).fingerprint() != scenes.get_split(name).fingerprint() for name in SPLITS]
    assert sum(found) == 1, "a photograph belongs to one split"


# A run.


def test_a_run_resumes_and_finds_objects(
    folders: dict[str, str], tiny_composites: Path, hpm: Callable[..., int], same_end: Callable[[Path], None]
) -> None:
    sizes = ["train_size = 160", "validation_size = 24", "test_size = 24", "cache_dir = 'scenes'"]
    bindings = [f"Composites.{name} = '{folder}'" for name, folder in folders.items()]
    bindings += [f"Composites.{size}" for size in sizes]
    bindings += ["Schedule.epochs = 2", "Checkpointing.every = 10", "Monitoring.evaluations = [@Localization()]"]
    assert (
        hpm("pretrain", tiny_composites, *(word for text in bindings for word in ("-b", text)), "--output", "run") == 0
    )
    same_end(Path("run"))
    metrics = json.loads(Path("run", "summary.json").read_text())["metrics"]
    assert metrics["localization/edge_density/auroc"] > 0.6
