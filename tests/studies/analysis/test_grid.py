"""The steps in which a metric moves are what runs say, or what their values show."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import results

from studies.analysis.grid import grid_of
from studies.analysis.results import Result


def runs_of(values: list[float], metric: str = "knn/pretrained", **more: object) -> list[Result]:
    return [Result("s", "a", seed, {metric: value}, {}, "", "", "", **more) for seed, value in enumerate(values)]


def test_what_runs_say_counts() -> None:
    assert grid_of("low_shot/pretrained", results("a", [0.5, 0.6])).step == 1 / 10_000
    few = runs_of([0.5, 0.75], scored_images={"knn/pretrained": 200})
    many = runs_of([0.5, 0.75], scored_images={"knn/pretrained": 2000})
    assert grid_of("knn/pretrained", few + many).step == 1 / 200


@given(st.integers(150, 20_000), st.integers(0, 10**6))
def test_what_values_show(images: int, seed: int) -> None:
    """In single precision, as accuracies are computed: the number of images or a divisor of it, never more."""
    right = np.random.default_rng(seed).integers(0, images + 1, 20)
    values = [float(np.float32(count) / np.float32(images)) for count in right]
    step = grid_of("knn/pretrained", runs_of(values)).step
    denominator = round(1 / step)
    assert denominator <= images
    assert np.allclose(np.array(values) * denominator, np.round(np.array(values) * denominator), atol=0.02)


def test_the_committed_results() -> None:
    from pathlib import Path

    from studies.analysis.results_csv import csv_results

    runs = csv_results(Path(__file__).parents[3] / "docs/results/zoo_small/results.csv")
    assert grid_of("linear/pretrained", runs).step == 1 / 10_000
    assert grid_of("knn/pretrained", runs).step == 1 / 2000


def test_old_and_new_runs_together_have_the_coarser_grid() -> None:
    old = runs_of([0.505, 0.25])
    new = runs_of([0.5001, 0.25], scored_images={"knn/pretrained": 10_000})
    assert grid_of("knn/pretrained", old + new).step == pytest.approx(1 / 10_000)
    assert grid_of("knn/pretrained", old + runs_of([0.5], scored_images={"knn/pretrained": 10})).step == 1 / 10


def test_what_is_no_share_of_images_has_the_grid_of_its_numbers() -> None:
    assert grid_of("agreement/teacher", runs_of([0.5, 0.25], "agreement/teacher")).step < 1e-6
    assert grid_of("mine/loss", runs_of([2.0, 3.0], "mine/loss")).step < 1e-6
    assert grid_of("knn/pretrained", runs_of([0.5123457, 0.3334561, 0.7771359, 0.2234573])).step < 1e-6
