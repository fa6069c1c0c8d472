"""A disk that is full while a run trains: nothing computed is lost, and the user is told."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Forks

from hpm.runs import checkpoint

Hpm = Callable[..., int]


@pytest.fixture
def full_disk(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tiny.parent)
    tiny.write_text(
        f"import full_disk\n{tiny.read_text()}\nCurriculum.scheduler = @FullDisk()\nFullDisk.end = 0.5\n"
        "Trainer.progress_per = 'step'\nMonitoring.log_every = 1\nCheckpointing.every = 5\n"
        "Checkpointing.keep = 9\n"
    )
    return tiny


def with_full_disk(forks: Forks, config: Path, until: float) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own: no file of that process may grow, whatever the tests' output is written to."""
    plugins = Path(__file__).parents[2] / "plugins"
    environment = {**os.environ, "PYTHONPATH": str(plugins), "FULL_UNTIL": str(until)}
    return forks.run("hpm", "pretrain", config, "--output", "run", env=environment)


def test_a_full_disk_does_not_end_a_run(full_disk: Path, forks: Forks) -> None:
    """Metrics and checkpoints that cannot be written are warned of, and written when there is room again."""
    ran = with_full_disk(forks, full_disk, until=0.7)
    assert ran.returncode == 0, ran.stderr
    told = " ".join(ran.stdout.split())
    assert "metrics wait in memory" in told
    assert "could not be written" in told
    rows = map(json.loads, Path("run/metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 41))
    kept = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(Path("run/checkpoints"))]
    assert kept[0] == 40
    assert 0 < len(kept) < 8


def test_a_disk_that_stays_full_is_told_at_the_end(full_disk: Path, forks: Forks) -> None:
    ran = with_full_disk(forks, full_disk, until=2)
    assert ran.returncode == 3, ran.stderr
    assert "make room and go on with --resume --output run" in " ".join(ran.stderr.split())
    assert not Path("run/summary.json").exists()
    assert checkpoint.list_checkpoints(Path("run/checkpoints"))
