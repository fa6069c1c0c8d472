"""A run that is killed and resumed, run with other workers, or repeated from its saved config, is the same run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hpm import checkpoint

PLUGINS = Path(__file__).parents[1] / "plugins"
TIMINGS = {"time", "seconds", "images_per_second"}
Hpm = Callable[..., int]


@pytest.fixture
def recorded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny run with a sampler that records masks, a self-paced part of state, and a probe with pictures."""
    tiny.write_text(
        "import recording\n"
        + tiny.read_text()
        + "Curriculum.sampler = @RecordingSampler()\nTrainer.probe_every = 2\nTrainer.probes = [@KNN()]\n"
        "KNN.train_images = 64\nKNN.test_images = 32\n"
    )
    monkeypatch.syspath_prepend(str(PLUGINS))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PLUGINS), str(Path(__file__).parents[2])]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tiny


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMINGS}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


def masks(path: Path) -> dict[int, int]:
    """The last mask drawn at each step, and that no step was ever drawn differently."""
    drawn: dict[int, int] = {}
    for line in path.read_text().splitlines():
        step, checksum = map(int, line.split())
        assert drawn.setdefault(step, checksum) == checksum
    return drawn


def assert_same_run(one: Path, other: Path) -> None:
    states = [checkpoint.load(checkpoint.found(folder / "checkpoints")[0]) for folder in (one, other)]
    assert states[0]["step"] == states[1]["step"] == 40
    for part in ("student", "teacher"):
        for name, tensor in states[0][part].items():
            assert torch.equal(tensor, states[1][part][name]), (part, name)
    for index, moments in states[0]["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, states[1]["optimizer"]["state"][index][name])
    assert rows(one) == rows(other)
    summaries = [json.loads((folder / "summary.json").read_text())["metrics"] for folder in (one, other)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(("workers", "seed"), [(0, 1), (2, 2)])
@pytest.mark.parametrize("scheduler", ["Ramp", "SelfPaced"])
def test_killed_and_resumed(
    recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, seed: int, scheduler: str
) -> None:
    bindings = ["-b", f"Curriculum.scheduler = @{scheduler}()", "-b", f"{scheduler}.end = 0.9"]
    monkeypatch.setenv("RECORD_MASKS", str(tmp_path / "whole.txt"))
    assert hpm("pretrain", recorded, *bindings, "--output", "whole") == 0

    monkeypatch.setenv("RECORD_MASKS", str(tmp_path / "killed.txt"))
    bindings += ["-b", f"Trainer.num_workers = {workers}"]
    killed_at = random.Random(seed).randrange(1, 39)
    dead = subprocess.run(
        [sys.executable, "-m", "hpm", "pretrain", str(recorded), *bindings, "--output", "killed"],
        env={**os.environ, "KILL_AT": str(killed_at)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert hpm("pretrain", "--resume", "--output", "killed") == 0

    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert masks(tmp_path / "killed.txt") == masks(tmp_path / "whole.txt")
    assert len(masks(tmp_path / "killed.txt")) == 40


@pytest.mark.parametrize("saved", ["config.gin", "operative.gin"])
def test_repeated_from_its_saved_config(
    recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: str
) -> None:
    for name, config in (("one", recorded), ("other", Path("one") / saved)):
        monkeypatch.setenv("RECORD_MASKS", str(tmp_path / f"{name}.txt"))
        assert hpm("pretrain", config, "--output", name) == 0
    assert_same_run(tmp_path / "one", tmp_path / "other")
    assert masks(tmp_path / "one.txt") == masks(tmp_path / "other.txt")


def test_truncated_checkpoint_is_recognized(
    recorded: Path, hpm: Hpm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RECORD_MASKS", str(tmp_path / "masks.txt"))
    for name in ("whole", "damaged"):
        assert hpm("pretrain", recorded, "--output", name) == 0
    (tmp_path / "damaged" / "summary.json").unlink()
    newest, before = checkpoint.found(tmp_path / "damaged" / "checkpoints")
    os.truncate(newest, newest.stat().st_size // 2)
    capsys.readouterr()
    assert hpm("pretrain", "--resume", "--output", "damaged") == 0
    told = capsys.readouterr().out.replace("\n", "")
    assert newest.name in told
    assert "damaged" in told
    assert f"resuming after step {int(before.stem.split('-')[1])}" in told
    assert_same_run(tmp_path / "whole", tmp_path / "damaged")


def test_a_flipped_bit_is_recognized(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 3, {"student": {"weight": torch.arange(1000.0)}}, keep=1)
    content = bytearray(path.read_bytes())
    place = content.find(torch.arange(1000.0).numpy().tobytes()[400:440])
    content[place] ^= 1
    path.write_bytes(content)
    assert checkpoint.damage(path) is not None


def test_a_complete_run_resumes_to_its_summary(recorded: Path, hpm: Hpm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECORD_MASKS", os.devnull)
    assert hpm("pretrain", recorded, "--output", "run") == 0
    before = Path("run/metrics.jsonl").read_text()
    assert hpm("pretrain", "--resume", "--output", "run") == 0
    assert Path("run/metrics.jsonl").read_text() == before
