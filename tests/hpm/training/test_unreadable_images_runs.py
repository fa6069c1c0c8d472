"""Runs and evaluations over folders in which an image cannot be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Hpm = Callable[..., int]
WORDS = [
    word
    for binding in (
        "Loading.max_unreadable = 0.05",
        "Loading.num_workers = 0",
        "Schedule.epochs = 2",
        "KNN.k = 3",
        "Schedule.warmup_epochs = 0",
        "Monitoring.probes = [@Ridge()]",
        "Monitoring.probe_every = 1",
        "Monitoring.evaluations = [@Ridge(), @KNN()]",
    )
    for word in ("-b", binding)
]


@pytest.fixture
def folders(tiny: Path, tmp_path: Path) -> Path:
    """Two classes of training images, and some of them to be scored; the config reads them."""
    text = tiny.read_text().replace("data/digit_scenes.gin", "data/image_folder.gin")
    lines = [line for line in text.splitlines() if not line.startswith("DigitScenes")]
    tiny.write_text("\n".join([*lines, "ImageFolder.root = 'images'", "ImageFolder.img_size = 16", ""]))
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 6), ("test", 6)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{k:02}.png")
    return tmp_path / "images"


def test_others_stand_in_for_training_images_where_a_probe_is_fitted(
    hpm: Hpm, tiny: Path, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "train" / "cat" / "19.png").write_text("x")  # the next one is a dog
    assert hpm("pretrain", tiny, *WORDS, "--output", "run") == 0
    told = "".join(capsys.readouterr().out.split())
    assert told.count("19.png") == 1
    assert "validation/ridge" in told
    assert len(Path("run/unreadable.txt").read_text().splitlines()) == 1
    scored = json.loads(Path("run/summary.json").read_text())["scored_images"]
    assert set(scored.values()) == {12}
    (folders / "train" / "cat" / "00.png").write_text("y")
    assert hpm("evaluate", "run", "--protocol", "knn,ridge") == 0
    told = "".join(capsys.readouterr().out.split())
    assert told.count("00.png") == told.count("19.png") == 1
    (folders / "train" / "cat" / "01.png").write_text("z")
    assert hpm("evaluate", "run", "--protocol", "knn") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "3 of 40 training images cannot be read" in told
    assert "--resume --other-images" in told


@pytest.mark.parametrize("curriculum", [[], ["curricula/hpm_memory"]], ids=["", "memory"])
def test_a_scored_image_that_cannot_be_read_costs_no_training(
    hpm: Hpm, tiny: Path, folders: Path, capsys: pytest.CaptureFixture[str], curriculum: list[str]
) -> None:
    """What a curriculum remembers of its training images is none of the scored ones."""
    path = folders / "val" / "dog" / "03.png"
    content = path.read_bytes()
    path.write_text("x")
    assert hpm("pretrain", tiny, *curriculum, *WORDS, "--output", "run") == 2
    told = capsys.readouterr()
    assert "step 2 is not probed, training goes on" in " ".join(told.out.split())
    refused = " ".join(told.err.split())
    assert "03.png cannot be read as an image" in refused
    assert "hpm pretrain --resume --output run --other-images evaluates it" in refused
    path.write_bytes(content)
    assert hpm("pretrain", "--resume", "--output", "run", "--other-images") == 0
    assert "resuming after step 4 of 4" in " ".join(capsys.readouterr().out.split())


def test_a_curriculum_that_remembers_its_images_goes_on_over_no_others(
    hpm: Hpm, tiny: Path, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hpm("pretrain", tiny, "curricula/hpm_memory", *WORDS, "--output", "run") == 0
    Path("run/summary.json").unlink()
    (folders / "train" / "cat" / "00.png").unlink()
    for words in ([], ["--other-images"]):
        assert hpm("pretrain", "--resume", "--output", "run", *words) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "was trained on 40 images of ImageFolder, and these are other ones, 39 of ImageFolder" in told
        assert "its curriculum remembers something of each training image, so others will not do" in told
        assert "--other-images" not in told


def test_a_run_that_measures_its_training_images_alone_needs_no_others(hpm: Hpm, tiny: Path, folders: Path) -> None:
    flat = folders.parent / "flat"
    flat.mkdir()
    for name in ("cat", "dog"):
        for path in (folders / "train" / name).iterdir():
            shutil.copy(path, flat / f"{name}-{path.name}")
    bindings = ["Monitoring.probes = [@HardnessShare()]"]
    bindings += ["Monitoring.evaluations = [@HardnessShare()]", "HardnessShare.masks = 2", "Monitoring.probe_every = 1"]
    bindings += ["Schedule.epochs = 2", "Loading.num_workers = 0"]
    words = [word for binding in bindings for word in ("-b", binding)]
    assert hpm("pretrain", tiny, *words, "-b", "ImageFolder.root = 'flat'", "--output", "flat-run") == 0
    assert hpm("pretrain", tiny, *words, "--output", "run") == 0
    Path("run/summary.json").unlink()
    (folders / "val" / "dog" / "03.png").unlink()  # nobody looks at it
    assert hpm("pretrain", "--resume", "--output", "run") == 0
    assert "curriculum/hardness_share" in json.loads(Path("run/summary.json").read_text())["metrics"]
