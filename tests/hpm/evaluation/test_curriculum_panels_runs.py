"""The pictures of the curriculum in a run: it is the same run with them, and one process of several draws."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forks import Forks
from torch import Tensor

from hpm.inference.loading import load_model
from hpm.models.patches import patchify
from hpm.runs.checkpoint import Checkpoint, list_checkpoints
from hpm.visualization import Panels, draw_sheet, look
from hpm.visualization import picture as pictures
from hpm.visualization.picture import held_out
from hpm.visualization.sheet import _columns

Hpm = Callable[..., int]
BLUE = torch.tensor([0, 0x72, 0xB2]) / 255
MEMORY = [
    "Curriculum.difficulty = @LossMemory()",
    "Method.ema_decay = None",
    "MaskedAutoencoder.loss_predictor_depth = None",
    "Schedule.epochs = 3",
    "Monitoring.evaluations = []",
    "Monitoring.probes = []",
]


def titles(panels: Panels) -> list[str]:
    return [column.title.replace("\n", " ") for column in _columns(panels)]


def in_color(pixels: Tensor, color: Tensor) -> Tensor:
    """[N, 16]: the patches that are all of one color."""
    return (patchify(pixels, 4).unflatten(2, (16, 3)) - color).abs().amax(dim=(2, 3)) < 1e-6


def train(hpm: Hpm, tiny: Path, folder: str, *bindings: str) -> None:
    words = [word for text in (*MEMORY, *bindings) for word in ("-b", text)]
    assert hpm("pretrain", tiny, *words, "--output", folder) == 0


def assert_same_run(one: str, other: str) -> None:
    ends = [Checkpoint(list_checkpoints(Path(folder, "checkpoints"))[0]) for folder in (one, other)]
    assert set(ends[0].names()) == set(ends[1].names())
    for name in ends[0].names():
        torch.testing.assert_close(ends[0].tensor(name), ends[1].tensor(name), rtol=0, atol=0, equal_nan=True)
    rows = [[json.loads(line) for line in Path(f, "metrics.jsonl").read_text().splitlines()] for f in (one, other)]
    losses = [[row["loss"] for row in of_run if row["kind"] == "train"] for of_run in rows]
    assert losses[0] == losses[1]


def drawn_in(folder: str) -> int:
    return len(list(Path(folder, "pictures").glob("*.png")))


def test_a_loss_memory_is_drawn_and_the_run_is_the_same(
    tiny: Path, hpm: Hpm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Pictures after 10, 20 and 30 steps, of the same crops of training images; what is remembered of them grows."""
    seen: list[Panels] = []

    def watched(panels: Panels, path: Path, *, name: str) -> Path:
        assert name == "with"
        seen.append(panels)
        return draw_sheet(panels, path, name=name)

    train(hpm, tiny, "without", "Monitoring.probe_every = 0")
    monkeypatch.setattr(pictures, "draw_sheet", watched)
    train(hpm, tiny, "with", "Monitoring.probe_every = 1")
    assert_same_run("with", "without")
    assert (drawn_in("with"), drawn_in("without")) == (3, 1)
    assert [(panels.crops, panels.steps, panels.averaged) for panels in seen] == [
        (True, steps, False) for steps in (10, 20, 30)
    ]
    assert all(torch.equal(panels.pixels, seen[0].pixels) for panels in seen)
    assert all(len(panels.pixels) == 6 for panels in seen)
    scored = []
    for panels, alpha in zip(seen, (1 / 6, 1 / 3, 1 / 2), strict=True):
        assert titles(panels)[:4] == ["training image", "true loss", "difficulty", "curriculum's mask"]
        assert panels.curriculum is not None
        assert panels.curriculum.difficulty is not None
        assert f"alpha {alpha:.2f}" in panels.curriculum.captions[0]
        scored.append(int(panels.curriculum.difficulty.isfinite().sum()))
        blue = in_color(panels.curriculum.masked, BLUE)
        assert blue.sum() == 6 * int(12 * alpha)
        for scores, chosen in zip(panels.curriculum.difficulty, blue, strict=True):
            hard = scores[~scores.isnan()].sort(descending=True).values[: int(chosen.sum())]
            assert torch.equal(scores[chosen].sort(descending=True).values, hard)
    assert 6 * 8 < scored[0] < scored[2]

    context = load_model(tmp_path / "with").context()
    assert look(context, held_out(context.source, 4, 3)).curriculum is None  # these images were never reconstructed


def test_in_two_processes_the_main_one_draws_alone(
    tiny: Path, forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, every in (("with", 1), ("without", 0)):
        words = [word for text in (*MEMORY, f"Monitoring.probe_every = {every}") for word in ("-b", text)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = forks.run("hpm", "pretrain", tiny, *words, "--output", folder, env=environment, processes=2)
        assert ran.returncode == 0, ran.stderr
    assert_same_run("with", "without")
    assert (drawn_in("with"), drawn_in("without")) == (3, 1)
