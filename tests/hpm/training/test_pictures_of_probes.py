"""Segmentation and RankMe within a run and at its end: what is drawn and kept, and that training is as without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.runs.checkpoint import Checkpoint, list_checkpoints

Hpm = Callable[..., int]
HALF = ("Schedule.epochs = 2", "Checkpointing.every = 10", "Monitoring.probe_every = 1")
DENSE = (
    "Monitoring.probes = [@Segmentation(), @UnsupervisedSegmentation(), @RankMe()]",
    "Monitoring.evaluations = [@Segmentation(), @UnsupervisedSegmentation(), @RankMe(), @Localization()]",
    "Segmentation.train_images = 40",
    "Segmentation.test_images = 12",
    "Segmentation.classifiers = ('knn',)",
    "UnsupervisedSegmentation.images = 12",
    "Localization.images = 12",
    "RankMe.images = 40",
)


def train(hpm: Hpm, config: Path, folder: str, *bindings: str) -> Path:
    assert hpm("pretrain", config, *(word for text in bindings for word in ("-b", text)), "--output", folder) == 0
    return Path(folder)


def weights(run: Path) -> dict[str, torch.Tensor]:
    last = Checkpoint(list_checkpoints(run / "checkpoints")[0])
    return {name: last.tensor(name).reshape(-1).view(torch.uint8) for name in last.names()}


def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_a_run_is_probed_drawn_and_resumed_and_trains_the_same(
    hpm: Hpm,
    tiny: Path,
    same_end: Callable[[Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = train(hpm, tiny, "run", *HALF, *DENSE)
    told = capsys.readouterr().out
    assert "test mIoU" in told
    assert "k-NN on patch tokens" in told
    names = {
        f"step-{step:08}{of}.png" for step in (10, 20) for of in ("", "-segmentation", "-unsupervised-segmentation")
    }
    assert {path.name for path in (run / "pictures").iterdir()} == names
    for name in names:
        with Image.open(run / "pictures" / name) as picture:
            assert picture.format == "PNG"

    final = summary(run)
    assert final["per_class"].keys() == {"segmentation/knn/pretrained", "validation/segmentation/knn/pretrained"}
    for name, of_classes in final["per_class"].items():
        assert np.mean(list(of_classes.values())) == pytest.approx(final["metrics"][name])
    assert "rankme/pretrained" in final["metrics"]
    assert Path(final["picture"]).name == "step-00000020.png"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (probe,) = (row for row in rows if row["kind"] == "probe")
    assert probe.keys() >= {"validation/segmentation/knn/pretrained", "rankme/pretrained"}
    assert "segmentation/knn/pretrained" not in probe  # test images are scored once

    plain = train(hpm, tiny, "plain", *HALF, "Monitoring.probes = []", "Monitoring.evaluations = []")
    assert summary(plain)["per_class"] == {}
    one, other = weights(run), weights(plain)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    same_end(run)
    half = Path("half")
    assert summary(half)["metrics"] == final["metrics"]
    assert summary(half)["per_class"] == final["per_class"]
    assert {path.name for path in (half / "pictures").iterdir()} == names


def test_what_cannot_be_measured_is_found_before_training(hpm: Hpm, tiny: Path, capsys: Any) -> None:
    (Path("images") / "train").mkdir(parents=True)
    for number in range(16):
        Image.new("RGB", (16, 16)).save(f"images/train/{number}.png")
    source = ("Trainer.source = @ImageFolder()", "ImageFolder.root = 'images/train'", "ImageFolder.img_size = 16")
    for evaluation, message in (
        ("Segmentation", "Segmentation needs the class of every pixel, which ImageFolder does not know"),
        ("UnsupervisedSegmentation", "UnsupervisedSegmentation needs images whose objects are annotated"),
    ):
        for which in ("probes", "evaluations"):
            bindings = (*source, *HALF, "ImageFolder.validation_images = 4", "Schedule.batch_size = 4")
            words = [word for text in (*bindings, f"Monitoring.{which} = [@{evaluation}()]") for word in ("-b", text)]
            assert hpm("pretrain", tiny, *words, "--output", "refused") == 2
            assert message in " ".join(capsys.readouterr().err.split())
            assert not Path("refused").exists()
