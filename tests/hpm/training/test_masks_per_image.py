"""Runs in which each image has several masks: resumed, divided and loaded otherwise they are the same run."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from record import assert_same_run, recorded_lines

from hpm.config import parse_config
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

Hpm = Callable[..., int]
SEVERAL = """
Method.curriculum = @RecordingCurriculum()
Method.ema_decay = None
MaskedAutoencoder.loss_predictor_depth = None
RecordingCurriculum.scheduler = @Ramp()
RecordingCurriculum.difficulty = @LossMemory()
RecordingCurriculum.sampler = @Complementary()
RecordingCurriculum.mask_ratio = 0.5
Ramp.end = 0.9
Schedule.epochs = 2
Schedule.masks_per_image = 2
Monitoring.evaluations = []
"""  # 20 steps an epoch
STEPS, ROWS = 40, 16


@pytest.fixture
def several(tiny_with_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_with_plugins.write_text("import recording\n" + tiny_with_plugins.read_text() + SEVERAL)
    monkeypatch.chdir(tiny_with_plugins.parent)
    return tiny_with_plugins


@pytest.fixture
def train(several: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains in this process."""

    def run(name: str, *bindings: str) -> Path:
        monkeypatch.setenv("RECORD", str(tmp_path / f"{name}.txt"))
        words = [word for text in bindings for word in ("-b", text)]
        assert hpm("pretrain", several, *words, "--output", name) == 0
        return tmp_path / name

    return run


def drawn(run: Path) -> dict[tuple[int, int], tuple[str, ...]]:
    """Sample, crop and mask at each step and row; what was drawn twice was drawn alike."""
    rows: dict[tuple[int, int], tuple[str, ...]] = {}
    for line in recorded_lines(run.with_suffix(".txt")):
        step, row, *what = line.split(" ")
        assert rows.setdefault((int(step), int(row)), tuple(what)) == tuple(what)
    assert len(rows) == STEPS * ROWS
    return rows


def memory_of(run: Path) -> torch.Tensor:
    saved = Checkpoint(list_checkpoints(run / "checkpoints")[0])
    assert saved.values["step"] == STEPS
    return saved.tensor("curriculum.scores").float()


def test_each_image_of_an_epoch_comes_once_in_all_its_masks(
    train: Callable[..., Path], hpm: Hpm, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("run")
    rows = drawn(run)
    for epoch in (0, 1):
        samples = [rows[step, row][0] for step in range(20 * epoch, 20 * epoch + 20) for row in range(0, ROWS, 2)]
        assert len(set(samples)) == len(samples) == 160
    for (step, row), (sample, crop, _) in rows.items():
        assert rows[step, row - row % 2][:2] == (sample, crop)
    told = " ".join(capsys.readouterr().out.split())
    assert "2 epochs of 20 steps of 8 images in 2 masks each" in told
    assert "640 images, each counted in its 2 masks, in" in told
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["images"], summary["steps"], summary["masks_per_image"]) == (640, 40, 2)
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in metrics if row["kind"] == "train"] == [step / 20 for step in range(4, 41, 4)]
    words = ["-b", "Schedule.masks_per_image = 4", "-b", "Complementary.masks = 4"]
    assert hpm("pretrain", *words, "--resume", "--output", "run") == 2
    assert "Schedule.masks_per_image: 2 -> 4" in capsys.readouterr().err


def test_workers_micro_batches_and_processes_change_nothing(
    several: Path, train: Callable[..., Path], tmp_path: Path, forks: Forks
) -> None:
    """Workers to the bit, the others in what is drawn, and up to the order in which numbers are added."""
    alone = train("alone")
    assert_same_run(alone, train("helped", "Loading.num_workers = 2"))
    environment = {**os.environ, "RECORD": str(tmp_path / "both.txt")}
    ran = forks.run("hpm", "pretrain", several, "--output", "both", env=environment, processes=2)
    assert ran.returncode == 0, ran.stderr
    for divided in (tmp_path / "both", train("parts", "Schedule.accumulate = 4")):
        assert drawn(divided) == drawn(alone)
        torch.testing.assert_close(memory_of(divided), memory_of(alone), atol=0.02, rtol=0, equal_nan=True)


def test_killed_in_mid_epoch_and_resumed(
    several: Path, train: Callable[..., Path], hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    """To the bit, where masks follow what is remembered of images in several masks."""
    several.write_text(several.read_text() + "RecordingCurriculum.sampler = @HardestFirst()\n")
    whole = train("whole")
    environment = {**os.environ, "RECORD": str(tmp_path / "killed.txt"), "KILL_AT": "33"}
    dead = forks.run("hpm", "pretrain", several, "--output", "killed", env=environment)
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    monkeypatch.setenv("RECORD", environment["RECORD"])
    assert hpm("pretrain", "--resume", "--output", "killed") == 0
    assert_same_run(whole, tmp_path / "killed")
    assert drawn(whole) == drawn(tmp_path / "killed")


@pytest.mark.parametrize("words", [("pretrain", "--output", "run"), ("plan",)], ids=["run", "plan"])
@pytest.mark.parametrize(
    ("binding", "expected"),
    [
        ("Complementary.masks = 4", "masks = 4 masks complete each other, and Schedule.masks_per_image = 2"),
        ("Schedule.masks_per_image = 3", "Schedule.batch_size = 16 must be divisible by Schedule.accumulate = 1 times"),
    ],
)
def test_what_does_not_go_together_is_refused(
    several: Path, hpm: Hpm, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], binding: str, expected: str
) -> None:
    assert hpm(words[0], several, *words[1:], "-b", binding) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()


def test_comas_config(tiny: Path) -> None:
    trainer = parse_config([str(tiny), "curricula/coma"]).build()
    assert trainer.clock.steps_per_epoch == 20
    step, (micro_batch,) = trainer.build_step(), next(trainer.loader.epoch(0))
    (losses,) = step([micro_batch], **trainer.step_arguments(trainer.clock))
    assert torch.equal(micro_batch.images[::2], micro_batch.images[1::2])
    assert torch.equal(losses.mask.visible[::2], losses.mask.masked[1::2])
    assert torch.equal(losses.mask.masked[::2], losses.mask.visible[1::2])
