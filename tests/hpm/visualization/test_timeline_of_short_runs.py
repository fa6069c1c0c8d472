"""The picture of a run's course: which points its axes hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from hpm.visualization import draw_timeline, style


def axes_of_losses(
    losses: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[tuple[float, float], np.ndarray]:
    """The ends of the axis of losses, and what is drawn on it."""
    figures: list[Figure] = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    rows = [
        {"step": step, "epoch": step / 10, "alpha": 0.0, "reconstruction_loss": loss, "unscored": 0.0}
        for step, loss in enumerate(losses, start=1)
    ]
    draw_timeline(rows, "hard", tmp_path / "timeline.png")
    axis = figures[0].axes[1]
    low, high = axis.get_ylim()
    return (low, high), np.asarray(axis.lines[0].get_ydata())


@pytest.mark.parametrize("count", [2, 14, 49])
def test_a_short_run_shows_its_first_points(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [9.0, *np.linspace(1.0, 0.9, count - 1).tolist()]
    (low, high), drawn = axes_of_losses(losses, tmp_path, monkeypatch)
    assert drawn.tolist() == losses
    assert low < min(losses)
    assert high > 9


def test_a_long_run_shows_them_where_they_flatten_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (_, high), _ = axes_of_losses(np.linspace(2.0, 1.0, 100).tolist(), tmp_path, monkeypatch)
    assert high > 2


def test_what_falls_from_far_above_does_not_flatten_a_long_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (low, high), _ = axes_of_losses([9.0, 5.0, *np.linspace(1.0, 0.9, 98).tolist()], tmp_path, monkeypatch)
    assert 0.8 < low < 0.9
    assert 1.0 < high < 1.1
