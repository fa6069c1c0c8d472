"""Runs that are killed or stopped at random moments, whatever they are doing then, and go on to the same bits."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from forks import Forks
from fuzzing import CASES
from record import assert_same_run

from hpm.runs.metrics_file import MetricsFile

PLUGINS = Path(__file__).parents[1] / "plugins"
TIMES = CASES // 100 or 1  # each is killed, or stopped
KEPT = "Monitoring.probe_every = 2\nMonitoring.probes = [@KNN()]\nKNN.train_images = 64\nKNN.test_images = 32\n"


class Runs:
    """One training after another of the same configuration, each in a folder of its own until it is complete."""

    def __init__(self, forks: Forks, folder: Path, curriculum: str, workers: int, processes: int) -> None:
        shutil.copy(PLUGINS / "dying.py", folder)
        config = folder / "mine.gin"
        config.write_text(f"import dying\ninclude 'tiny.gin'\ninclude 'curricula/{curriculum}.gin'\n{KEPT}")
        self._forks = forks
        self._folder = folder
        self._words = ["pretrain", config, "-b", f"Loading.num_workers = {workers}", "--resume", "--output"]
        self._processes = processes
        self._draw = random.Random(f"{curriculum} {CASES}")
        self._complete = 0
        begin = time.monotonic()
        assert self.train("whole").returncode == 0
        self._seconds = time.monotonic() - begin

    @property
    def output(self) -> Path:
        """The folder of the run that is not complete yet."""
        return self._folder / f"ended{self._complete}"

    def train(self, output: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self._forks.run(
            "hpm",
            *self._words,
            output,
            env={**os.environ, **environment},
            cwd=self._folder,
            processes=self._processes - 1 and self._processes,
            start_new_session=True,
        )

    def end(self, number: signal.Signals, **environment: str) -> subprocess.CompletedProcess[str] | None:
        """Train on until a signal comes, at a random moment. None where the run was complete before."""
        moment, is_new, begin = self._draw.uniform(0, self._seconds), not self.output.exists(), time.monotonic()
        ended = self.train(self.output.name, ENDS=f"{moment} {int(number)}", **environment)
        if ended.returncode:
            return ended
        if is_new:
            self._seconds = time.monotonic() - begin  # what a whole run takes now
        self._require_same()
        return None

    def complete(self) -> None:
        """Train on to the end, which is as if nothing had happened."""
        ended = self.train(self.output.name)
        assert (ended.returncode, "Traceback" in ended.stdout + ended.stderr) == (0, False), ended.stderr
        self._require_same()

    def logged(self) -> int:
        """The last step that the metrics have."""
        return max((row["step"] for row in MetricsFile(self.output / "metrics.jsonl").rows()), default=0)

    def _require_same(self) -> None:
        assert_same_run(self._folder / "whole", self.output)
        self._complete += 1


@pytest.mark.parametrize(
    ("curriculum", "workers", "processes"),
    [
        ("bandit", 2, 2),
        # In `make test` others kill these.
        *(
            pytest.param(*case, marks=pytest.mark.skipif(not CASES, reason="takes long; `make fuzz` runs it"))
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
    runs, kills = Runs(forks, tmp_path, curriculum, workers, processes), 0
    while kills < TIMES:
        kills += runs.end(signal.SIGKILL) is not None
    runs.complete()


@pytest.mark.skipif(not CASES, reason="takes long; `make fuzz` runs it")
@pytest.mark.parametrize("processes", [1, 2])
def test_stopped_at_random_moments(tiny: Path, forks: Forks, tmp_path: Path, processes: int) -> None:
    """SIGTERM to every process of the job, the loader's workers too: what has begun is saved."""
    runs, saved = Runs(forks, tmp_path, "hpm_easy_to_hard", 2, processes), 0
    while saved < TIMES:
        before = runs.logged()
        ended = runs.end(signal.SIGTERM, ENDS_GROUP="1")
        if ended is None:
            continue
        told = " ".join((ended.stdout + ended.stderr).split())
        # During the last evaluation everything is saved already.
        is_saved = "SIGTERM: saved after step" in told or "SIGTERM received; go on with" in told
        assert is_saved or runs.logged() <= before, told  # or it had not begun to train
        if processes == 1:  # torchrun's agent has a code and a traceback of its own
            # Python itself ends by the signal while it starts.
            assert ended.returncode in ((75,) if is_saved else (75, -signal.SIGTERM)), told
            assert "Traceback" not in told
        saved += is_saved
    runs.complete()
