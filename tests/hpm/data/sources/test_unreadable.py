"""Folders in which some images cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data.crops import RandomResizedCrop
from hpm.data.loader import Loader
from hpm.data.sources.image_folder import ImageFolder
from hpm.data.sources.split import Unreadable
from hpm.data.unreadable import UnreadableImages
from hpm.errors import TrainingError, UserError
from hpm.evaluation.augmentation import AugmentingLoader
from hpm.evaluation.features import batches
from hpm.evaluation.few_labels import FewLabels
from hpm.runtime.distributed import DistributedContext

IMAGES = 240
DAMAGE = {7: "truncated", 8: "empty", 9: "not an image", 100: "truncated", 239: "missing"}


def write(root: Path, damage: dict[int, str]) -> ImageFolder:
    root.mkdir()
    random = np.random.default_rng(0)
    for k in range(IMAGES):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((100 + k % 7, 80), Image.Resampling.BICUBIC)
        picture.save(root / f"{k:03}.jpg")
    source = ImageFolder(root=root, img_size=32)
    source.train()  # finds the files, which are damaged after that
    for k, kind in damage.items():
        path = root / f"{k:03}.jpg"
        data = path.read_bytes()
        if kind == "missing":
            path.unlink()
        else:
            path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "not an image": b"text" * 99}[kind])
    return source


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write(tmp_path_factory.mktemp("sound") / "images", {})


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return write(tmp_path_factory.mktemp("damaged") / "images", DAMAGE)


def make(source, **options):
    defaults = {"batch_size": 24, "patch_size": 8, "crop": RandomResizedCrop(), "seed": 3, "max_unreadable": 0.05}
    return Loader(source=source, **(defaults | options))


def rows(loader, epoch):
    """Everything that an epoch gives: indices [K], boxes [K, 4], flips [K], images [K, 3, S, S]."""
    batches = [batch for step in loader.epoch(epoch) for batch in step]
    return tuple(torch.cat([getattr(b, name) for b in batches]) for name in ("indices", "boxes", "flips", "images"))


def stand_in(index):
    while index in DAMAGE:
        index = (index + 1) % IMAGES
    return index


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_next_sample_stands_in_and_nothing_else_changes(sound, damaged, num_workers):
    loader = make(damaged, num_workers=num_workers)
    for epoch in (0, 1):
        expected = rows(make(sound), epoch)
        place = {index: row for row, index in enumerate(expected[0].tolist())}
        sources = [place[stand_in(index)] for index in expected[0].tolist()]
        assert all(
            torch.equal(ours, theirs[sources]) for ours, theirs in zip(rows(loader, epoch), expected, strict=True)
        )
    assert set(loader.unreadable) == {damaged.train().paths[k] for k in DAMAGE}
    reasons = {k: loader.unreadable[damaged.train().paths[k]] for k in DAMAGE}
    assert "truncated" in reasons[7]
    assert "no image format" in reasons[8]
    assert "no image format" in reasons[9]
    assert "No such file" in reasons[239]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_processes_agree_about_what_stands_in(damaged, num_workers):
    whole = rows(make(damaged), 0)
    loaders = [make(damaged, rank=rank, world_size=2, num_workers=num_workers, accumulate=2) for rank in (0, 1)]
    batches = [b for steps in zip(*(loader.epoch(0) for loader in loaders), strict=True) for s in steps for b in s]
    assert torch.equal(torch.cat([b.indices for b in batches]), whole[0])
    assert torch.equal(torch.cat([b.images for b in batches]), whole[3])
    assert len(loaders[0].unreadable | loaders[1].unreadable) == len(DAMAGE)


def test_known_ones_are_not_tried_again(tmp_path):
    source = write(tmp_path / "images", {7: "empty"})
    loader = make(source)
    first = rows(loader, 0)
    Image.new("RGB", (100, 80)).save(source.train().paths[7])  # it would be readable now
    assert 7 not in rows(loader, 1)[0]
    assert 7 in rows(make(source), 0)[0]
    assert 7 not in first[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_end_the_run(damaged, num_workers):
    loader = make(damaged, num_workers=num_workers, max_unreadable=0.01)
    with pytest.raises(TrainingError, match=r"[345] of 240 .* Loading\.max_unreadable = 0\.01 allows 2: .*\.jpg \("):
        rows(loader, 0)
    with pytest.raises(TrainingError, match="cannot be read"):
        next(loader.epoch(1))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_none_may_be_unreadable(damaged, num_workers):
    loader = make(damaged, num_workers=num_workers, max_unreadable=0.0)
    with pytest.raises(TrainingError, match=r"[12] of 240"):
        rows(loader, 0)


def test_a_folder_of_nothing_but_rubbish_ends(tmp_path):
    source = write(tmp_path / "images", dict.fromkeys(range(IMAGES), "empty"))
    with pytest.raises(TrainingError, match=r"of 240 .* and \d+ more\. Fix or remove them"):
        rows(make(source, max_unreadable=0.99, batch_size=240), 0)


def test_evaluation_names_the_file(damaged):
    with pytest.raises(UserError, match=r"008\.jpg cannot be read as an image: .* \(and 1 more of this batch\)"):
        damaged.load(damaged.train(), torch.tensor([6, 8, 9]))
    with pytest.raises(Unreadable, match=r"239\.jpg cannot be read as an image"):
        damaged.train().sizes(torch.tensor([0, 239]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluations_let_others_stand_in_and_tell_which(damaged, num_workers):
    asked, unreadable, cpu = torch.tensor([6, 7, 9, 239]), UnreadableImages(0.05), torch.device("cpu")
    settings = {"device": cpu, "num_workers": num_workers}
    train = damaged.train()
    loaded = torch.cat(list(batches(damaged, train, asked, batch_size=2, unreadable=unreadable, **settings)))
    read = unreadable.stand_ins(asked, train)
    assert read.tolist() == [6, 10, 10, 0]
    assert torch.equal(loaded, damaged.load(train, read))
    assert set(unreadable.by_name) == {train.paths[k] for k in (7, 8, 9, 239)}
    few = UnreadableImages(0.01)
    with pytest.raises(TrainingError, match=r"Loading\.max_unreadable = 0\.01 allows 2"):
        list(batches(damaged, train, asked, unreadable=few, **settings))
    with pytest.raises(Unreadable, match=r"00[79]\.jpg cannot be read as an image"):
        list(batches(damaged, train, asked, **settings))


def test_few_labels_and_fine_tuning_let_others_stand_in_and_tell_which(damaged):
    unreadable, cpu = UnreadableImages(0.05), torch.device("cpu")
    shared = {"crop": RandomResizedCrop(), "batch_size": 4, "patch_size": 8, "seed": 0, "device": cpu}
    few = FewLabels(source=damaged, train_N=torch.tensor([6, 7, 9, 239]), unreadable=unreadable, **shared)
    ((batch,),) = few.epoch(0)
    assert sorted(batch.indices.tolist()) == [0, 6, 10, 10]
    loader = AugmentingLoader(
        source=damaged, transform=None, processes=DistributedContext(), unreadable=unreadable, **shared
    )
    assert not set(DAMAGE) & {k for (batch,) in loader.epoch(0) for k in batch.indices.tolist()}
    assert set(unreadable.by_index) == set(DAMAGE)
