"""The timeline: what it draws of a run's rows, where nothing was scored, and between the steps that were logged."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from curriculum.schedulers import Cyclic
from hpm.inference.alpha import alpha_rows
from hpm.runs.run_folder import RunFolder
from hpm.visualization import draw_timeline
from hpm.visualization.timeline import (
    _SHARES,
    _draw_alpha,
    _draw_curve,
    _draw_hardness,
    _draw_shares,
    _intervals,
    _nothing_scored,
)

Hpm = Callable[..., int]


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as shown:
        return shown.size


def test_a_timeline_of_incomplete_rows(tmp_path: Path) -> None:
    """Intervals in which every step was skipped have no losses; a run may have but two rows."""
    rows = [{"epoch": 0.1, "alpha": 0.0}, {"epoch": 0.2, "alpha": 1.0, "reconstruction_loss": 1.0}]
    assert size_of(draw_timeline(rows, "hard", tmp_path / "t.png"))[0] > 300
    large = [
        row | {"reconstruction_loss": sign * 1e308} for row, sign in zip([*rows, *rows], [1, -1, 1, -1], strict=True)
    ]
    assert size_of(draw_timeline(large, "hard", tmp_path / "l.png"))[0] > 300
    constant = [json.loads(json.dumps(row | {"reconstruction_loss": 1.0, "prediction_accuracy": 0.4})) for row in rows]
    assert size_of(draw_timeline(constant, None, tmp_path / "u.png"))[0] > 300


def test_the_share_of_attainable_hardness_over_epochs(tmp_path: Path) -> None:
    """A panel of its own where a probe measured it: at the probes' epochs, between 0 and 100 % at least."""
    rows = [{"step": 5 * n, "epoch": n / 2, "alpha": 0.5, "reconstruction_loss": 1.0} for n in range(1, 5)]
    shares = {name: 0.1 * place for place, name in enumerate(_SHARES, start=3)}
    probes = [{"step": 10, **shares}, {"step": 15, "validation/ridge/pretrained": 0.5}, {"step": 20, **shares}]
    without, other = (size_of(draw_timeline(rows, "hard", tmp_path / "t.png", shown)) for shown in ([], probes[1:2]))
    with_it = size_of(draw_timeline(rows, "hard", tmp_path / "t.png", probes))
    assert without == other
    assert with_it[1] > 1.3 * without[1]

    axis = Figure().subplots()
    _draw_hardness(axis, np.array([1.0, 2.0]), [{next(iter(shares)): value} for value in (-0.4, 0.8)])
    (curve, *marks) = axis.lines
    assert curve.get_xydata().tolist() == [[1, -0.4], [2, 0.8]]
    assert {tuple(mark.get_ydata()) for mark in marks} == {(0, 0), (1, 1)}
    assert axis.get_ylim()[0] < -0.4 < 1 < axis.get_ylim()[1]


@pytest.mark.parametrize(("count", "shown"), [(5, True), (100, False)])
def test_only_the_steep_begin_of_a_long_run_is_cut_off(count: int, shown: bool) -> None:
    """Of few rows the first is far into the run already."""
    axis, losses = Figure().subplots(), np.linspace(0.8, 0.7, count)
    losses[0] = 3.0
    _draw_curve(axis, "reconstruction_loss", np.arange(1, count + 1) / count, losses)
    assert (axis.get_ylim()[1] > 3) == shown


def test_alpha_changes_where_an_epoch_begins() -> None:
    """Though no row was written there: rows of epochs 0.4, 0.8, 1.2, ... under a ramp that moves once an epoch."""
    epochs = np.arange(1, 11) * 0.4
    alpha = np.ceil(epochs) / 4
    axis = Figure().subplots()
    _draw_shares(axis, epochs, alpha, "hard", np.zeros(len(epochs), dtype=bool))
    drawn = axis.lines[0].get_xydata()
    changes = [float(before[0]) for before, after in pairwise(drawn) if after[1] > before[1]]
    assert changes == pytest.approx([1, 2, 3])
    assert drawn[-1].tolist() == [4, 1]


