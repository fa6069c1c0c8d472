"""The one-file example trains, masks as the curriculum's own addressing says, and repeats itself."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from curriculum import Curriculum, HardestFirst, Noise, Ramp

EXAMPLE = Path(__file__).parents[2] / "examples" / "minimal_hpm.py"


def run(*options: str) -> str:
    finished = subprocess.run([sys.executable, EXAMPLE, *options], capture_output=True, text=True, check=True)
    return finished.stdout


def test_it_learns() -> None:
    output = run("--steps", "96")
    epochs = [(float(loss), float(alpha)) for loss, alpha in re.findall(r"loss (\S+)  alpha (\S+)", output)]
    (first, early), (last, late) = epochs
    assert last < 0.9 * first < 0.9  # a loss of 1 is what guessing the mean pixel costs
    assert (early, late) == (0.25, 0.5)
    as_hard, truly = (float(times) for times in re.findall(r"13 of 27 masked patches, (\S+) times as hard", output))
    assert 1 < as_hard < truly


def test_a_seed_repeats_itself_and_another_does_not() -> None:
    assert run("--steps", "12", "--seed", "3") == run("--steps", "12", "--seed", "3") != run("--steps", "12")


def test_what_is_drawn_is_addressed_by_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mask follows from the scores, the progress and (seed, step) alone, without the steps before it."""
    draw = Curriculum.draw
    drawn: list[tuple[Any, ...]] = []

    def recorded(self: Curriculum, batch: Any, teacher: Any, progress: float, noise: Noise) -> Any:
        mask = draw(self, batch, teacher, progress, noise)
        drawn.append((progress, self.scores, mask))
        return mask

    monkeypatch.setattr(Curriculum, "draw", recorded)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--steps", "20", "--seed", "3"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    for step, (progress, scores_NL, mask) in reversed(list(enumerate(drawn[:20]))):
        assert progress == (step + 1) / 20
        alpha = Ramp(start=0.0, end=0.5)(progress)
        noise = Noise.for_batch(seed=3, step=step, batch_size=32)
        again = HardestFirst()(scores_NL, alpha=alpha, num_masked=27, grid=(6, 6), noise=noise)
        torch.testing.assert_close(mask.masked, again.masked, rtol=0, atol=0)
        assert (scores_NL is None) == (int(27 * alpha) == 0)
