"""Runs that are killed at random moments, whatever they are doing then, and go on to the same bits."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from forks import Forks
from fuzzing import CASES
from record import assert_same_run

PLUGINS = Path(__file__).parents[1] / "plugins"
KILLS = CASES // 100 or 1  # of each
KEPT = "Monitoring.probe_every = 2\nMonitoring.probes = [@KNN()]\nKNN.train_images = 64\nKNN.test_images = 32\n"


@pytest.mark.parametrize(
    ("curriculum", "workers", "processes"),
    [
        ("bandit", 2, 2),
        # In `make test` others kill these.
        *(
            pytest.param(*case, marks=pytest.mark.skipif(not CASES, reason="make fuzz"))
            for case in [
                ("hpm_memory_blocks", 0, 1),
                ("hpm_probes", 2, 2),
                ("random", 2, 2),
                ("hpm_easy_to_hard", 2, 1),
                ("adios", 0, 1),
                ("adamae", 2, 2),
                ("metric_paced", 0, 2),
                ("true_loss", 2, 1),
                ("amt", 0, 1),
            ]
        ),
    ],
)
def test_killed_at_random_moments(
    tiny: Path, forks: Forks, tmp_path: Path, curriculum: str, workers: int, processes: int
) -> None:
    shutil.copy(PLUGINS / "dying.py", tmp_path)
    config = tmp_path / "mine.gin"
    config.write_text(f"import dying\ninclude 'tiny.gin'\ninclude 'curricula/{curriculum}.gin'\n{KEPT}")
    words = ["pretrain", config, "-b", f"Loading.num_workers = {workers}", "--resume", "--output"]

    def train(output: str, **environment: str) -> int:
        ran = forks.run(
            "hpm",
            *words,
            output,
            env={**os.environ, **environment},
            cwd=tmp_path,
            processes=processes - 1 and processes,
        )
        assert "Traceback" not in ran.stdout + ran.stderr or "DIES_AFTER" in environment, ran.stderr
        return ran.returncode

    begin = time.monotonic()
    assert train("whole") == 0
    seconds = time.monotonic() - begin
    draw, kills, output = random.Random(f"{curriculum} {CASES}"), 0, 0
    while kills < KILLS:
        if train(f"killed{output}", DIES_AFTER=str(draw.uniform(0, seconds))) == 0:  # it ended before
            assert_same_run(tmp_path / "whole", tmp_path / f"killed{output}")
            output += 1
        else:
            kills += 1
    assert train(f"killed{output}") == 0
    assert_same_run(tmp_path / "whole", tmp_path / f"killed{output}")
