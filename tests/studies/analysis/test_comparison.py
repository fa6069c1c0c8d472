"""The table that people decide by: pairing, baselines and warnings."""

from __future__ import annotations

import math
import re

import pytest
from made_results import HARD, RANDOM, results

from hpm.errors import UserError
from studies.analysis.comparison import Comparison, compare
from studies.analysis.results import Result


def test_rows_and_differences(comparison: Comparison) -> None:
    assert [row.variant for row in comparison.rows] == ["hard", "random"]
    hard, random = comparison.rows
    assert random.difference is None
    assert hard.difference.estimate.mean == pytest.approx(0.048)
    assert hard.difference.significant
    assert comparison.warnings == []
    assert hard.cost == {"images": 1000, "training_seconds": 10.0, "flops": 1e12}


def test_a_loss_is_better_where_it_is_lower() -> None:
    made = compare(results("a", [0.5, 0.6]) + results("b", [0.3, 0.2]), "low_shot/pretrained", direction="minimize")
    assert [row.variant for row in made.rows] == ["b", "a"]


GROUPS = ["hog_random", "hog_hard", "simmim_random", "simmim_swin_random", "simmim_swin_hard", "simmim_hard"]


def test_each_group_has_its_baseline() -> None:
    """'simmim_swin_hard' belongs to the longest name that it begins like."""
    values = {name: [value + number for value in RANDOM] for number, name in enumerate(GROUPS)}
    runs = [run for name, own in values.items() for run in results(name, own)]
    made = compare(runs, "low_shot/pretrained", against="*_random")
    found = {row.variant: (row.baseline, row.difference) for row in made.rows}
    assert {name for name in GROUPS if found[name][1] is None} == {name for name in GROUPS if "random" in name}
    assert {name: found[name][0] for name in GROUPS if "hard" in name} == {
        "hog_hard": "hog_random",
        "simmim_swin_hard": "simmim_swin_random",
        "simmim_hard": "simmim_random",
    }
    assert found["simmim_hard"][1].estimate.mean == pytest.approx(3)
    assert [row.variant == row.baseline for row in made.rows].count(True) == 3
    # Three comparisons are corrected for, not five.
    assert found["hog_hard"][1].corrected == pytest.approx(min(1, 3 * found["hog_hard"][1].p), abs=1e-12)


def test_a_star_after_what_all_groups_begin_with() -> None:
    names = ["small_hog_random", "small_hog_hard", "small_pixels_random"]
    runs = [run for name in names for run in results(name, RANDOM)]
    made = compare(runs, "low_shot/pretrained", against="small_*_random")
    assert {row.variant: row.baseline for row in made.rows}["small_hog_hard"] == "small_hog_random"


@pytest.mark.parametrize(
    ("against", "expected"),
    [
        ("*_none", "fits no variant; choose one of hog_random"),
        ("simmim_*m", "gives hog_random no baseline; its name must begin like one of"),
        ("*_*", "more than one star"),
    ],
)
def test_baselines_that_do_not_fit(against: str, expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        compare([run for name in GROUPS for run in results(name, RANDOM)], "low_shot/pretrained", against=against)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (results("b", RANDOM[:3]), "fewer than 5 seeds: b"),
        (results("b", RANDOM[:3]), "other seeds than the baseline: b"),
        (results("b", RANDOM, images=2000), "budgets differ: variants were trained on 1,000 to 2,000 images"),
        (results("b", RANDOM, data="DigitScenes"), "data differ: DigitScenes, FashionMNIST"),
        (results("b", RANDOM, device="H100"), "devices differ: H100, cpu"),
        (results("b", RANDOM, commit="def"), "source versions differ: abc, def"),
        (results("b", RANDOM[:1]) + results("b", RANDOM, config="x"), "the configuration changed between runs: b"),
        (results("b", RANDOM[:1]) + results("b", RANDOM), "several runs of one seed: b"),
        ([Result("s", "b", 0, {}, {}, "FashionMNIST", "cpu", "abc")], "1 of 6 runs have no low_shot/pretrained"),
    ],
)
def test_warns(others: list[Result], expected: str) -> None:
    made = compare(results("a", RANDOM) + others, "low_shot/pretrained")
    assert any(expected in warning for warning in made.warnings)


def test_several_studies_keep_their_names() -> None:
    both = results("random", RANDOM, source="one") + results("random", HARD, source="two")
    made = compare(both, "low_shot/pretrained", against="one/random")
    assert {row.variant for row in made.rows} == {"one/random", "two/random"}
    with pytest.raises(UserError, match="--against random is the name of several variants"):
        compare(both, "low_shot/pretrained", against="random")


def test_refuses_what_is_not_there() -> None:
    with pytest.raises(UserError, match="--metric knn/pretrained was measured in no run; low_shot/pretrained"):
        compare(results("a", RANDOM), "knn/pretrained")
    with pytest.raises(UserError, match="--against b is not a variant; choose one of a"):
        compare(results("a", RANDOM), "low_shot/pretrained", against="b")


def test_one_seed_has_no_interval() -> None:
    alone, other = compare(results("a", [0.7]) + results("b", [0.6]), "low_shot/pretrained").rows
    assert math.isnan(alone.estimate.half)
    assert (other.difference.p, other.significant) == (None, False)
