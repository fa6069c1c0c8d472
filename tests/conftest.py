"""What many tests share: a run that takes seconds, the command line in process, and what stands in for real data."""

from __future__ import annotations

import functools
import gzip
import itertools
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# Tests that compare bits are made for the CPU. Before torch is imported, so that child processes inherit it.
if os.environ.get("HPM_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import torch

sys.path.append(str(Path(__file__).parent / "plugins"))

from forks import Forks

TINY = """
include 'base.gin'
include 'data/digit_scenes.gin'
include 'curricula/hpm_easy_to_hard.gin'

IMG_SIZE = 16
DigitScenes.train_size = 160
DigitScenes.validation_size = 40
DigitScenes.test_size = 48
MaskedAutoencoder.patch_size = 4
MaskedAutoencoder.embed_dim = 16
MaskedAutoencoder.depth = 1
MaskedAutoencoder.num_heads = 2
MaskedAutoencoder.decoder_embed_dim = 16
MaskedAutoencoder.decoder_depth = 1
MaskedAutoencoder.decoder_num_heads = 2
MaskedAutoencoder.loss_predictor_depth = 1
Schedule.epochs = 4
Schedule.batch_size = 16
Schedule.blr = 1e-3
Schedule.warmup_epochs = 1
Monitoring.log_every = 4
Checkpointing.every = 7
MLflowTracker.enabled = False
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors are faster on one thread, and other processes of a test get a core."""
    torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs real data where they are not installed; no test downloads them."""
    from hpm.data.sources import fashion_mnist, stamp_scenes

    if item.get_closest_marker("needs_fashion_mnist") and not fashion_mnist.SYSTEM_FOLDER.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    if item.get_closest_marker("needs_stamp_scenes"):
        listed = [*itertools.chain(*stamp_scenes.stamps().values()), *stamp_scenes.photographs()]
        if not all(Path(stamp_scenes.SYSTEM_FOLDER, path).is_file() for path in listed):
            pytest.skip(f"needs Debian's packages {', '.join(stamp_scenes.PACKAGES)}")


@pytest.fixture(scope="session")
def fashion_mnist_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of random images in Fashion-MNIST's format, 600 to train on, 5000 to validate and 100 to test."""
    folder = tmp_path_factory.mktemp("fashion-mnist")
    generator = np.random.default_rng(0)
    for name, count in (("train", 5600), ("t10k", 100)):
        images_KHW = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels_K = generator.permutation(np.arange(count, dtype=np.uint8) % 10)
        for kind, values in (("images-idx3", images_KHW), ("labels-idx1", labels_K)):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + values.tobytes(), 1))
    return folder


@pytest.fixture
def fashion_mnist(fashion_mnist_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Has random images stand in for Fashion-MNIST, installed or not; returns their folder."""
    monkeypatch.setattr("hpm.data.sources.fashion_mnist.SYSTEM_FOLDER", fashion_mnist_files)
    return fashion_mnist_files


@pytest.fixture(scope="session")
def stamp_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small pictures of nothing in the places of all files of StampScenes."""
    from PIL import Image

    from hpm.data.sources.stamp_scenes import photographs, stamps

    root = tmp_path_factory.mktemp("stamp-scenes")
    cutout, photograph = Image.new("RGBA", (30, 30), "red"), Image.new("RGB", (96, 72), "blue")
    cutout.putpixel((0, 0), (0, 0, 0, 0))
    for image, paths in ((cutout, itertools.chain(*stamps().values())), (photograph, photographs())):
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            image.save(root / path, "png")
    return root


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Starts processes that have imported everything: an `hpm` of its own, or several as under torchrun."""
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Callable[..., Path]:
    """The folder of a tiny run under some bindings, trained once for all tests: they read it, or write to a copy."""

    @functools.cache
    def train(*bindings: str, before: str = "", **environment: str) -> Path:
        folder = tmp_path_factory.mktemp("pretrained")
        (folder / "tiny.gin").write_text(before + TINY)
        words = [word for text in bindings for word in ("-b", text)]
        command = ("pretrain", "tiny.gin", "--output", "run", *words)
        forks.run("hpm", *command, env={**os.environ, **environment}, cwd=folder).check_returncode()
        return folder / "run"

    return train


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, copying them does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A config that trains in a second: 40 steps."""
    path = tmp_path / "tiny.gin"
    path.write_text(TINY)
    return path


@pytest.fixture
def hpm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """The `hpm` command in this process, in an empty folder; returns its exit code."""
    from hpm.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["hpm", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    return run


@pytest.fixture
def same_end(hpm: Callable[..., int]) -> Callable[[Path], None]:
    """Checks that a run of 20 steps, resumed from its checkpoint after 10, ends with the same bits."""
    from hpm.runs.checkpoint import Checkpoint, list_checkpoints

    def check(run: Path) -> None:
        half = run.with_name("half")
        shutil.copytree(run, half, symlinks=True)
        shutil.rmtree(half / "checkpoints" / "checkpoint-00000020")
        (half / "summary.json").unlink()
        assert hpm("pretrain", "--resume", "--output", half) == 0
        whole, again = (Checkpoint(list_checkpoints(folder / "checkpoints")[0]) for folder in (run, half))
        assert whole.values["step"] == again.values["step"] == 20
        assert set(whole.names()) == set(again.names())
        for name in whole.names():
            torch.testing.assert_close(whole.tensor(name), again.tensor(name), rtol=0, atol=0, equal_nan=True)

    return check
