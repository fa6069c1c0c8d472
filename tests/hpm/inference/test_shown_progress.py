"""Long commands show how far they are on a terminal, and add nothing to the log of a short one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpm.inference.data_export import export_data
from hpm.inference.embed import embed
from hpm.inference.evaluate import evaluate
from hpm.runtime.console import make_console

SMALL = ["KNN.train_images = 50", "KNN.test_images = 20", "Linear.train_images = 50", "Linear.test_images = 20"]


@pytest.fixture
def run(pretrained: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(pretrained(), tmp_path / "run", symlinks=True))


def shown(work: Callable[..., object], *, terminal: bool) -> str:
    text = StringIO()
    work(make_console(file=text, force_terminal=terminal, color_system=None, width=120))
    return text.getvalue()


def test_evaluations(run: Path) -> None:
    def work(console) -> None:
        evaluate(run, console, protocols=["knn", "linear"], bindings=SMALL)

    told = shown(work, terminal=True)
    for words in ("loading the model ...", "knn ...", "linear ...", "looking at", "0/50 images", "fitted"):
        assert words in told
    logged = shown(work, terminal=False)
    assert "looking at" not in logged
    assert "knn/pretrained" in logged


def test_features(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for number in range(5):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(tmp_path / "mine" / f"{number}.png")
    told = shown(lambda console: embed(run, tmp_path / "mine", tmp_path / "a.parquet", console), terminal=True)
    assert "features of" in told
    assert "0/5 images" in told
    logged = shown(lambda console: embed(run, tmp_path / "mine", tmp_path / "b.parquet", console), terminal=False)
    assert logged == f"features of 5 images: {tmp_path / 'b.parquet'}\n"


def test_data_sets(tiny: Path, tmp_path: Path) -> None:
    told = shown(lambda console: export_data([str(tiny)], tmp_path / "a", console, to="folder"), terminal=True)
    assert "train:" in told
    assert "0/160 images" in told