def test_alpha_of_what_is_reconstructed_has_a_panel_where_it_decides_something(hpm: Hpm, tiny: Path) -> None:
    """Of the run's schedule, which moves between the steps that were logged; not where the choice is random."""
    short = ["Schedule.epochs = 2", "Monitoring.log_every = 10", "Trainer.progress_per = 'step'"]
    part = ["Curriculum.reconstruction = @PartialReconstruction()", "PartialReconstruction.share = 0.5"]
    moving = [
        "PartialReconstruction.sampler = @HardestFirst()",
        "PartialReconstruction.alpha = @part/Ramp()",
        "part/Ramp.start = 0.2",
        "part/Ramp.end = 0.6",
    ]
    pictures = {}
    for name, bindings in (("random", part), ("moving", [*part, *moving])):
        words = [word for text in [*short, *bindings] for word in ("-b", text)]
        assert hpm("pretrain", tiny, *words, "--output", name) == 0
        run = RunFolder(Path(name))
        rows = [row for row in run.metrics.rows() if row["kind"] == "train"]
        assert ["reconstruction_alpha" in row for row in rows] == [name == "moving"] * 2
        alpha = alpha_rows(run, rows)
        pictures[name] = size_of(draw_timeline(rows, "hard", Path(f"{name}.png"), alpha=alpha))
        if name == "moving":
            shown = [row["reconstruction_alpha"] for row in alpha]
            assert shown == pytest.approx([0.2 + 0.4 * step / 20 for step in range(1, 21)])
            assert [row["reconstruction_alpha"] for row in rows] == pytest.approx([0.4, 0.6])
    assert pictures["moving"][1] > 1.15 * pictures["random"][1]
    epochs, alphas = _intervals(np.array([0.5, 1.0, 1.5, 2.0]), np.array([0.1, 0.2, 0.3, 0.4]))
    axis = Figure().subplots()
    _draw_alpha(axis, "alpha of what is\nreconstructed", epochs, alphas)
    assert axis.lines[0].get_xydata().tolist() == [[0, 0.1], [0.5, 0.1], [1, 0.2], [1.5, 0.3], [2, 0.4]]


def test_where_nothing_was_scored_the_mask_is_random(tmp_path: Path) -> None:
    """The hard patches' band begins with the second epoch, the line of alpha with the first."""
    rows = [
        {"step": n, "epoch": n / 2, "alpha": 0.5, "reconstruction_loss": 1.0, "unscored": float(n <= 2)}
        for n in range(1, 7)
    ]
    moves = [{"epoch": n / 4, "alpha": 0.5} for n in range(1, 13)]
    random = _nothing_scored(rows, moves)
    assert random.tolist() == [True] * 4 + [False] * 8
    late = [{"epoch": 0.7, "unscored": 1.0}, {"epoch": 1.4, "unscored": 0.3}]  # the second interval has steps of both
    assert _nothing_scored(late, moves[:5]).tolist() == [True] * 4 + [False]
    assert not _nothing_scored([{**row, "unscored": 0.99} for row in rows], moves).any()
    assert not _nothing_scored([{"epoch": row["epoch"]} for row in rows], moves).any()  # not logged
    axis = Figure().subplots()
    _draw_shares(axis, np.arange(1, 13) / 4, np.full(12, 0.5), "hard", random)
    _, hard = axis.collections
    filled = hard.get_paths()[0].vertices
    assert filled[filled[:, 1] > 0][:, 0].min() == 1
    assert axis.lines[0].get_xydata()[0].tolist() == [0, 0.5]
    assert [text.get_text() for text in axis.texts] == [
        "random:\nno scores yet",
        "hard patches: alpha",
        "random patches: 1 \N{MINUS SIGN} alpha",
    ]
    draw_timeline([{**row, "unscored": 1.0} for row in rows], "hard", tmp_path / "all.png")
    axis = Figure().subplots()  # of blocks, of which alpha is no share
    _draw_shares(axis, np.arange(1, 13) / 4, np.full(12, 0.5), None, random)
    assert axis.lines[0].get_xydata()[0].tolist() == [0, 0.5]


def test_an_alpha_that_follows_what_is_learned_moves_where_it_did() -> None:
    """Every interval of 4 steps has its own, epochs of 10 steps or not."""
    epochs = np.arange(1, 11) * 0.4
    alpha = np.array([0, 1, 1, 0, 0, 1, 0, 1, 1, 0]) / 2
    axis = Figure().subplots()
    _draw_shares(axis, epochs, alpha, "hard", np.zeros(len(epochs), dtype=bool))
    drawn = axis.lines[0].get_xydata()
    changes = [float(before[0]) for before, after in pairwise(drawn) if after[1] != before[1]]
    assert changes == pytest.approx([0.4, 1.2, 2.0, 2.4, 2.8, 3.6])


def test_alpha_is_drawn_from_its_schedule_between_the_steps_that_were_logged(hpm: Hpm, tiny: Path) -> None:
    """Logged every tenth step, a cycle of five steps would look as if nothing moved."""
    cyclic = ["Curriculum.scheduler = @Cyclic()", "Cyclic.cycles = 4", "Trainer.progress_per = 'step'"]
    for name, bindings in (("cyclic", cyclic), ("plateau", ["Curriculum.scheduler = @Plateau()"])):
        words = [
            word for text in [*bindings, "Schedule.epochs = 2", "Monitoring.log_every = 10"] for word in ("-b", text)
        ]
        assert hpm("pretrain", tiny, *words, "--output", name) == 0
    run = RunFolder(Path("cyclic"))
    shown = [row["alpha"] for row in alpha_rows(run, run.metrics.rows())]
    assert shown == [Cyclic(cycles=4)(step / 20) for step in range(1, 21)]
    other = RunFolder(Path("plateau"))  # follows what was measured, which the rows alone know
    assert [row["step"] for row in alpha_rows(other, other.metrics.rows())] == [10, 20]
    run.config.unlink()
    assert [row["step"] for row in alpha_rows(run, run.metrics.rows())] == [10, 20]
    assert hpm("visualize", "cyclic", "--timeline") == 0
