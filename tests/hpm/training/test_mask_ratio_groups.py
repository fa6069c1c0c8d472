"""Runs whose steps see several mask ratios: divided otherwise and resumed they are the same run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from record import assert_same_run, recorded_lines, rows
from tiny_models import tiny_model

from curriculum import Batch, Constant, Curriculum, Mask, Noise, Random, Uniform, UniformRatio
from hpm.methods.loss_prediction import AbsoluteLoss, ContrastiveLoss, ListwiseLoss, PredictionLoss, RelativeLoss
from hpm.methods.method import Method
from hpm.targets import Pixels

Hpm = Callable[..., int]
GROUPS = """
Method.curriculum = @RecordingCurriculum()
RecordingCurriculum.scheduler = @Ramp()
RecordingCurriculum.difficulty = @PredictedLoss()
RecordingCurriculum.sampler = @HardestFirst()
RecordingCurriculum.mask_ratio = @UniformRatio()
UniformRatio.low = 0.3
UniformRatio.high = 0.8
UniformRatio.groups = 2
Ramp.end = 0.9
Schedule.epochs = 2
Schedule.accumulate = 2
Monitoring.log_every = 1
Monitoring.evaluations = []
DigitScenes.train_size = 80
"""
STEPS, ROWS = 10, 16


@pytest.fixture
def grouped(tiny_with_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_with_plugins.write_text("import recording\n" + tiny_with_plugins.read_text() + GROUPS)
    monkeypatch.chdir(tiny_with_plugins.parent)
    return tiny_with_plugins


@pytest.fixture
def train(grouped: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains in this process."""

    def run(name: str, *bindings: str) -> Path:
        monkeypatch.setenv("RECORD", str(tmp_path / f"{name}.txt"))
        words = [word for text in bindings for word in ("-b", text)]
        assert hpm("pretrain", grouped, *words, "--output", name) == 0
        return tmp_path / name

    return run


def drawn(run: Path) -> set[str]:
    found = set(recorded_lines(run.with_suffix(".txt")))
    assert len(found) == STEPS * ROWS
    return found


def losses(run: Path) -> torch.Tensor:
    names = ("loss", "reconstruction_loss", "prediction_loss", "gradient_norm")
    return torch.tensor([[row[name] for name in names] for row in rows(run) if row["kind"] == "train"])


def test_processes_and_micro_batches_change_nothing(
    grouped: Path, train: Callable[..., Path], tmp_path: Path, forks: Forks
) -> None:
    """Two groups are the two micro-batches of a process, one of each of two, or two micro-batches each of four."""
    alone = train("alone")
    for name, accumulate, processes in (("both", 1, 2), ("quarters", 2, 2)):
        environment = {**os.environ, "RECORD": str(tmp_path / f"{name}.txt")}
        words = ("-b", f"Schedule.accumulate = {accumulate}", "--output", name)
        ran = forks.run("hpm", "pretrain", grouped, *words, env=environment, processes=processes)
        assert ran.returncode == 0, ran.stderr
    for divided in (tmp_path / "both", tmp_path / "quarters"):
        assert drawn(divided) == drawn(alone)
        torch.testing.assert_close(losses(divided), losses(alone), rtol=2e-3, atol=1e-5)
    torch.testing.assert_close(losses(tmp_path / "both")[:5], losses(alone)[:5], rtol=1e-5, atol=1e-6)


def test_killed_and_resumed(
    grouped: Path, train: Callable[..., Path], hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    whole = train("whole")
    environment = {**os.environ, "RECORD": str(tmp_path / "killed.txt"), "KILL_AT": "8"}
    dead = forks.run("hpm", "pretrain", grouped, "--output", "killed", env=environment)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    monkeypatch.setenv("RECORD", environment["RECORD"])
    assert hpm("pretrain", "--resume", "--output", "killed") == 0
    assert_same_run(whole, tmp_path / "killed")
    assert drawn(whole) == drawn(tmp_path / "killed")


@pytest.mark.parametrize("words", [("pretrain", "--output", "run"), ("plan",)], ids=["run", "plan"])
def test_parts_that_are_no_multiple_are_refused(
    grouped: Path, hpm: Hpm, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert hpm(words[0], grouped, *words[1:], "-b", "Schedule.accumulate = 1") == 2
    assert "UniformRatio.groups = 2 needs a step that is computed in 2 parts" in " ".join(
        capsys.readouterr().err.split()
    )
    assert not Path("run").exists()
    assert hpm("plan", grouped, "--gpus", "2", "-b", "Schedule.accumulate = 1") == 0


@pytest.mark.parametrize("loss", [RelativeLoss(), AbsoluteLoss(), ListwiseLoss(), ContrastiveLoss()])
def test_an_image_counts_the_same_whatever_its_ratio(loss: PredictionLoss) -> None:
    """A step's losses and gradients are the means of those of its images, each computed by itself."""
    ratio = UniformRatio(low=0.2, high=0.8, groups=2)
    curriculum = Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), mask_ratio=ratio)
    method = Method(model=tiny_model(), curriculum=curriculum, target=Pixels(), prediction_loss=loss)
    method.initialize(torch.device("cpu"), autocast=None, seed=0)
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks: list[Mask] = []
    step_total = torch.zeros(())
    for part in range(2):
        rows = slice(3 * part, 3 * part + 3)
        noise = Noise.for_batch(seed=0, step=4, batch_size=3, first=3 * part, of=6)
        found = method.losses(Batch(images[rows], 8), 0.5, noise)
        (found.total / 2).backward()
        step_total += found.total.detach() / 2
        masks.append(found.mask)
    assert masks[0].num_masked != masks[1].num_masked
    gradients = {name: p.grad.clone() for name, p in method.student.named_parameters() if p.grad is not None}
    method.student.zero_grad()
    alone = torch.zeros(())
    for image in range(6):
        group, row = divmod(image, 3)
        mask = Mask(masks[group].visible[row : row + 1], masks[group].masked[row : row + 1])
        output = method.student(images[image : image + 1], mask)
        true_NM = method.target.loss(output.reconstruction_NMP, method.target(images[image : image + 1], mask, 8))
        total, count = loss(output.predicted_loss_NM, true_NM)
        own = true_NM.mean() + total / count
        (own / 6).backward()
        alone += own.detach() / 6
    torch.testing.assert_close(step_total, alone)
    for name, parameter in method.student.named_parameters():
        if name in gradients:
            assert parameter.grad is not None
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
