"""Runs under a loss memory: killed in mid-epoch and resumed they are the same run, on one process and on two."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from record import recorded_lines

from hpm.runs.checkpoint import Checkpoint, list_checkpoints

Hpm = Callable[..., int]
MEMORY = """
Method.curriculum = @RecordingCurriculum()
Method.ema_decay = None
MaskedAutoencoder.loss_predictor_depth = None
RecordingCurriculum.scheduler = @Ramp()
RecordingCurriculum.difficulty = @LossMemory()
RecordingCurriculum.sampler = @HardestFirst()
Ramp.end = 0.9
Schedule.epochs = 5
Checkpointing.every = 7
Monitoring.evaluations = []
"""  # 10 steps an epoch


@pytest.fixture
def remembering(tiny_with_plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_with_plugins.write_text("import recording\n" + tiny_with_plugins.read_text() + MEMORY)
    monkeypatch.chdir(tiny_with_plugins.parent)
    return tiny_with_plugins


def final_state(run: Path) -> dict[str, torch.Tensor]:
    saved = Checkpoint(list_checkpoints(run / "checkpoints")[0])
    assert saved.values["step"] == 50
    return {name: saved.tensor(name) for name in saved.names()}


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = final_state(one), final_state(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert not any(name.startswith("teacher.") for name in first)
    scores = first["curriculum.scores"]
    assert 0.5 < float((~scores.isnan()).float().mean()) < 1.0


def drawn(path: Path) -> set[str]:
    """Sample, crop and mask at each step and row; what was drawn twice was drawn alike."""
    lines = set(recorded_lines(path))
    assert len({tuple(line.split(" ")[:2]) for line in lines}) == len(lines) == 50 * 16
    return lines


@pytest.mark.parametrize("killed_at", [13, 36])
def test_killed_in_mid_epoch_on_one_process(
    remembering: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks, killed_at: int
) -> None:
    monkeypatch.setenv("RECORD", str(tmp_path / "whole.txt"))
    assert hpm("pretrain", remembering, "--output", "whole") == 0
    monkeypatch.setenv("RECORD", str(tmp_path / "killed.txt"))
    dead = forks.run(
        "hpm", "pretrain", remembering, "--output", "killed", env={**os.environ, "KILL_AT": str(killed_at)}
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert hpm("pretrain", "--resume", "--output", "killed") == 0
    assert_same_bits(tmp_path / "whole", tmp_path / "killed")
    assert drawn(tmp_path / "whole.txt") == drawn(tmp_path / "killed.txt")


def test_a_single_epoch_is_told_to_follow_no_scores(
    remembering: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before an image comes a second time nothing is known of it."""
    told = "LossMemory scores images from epoch 2 on, and Schedule.epochs = 1: no mask follows scores"
    for epochs in (1, 2):
        monkeypatch.setenv("RECORD", str(tmp_path / f"{epochs}.txt"))
        words = ("-b", f"Schedule.epochs = {epochs}", "-b", "Schedule.warmup_epochs = 0.5", "--output", f"of-{epochs}")
        assert hpm("pretrain", remembering, *words) == 0
        assert (told in " ".join(capsys.readouterr().out.split())) == (epochs == 1)


def test_killed_in_mid_epoch_on_two_processes(
    remembering: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forks: Forks
) -> None:
    def both(name: str, **environment: str) -> None:
        ran = forks.run(
            "hpm",
            "pretrain",
            remembering,
            "--output",
            name,
            env={**os.environ, "RECORD": str(tmp_path / f"{name}.txt"), **environment},
            processes=2,
            restarts=1,
        )
        assert ran.returncode == 0, ran.stderr

    both("whole")
    both("killed", KILL_AT="25")
    assert_same_bits(tmp_path / "whole", tmp_path / "killed")
    assert drawn(tmp_path / "whole.txt") == drawn(tmp_path / "killed.txt")

    monkeypatch.setenv("RECORD", str(tmp_path / "alone.txt"))
    assert hpm("pretrain", remembering, "--output", "alone") == 0
    same = drawn(tmp_path / "whole.txt") & drawn(tmp_path / "alone.txt")
    assert len(same) >= 0.98 * 50 * 16  # scores that are all but equal may change places
    alone, together = (final_state(tmp_path / name)["curriculum.scores"].float() for name in ("alone", "whole"))
    close = (alone - together).abs() < 0.02
    assert float((close | (alone.isnan() & together.isnan())).float().mean()) > 0.97
