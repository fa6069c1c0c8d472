"""What many tests share: a run that takes seconds, and the command line in process."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent / "plugins"))

from forks import Forks

TINY = """
include 'base.gin'
include 'data/digit_scenes.gin'
include 'curricula/hpm_easy_to_hard.gin'

DigitScenes.img_size = 16
DigitScenes.train_size = 160
DigitScenes.test_size = 48
MaskedAutoencoder.img_size = 16
MaskedAutoencoder.patch_size = 4
MaskedAutoencoder.embed_dim = 16
MaskedAutoencoder.depth = 1
MaskedAutoencoder.num_heads = 2
MaskedAutoencoder.decoder_embed_dim = 16
MaskedAutoencoder.decoder_depth = 1
MaskedAutoencoder.decoder_num_heads = 2
MaskedAutoencoder.loss_predictor_depth = 1
Trainer.epochs = 4
Trainer.batch_size = 16
Trainer.blr = 1e-3
Trainer.warmup_epochs = 1
Trainer.log_every = 4
Trainer.checkpoint_every = 7
MLflowTracker.enabled = False
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors are faster on one thread, and other processes of a test get a core."""
    torch.set_num_threads(1)


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
    from hpm.checkpoint import Checkpoint, found

    def check(run: Path) -> None:
        half = run.with_name("half")
        shutil.copytree(run, half, symlinks=True)
        shutil.rmtree(half / "checkpoints" / "checkpoint-00000020")
        (half / "summary.json").unlink()
        assert hpm("pretrain", "--resume", "--output", half) == 0
        whole, again = (Checkpoint(found(folder / "checkpoints")[0]) for folder in (run, half))
        assert whole.values["step"] == again.values["step"] == 20
        assert set(whole.names()) == set(again.names())
        for name in whole.names():
            torch.testing.assert_close(whole.tensor(name), again.tensor(name), rtol=0, atol=0, equal_nan=True)

    return check
