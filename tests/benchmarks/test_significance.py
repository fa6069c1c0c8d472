"""`benchmarks/significance.py`, smaller: nothing is found too often where nothing is, and what is there is found."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import scipy.stats

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from significance import Scenario, scenarios, simulate, simulate_equivalence

from studies.analysis.power import blocked_design, least_detectable

TABLES = 300
# A share that is 5 % comes to more than this in one of 10,000 such simulations.
MOST = scipy.stats.binom.isf(1e-4, TABLES, 0.05) / TABLES
SMALL = [scenario for scenario in scenarios() if len(scenario.deviations) <= 6 and scenario.seeds <= 5]


def name_of(scenario: Scenario) -> str:
    return f"{scenario.name}, {len(scenario.deviations)} variants, {scenario.seeds} seeds"


@pytest.mark.parametrize("scenario", SMALL, ids=name_of)
def test_what_is_not_there_is_not_found(scenario: Scenario) -> None:
    """Ties, unequal variances, missing runs, two and three seeds, 200 images."""
    found = simulate(scenario, TABLES)
    assert found["blocked"] <= MOST
    assert found["paired"] <= MOST
    if scenario.seeds < 3:
        assert found["tested"] == 0


@pytest.mark.parametrize(
    "scenario", [scenario for scenario in SMALL if "sd" not in scenario.name and scenario.images is None], ids=name_of
)
def test_where_variances_are_equal_the_omnibus_test_is_not_found_either(scenario: Scenario) -> None:
    assert simulate(scenario, TABLES)["omnibus"] <= MOST


@pytest.mark.parametrize(
    "scenario",
    [Scenario("real", (1.0, 1.0), seeds) for seeds in (3, 5)] + [Scenario("real", (3.0, 1.0), 4)],
    ids=name_of,
)
def test_intervals_cover(scenario: Scenario) -> None:
    covered = round(1000 * simulate(scenario, 1000)["covered"])
    assert scipy.stats.binom.ppf(1e-4, 1000, 0.95) <= covered <= scipy.stats.binom.isf(1e-4, 1000, 0.95)


def test_intervals_of_accuracies_over_200_images_cover() -> None:
    """Rounding hides spread, and intervals without spread are not given."""
    found = simulate(Scenario("grid", (1.0, 1.0), 4, images=200), 1000)
    assert round(1000 * found["covered"]) >= scipy.stats.binom.ppf(1e-4, 1000, 0.95)


@pytest.mark.parametrize(("variants", "seeds"), [(6, 3), (6, 5), (12, 5)])
def test_with_equal_variances_the_blocked_test_finds_more_than_the_paired(variants: int, seeds: int) -> None:
    """And about as much as the least detectable effect says, a little less with three seeds."""
    spread, freedom = blocked_design(1.0, seeds, variants)
    effect = least_detectable(spread, seeds, freedom, 0.05 / (variants - 1))
    found = simulate(Scenario("effect", (1.0,) * variants, seeds, effect=effect), TABLES)
    assert found["found_blocked"] > found["found_paired"] + 0.1
    assert 0.6 <= found["found_blocked"] <= 0.92


@pytest.mark.parametrize("deviations", [(0.5, 0.5), (0.5,) * 6, (1.5, *(0.4,) * 5), (*(0.4,) * 5, 1.5)])
@pytest.mark.parametrize("seeds", [3, 5])
def test_a_difference_of_just_the_margin_is_not_called_equivalent(deviations: tuple[float, ...], seeds: int) -> None:
    assert simulate_equivalence(Scenario("margin", deviations, seeds), TABLES) <= MOST


def test_a_table_is_the_same_for_the_same_seed() -> None:
    scenario = replace(SMALL[0], effect=1.0)
    assert simulate(scenario, 20, seed=3) == pytest.approx(simulate(scenario, 20, seed=3), nan_ok=True)
    assert simulate(scenario, 20, seed=3) != simulate(scenario, 20, seed=4)
