"""Splits of timm's data sets: different images, whatever they are called; the same ones in loader processes."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data import Loader, RandomResizedCrop, TimmDataset
from hpm.data.sources.encoded import EncodedSubset
from hpm.errors import UserError
from hpm.evaluation.features import batches


def fill(folder: Path, count: int, first: int) -> None:
    """Noise, so many images of each of two classes."""
    for label in "ab":
        (folder / label).mkdir(parents=True)
        for number in range(first, first + count):
            pixels = np.random.default_rng([ord(label), number]).integers(0, 256, (10, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


@pytest.mark.parametrize(
    ("name", "splits", "message"),
    [
        ("", {"validation": "val", "test": "val"}, "validation_split = 'val' means .* TimmDataset.test_split = 'val'"),
        ("", {"validation": "train"}, "validation_split = 'train' means .* TimmDataset.train_split = 'train'"),
        ("", {"test": "train"}, "test_split = 'train' means .* TimmDataset.train_split = 'train'"),
        ("hfds/food101", {"validation": "Val"}, "validation_split = 'Val' means .*test_split = 'validation'"),
        ("hfds/food101", {"validation": "train[90%:]"}, "validation_split = .* TimmDataset.train_split = 'train'"),
        ("torch/cifar10", {"validation": "val", "test": "test"}, "validation_split = 'val' means .*test_split"),
        ("torch/cifar10", {"validation": "training"}, "validation_split = 'training' means .*train_split"),
        ("torch/inat", {"validation": "full/2021_valid"}, "validation_split = 'full/2021_valid' means .*test_split"),
    ],
)
def test_timm_names_that_mean_the_same_images(name: str, splits: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=f"TimmDataset.{message}"):
        TimmDataset(name=name, **{f"{split}_split": value for split, value in splits.items()})


def test_timm_names_that_mean_different_images() -> None:
    halves = {"validation_split": "validation[:50%]", "test_split": "validation[50%:]"}
    for splits in (halves, {"validation_split": "val", "test_split": "test"}):
        assert TimmDataset(name="hfds/food101", **splits).has_own_validation
    assert not TimmDataset(name="torch/cifar10", validation_split=None).has_own_validation


def test_timm_names_that_find_the_same_folder(tmp_path: Path) -> None:
    fill(tmp_path / "later" / "train", 3, 0)
    source = TimmDataset(root=tmp_path / "later", img_size=8, validation_split="val")
    fill(tmp_path / "later" / "eval", 3, 100)
    with pytest.raises(
        UserError, match=r"validation_split = 'val' means the same images as .*test_split = 'validation'"
    ):
        source.validation()
    with pytest.raises(
        UserError, match=r"validation_split = 'val' means the same images as .*test_split = 'validation'"
    ):
        TimmDataset(root=tmp_path / "later", validation_split="val")
    fill(tmp_path / "later" / "val", 3, 200)
    both = TimmDataset(root=tmp_path / "later", img_size=8, validation_split="val", test_split="eval")
    assert len(both.validation()) == len(both.test()) == 6


def test_a_root_with_validation_images_is_not_the_training_split(tmp_path: Path) -> None:
    fill(tmp_path / "val", 3, 0)
    with pytest.raises(UserError, match="holds no split 'train'"):
        TimmDataset(root=tmp_path, validation_split="val", test_split=None).train()


def tar_source(tmp_path: Path) -> TimmDataset:
    for place, name in enumerate(("train", "val")):
        fill(tmp_path / name, 15, 100 * place)
        with tarfile.open(tmp_path / f"{name}.tar", "w") as file:
            file.add(tmp_path / name, arcname="")
        (tmp_path / name).rename(tmp_path / f"unpacked {name}")
    return TimmDataset(root=tmp_path, img_size=8, validation_images=12)


def hugging_face_source(tmp_path: Path) -> TimmDataset:
    datasets = pytest.importorskip("datasets")
    for place, name in enumerate(("train", "validation")):
        fill(tmp_path / name, 15, 100 * place)
        paths = sorted((tmp_path / name).rglob("*.png"))
        columns = {
            "image": [{"bytes": path.read_bytes(), "path": path.name} for path in paths],
            "label": ["ab".index(path.parent.name) for path in paths],
        }
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(tmp_path / "table" / f"{name}.parquet")
    name = f"hfds/{tmp_path / 'table'}"
    return TimmDataset(name=name, root=tmp_path / "cache", img_size=8, validation_images=12)


@pytest.mark.parametrize("make", [tar_source, hugging_face_source])
def test_carved_splits_are_the_same_in_loader_processes(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = make(tmp_path)
    train, validation = source.train(), source.validation()
    assert isinstance(train, EncodedSubset)
    assert isinstance(validation, EncodedSubset)
    assert (len(train), len(validation), validation.labels.tolist()) == (18, 12, [0] * 6 + [1] * 6)

    trained, validated = [], []
    for workers in (0, 2):
        loader = Loader(
            source=source, batch_size=6, patch_size=4, crop=RandomResizedCrop(), seed=1, num_workers=workers
        )
        trained.append(torch.cat([batch.images for step in loader.epoch(0) for batch in step]))
        loaded = batches(
            source, validation, torch.arange(12), device=torch.device("cpu"), batch_size=5, num_workers=workers
        )
        validated.append(torch.cat(list(loaded)))
    assert torch.equal(*trained)
    assert torch.equal(*validated)
    assert torch.equal(validated[0], source.load(validation.split, validation.indices_K))
    assert len(validated[0].unique(dim=0)) == 12
