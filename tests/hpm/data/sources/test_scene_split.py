"""Scenes are rendered once, before anything is trained, written or handed to processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpm.data import Composites, RandomResizedCrop, SceneSplit
from hpm.evaluation.augmentation import AugmentingLoader, rand_augment
from hpm.evaluation.features import batches
from hpm.runtime.distributed import DistributedContext

Folders = Callable[..., dict[str, str]]
FEW = {"img_size": 24, "train_size": 24, "validation_size": 8, "test_size": 8}


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], list[int]]:
    """Tells which processes have rendered a whole split since the last call."""
    told, render = tmp_path / "renders", SceneSplit._render

    def recorded(split: SceneSplit) -> torch.Tensor:
        with told.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return render(split)

    def since() -> list[int]:
        lines = told.read_text().split() if told.exists() else []
        told.write_text("")
        return [int(line) for line in lines]

    monkeypatch.setattr(SceneSplit, "_render", recorded)
    return since


@pytest.mark.parametrize("transform", [None, "rand-m5"])
def test_workers_of_a_loader_share_scenes(
    composite_folders: Folders, renders: Callable[[], list[int]], transform: str | None
) -> None:
    loader = AugmentingLoader(
        source=Composites(**composite_folders(), **FEW),
        transform=None if transform is None else rand_augment("FineTune", transform, size=24, mean=(0.5, 0.5, 0.5)),
        seed=0,
        processes=DistributedContext(),
        batch_size=8,
        patch_size=8,
        crop=RandomResizedCrop(),
        num_workers=2,
        device=torch.device("cpu"),
    )
    assert renders() == []
    for epoch in range(2):
        assert len(list(loader.epoch(epoch))) == 3
    assert renders() == [os.getpid()]


def test_workers_of_an_evaluation_share_scenes(composite_folders: Folders, renders: Callable[[], list[int]]) -> None:
    source = Composites(**composite_folders(), **FEW)
    for _ in range(2):
        loaded = batches(
            source, source.test(), torch.arange(8), device=torch.device("cpu"), batch_size=4, num_workers=2
        )
        assert sum(map(len, loaded)) == 8
    assert renders() == [os.getpid()]


@pytest.mark.parametrize("words", [["--output", "run"], ["--dry-run"]])
def test_a_damaged_photograph_of_any_split_is_told_before_a_run_has_a_folder(
    composite_folders: Folders,
    tiny_composites: Path,
    hpm: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    for name, folder in composite_folders().items():
        shutil.copytree(folder, name)
    bindings = [f"Composites.{name} = '{name}'" for name in ("cutouts", "photographs")]
    bindings += ["Composites.train_size = 16", "Composites.validation_size = 8", "Composites.test_size = 8"]
    bindings += ["Monitoring.evaluations = [@Localization()]"]
    test = sorted(Path("photographs").rglob("*.png"), key=lambda path: path.as_posix())[-1]
    test.write_bytes(test.read_bytes()[:60])
    assert hpm("pretrain", tiny_composites, *(word for text in bindings for word in ("-b", text)), *words) == 2
    assert f"{test} cannot be read as an image" in "".join(capsys.readouterr()).replace("\n", "")
    assert not Path("run").exists()
