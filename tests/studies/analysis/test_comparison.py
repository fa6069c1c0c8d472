"""The table that people decide by: pairing, baselines and warnings."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from made_results import HARD, RANDOM, results

from hpm.errors import UserError
from studies.analysis.comparison import Comparison, compare, compare_metrics
from studies.analysis.results import Result
from studies.reporting.files import write_files
from studies.reporting.tables import markdown


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
    values = {name: [number + (1 + number / 10) * value for value in RANDOM] for number, name in enumerate(GROUPS)}
    runs = [run for name, own in values.items() for run in results(name, own)]
    made = compare(runs, "low_shot/pretrained", against="*_random")
    found = {row.variant: (row.baseline, row.difference) for row in made.rows}
    assert {name for name in GROUPS if found[name][1] is None} == {name for name in GROUPS if "random" in name}
    assert {name: found[name][0] for name in GROUPS if "hard" in name} == {
        "hog_hard": "hog_random",
        "simmim_swin_hard": "simmim_swin_random",
        "simmim_hard": "simmim_random",
    }
    assert found["simmim_hard"][1].estimate.mean == pytest.approx(3 + 0.3 * 0.71)
    assert [row.variant == row.baseline for row in made.rows].count(True) == 3
    hog = found["hog_hard"][1].paired
    # Three comparisons are corrected for, not five.
    assert hog.corrected == pytest.approx(min(1, 3 * hog.value), abs=1e-12)


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
    ("finished", "against", "differ", "waits"),
    [
        (["hog_hard"], "hog_random", set(), {"hog_random": "hog_hard"}),
        (["hog_hard", "simmim_hard"], "*_random", set(), {"hog_random": "hog_hard", "simmim_random": "simmim_hard"}),
        (["hog_random", "hog_hard", "simmim_hard"], "*_random", {"hog_hard"}, {"simmim_random": "simmim_hard"}),
    ],
)
def test_a_baseline_that_has_no_complete_run_yet(
    finished: list[str], against: str, differ: set[str], waits: dict[str, str], tmp_path: Path
) -> None:
    runs = [run for number, name in enumerate(finished) for run in results(name, [(HARD, RANDOM)[number % 2][0], 0.5])]
    made = compare(runs, "low_shot/pretrained", against=against, planned=GROUPS)
    assert {row.variant for row in made.rows if row.difference is not None} == differ
    for baseline, variant in waits.items():
        told = f"no complete run of the baseline {baseline} has low_shot/pretrained yet, so there is no difference of "
        assert told + variant in made.warnings
    assert markdown([made]).count("| no baseline yet |") == len(waits)
    files = write_files([made], tmp_path, runs=runs, command="hpm-study")
    assert files[0].is_file()
    with pytest.raises(UserError, match="hog_randon is not a variant; choose one of"):
        compare(runs, "low_shot/pretrained", against="hog_randon", planned=GROUPS)


OTHERS = {"training": "34", "test": "56"}


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        (results("b", RANDOM[:3]), "fewer than 5 seeds: b"),
        (results("b", RANDOM[:3]), "seeds that the baseline has and a variant lacks: b seed 3, b seed 4"),
        (results("b", [*RANDOM, 0.9]), "since the baseline has no such seed: b seed 5"),
        (
            results("b", [*RANDOM[:3], math.nan, 0.7]),
            "low_shot/pretrained is not finite, or is beyond 1e50, in b seed 3; left out",
        ),
        (
            results("b", [*RANDOM[:3], 1e200, 0.7]),
            "low_shot/pretrained is not finite, or is beyond 1e50, in b seed 3; left out",
        ),
        (
            results("b", [*RANDOM[:3], math.inf, 0.7]),
            "low_shot/pretrained is not finite, or is beyond 1e50, in b seed 3; left out",
        ),
        (results("b", RANDOM, images=2000), "budgets differ: variants were trained on 1,000 to 2,000 images"),
        (results("b", RANDOM, data="DigitScenes"), "data differ: DigitScenes, FashionMNIST"),
        (results("b", RANDOM, device="H100"), "devices differ: H100, cpu"),
        (results("b", RANDOM, commit="def"), "source versions differ: abc, def"),
        (
            results("b", RANDOM[:1], config="y") + results("b", RANDOM, config="x"),
            "the configuration changed between runs: b",
        ),
        (
            results("b", RANDOM, scored_images={"low_shot/pretrained": 2000}),
            "low_shot/pretrained is a share of 2,000 images in some runs and of 10,000 in others",
        ),
        (results("b", RANDOM[:1]) + results("b", RANDOM), "several runs of one seed: b"),
        (
            results("b", RANDOM[:2], skipped_steps=1_200) + results("c", RANDOM, skipped_steps=0),
            "steps were skipped, since their gradient was not finite: b seed 0 (1,200), b seed 1 (1,200)",
        ),
        (
            results("b", RANDOM[:1], fingerprints={"training": "12"}) + results("c", RANDOM[:1], fingerprints=OTHERS),
            "training images of FashionMNIST differ: 12 in b seed 0; 34 in c seed 0",
        ),
        (
            results("b", RANDOM[:1], fingerprints={"training": "34", "test": "6"})
            + results("c", RANDOM[:1], fingerprints=OTHERS),
            "test images of FashionMNIST differ: 6 in b seed 0; 56 in c seed 0",
        ),
        (
            [Result("s", "b", 0, {}, {}, "FashionMNIST", "cpu", "abc")],
            "1 of 6 runs have no low_shot/pretrained and are left out: b seed 0",
        ),
    ],
)
def test_warns(others: list[Result], expected: str) -> None:
    made = compare(results("a", RANDOM) + others, "low_shot/pretrained")
    assert any(expected in warning for warning in made.warnings)


def test_a_configuration_that_is_not_known_has_not_changed() -> None:
    known, unknown = results("b", RANDOM[:2], config="x"), results("b", RANDOM)[2:]
    made = compare(results("a", RANDOM) + known + unknown, "low_shot/pretrained")
    assert not any("configuration" in warning for warning in made.warnings)


def test_images_of_two_sources_are_not_held_against_each_other() -> None:
    own = results("a", RANDOM, fingerprints=OTHERS)
    others = results("b", RANDOM, data="DigitScenes", fingerprints={"training": "12"}) + results("c", RANDOM)
    warnings = compare(own + others, "low_shot/pretrained").warnings
    assert not any("images of" in warning for warning in warnings)


def test_several_studies_keep_their_names() -> None:
    both = results("random", RANDOM, source="one") + results("random", HARD, source="two")
    made = compare(both, "low_shot/pretrained", against="one/random")
    assert {row.variant for row in made.rows} == {"one/random", "two/random"}
    with pytest.raises(UserError, match="--against random is the name of several variants"):
        compare(both, "low_shot/pretrained", against="random")


def test_refuses_what_is_not_there() -> None:
    with pytest.raises(UserError, match="--metric knn/pretrained was measured in no run; choose one of low_shot/pret"):
        compare(results("a", RANDOM), "knn/pretrained")
    with pytest.raises(UserError, match="--metric training_seconds is a cost, which every table shows"):
        compare(results("a", RANDOM), "training_seconds")
    with pytest.raises(UserError, match="--against b is not a variant; choose one of a"):
        compare(results("a", RANDOM), "low_shot/pretrained", against="b")


def test_one_seed_has_no_interval() -> None:
    alone, other = compare(results("a", [0.7]) + results("b", [0.6]), "low_shot/pretrained").rows
    assert math.isnan(alone.estimate.half)
    assert (other.difference.paired.value, other.significant) == (None, False)


def test_means_and_differences_are_over_the_same_seeds() -> None:
    """A variant that lacks a bad seed of the baseline, or has a good one more, gains nothing by it."""
    made = compare(results("a", RANDOM) + results("b", [*HARD[:3]]), "low_shot/pretrained")
    b = next(row for row in made.rows if row.variant == "b")
    assert (b.estimate.count, b.difference.estimate.count) == (3, 3)
    more = compare(results("a", RANDOM[:3]) + results("b", HARD), "low_shot/pretrained")
    longer = next(row for row in more.rows if row.variant == "b")
    assert longer.estimate.mean == pytest.approx(sum(HARD[:3]) / 3)
    assert set(longer.values) == {0, 1, 2}
    a = next(row for row in more.rows if row.variant == "a")
    assert longer.estimate.mean - a.estimate.mean == pytest.approx(longer.difference.estimate.mean)


def test_without_a_common_seed_nothing_is_compared() -> None:
    alone = [Result(**{**vars(run), "seed": run.seed + 10}) for run in results("b", HARD)]
    made = compare(results("a", RANDOM) + alone, "low_shot/pretrained")
    b = next(row for row in made.rows if row.variant == "b")
    assert (b.difference, b.estimate.count) == (None, 5)
    assert any("no seed of the baseline: b" in warning for warning in made.warnings)


def with_knn(runs: list[Result], values: list[float]) -> list[Result]:
    return [
        Result(**{**vars(run), "metrics": {**run.metrics, "knn/pretrained": value}})
        for run, value in zip(runs, values, strict=True)
    ]


KNN = {"a": [0.601, 0.622, 0.633, 0.614, 0.605], "b": [0.613, 0.625, 0.641, 0.618, 0.622]}


def test_the_correction_is_over_all_tables() -> None:
    runs = with_knn(results("a", RANDOM), KNN["a"]) + with_knn(results("b", HARD), KNN["b"])
    metrics = {"low_shot/pretrained": "maximize", "knn/pretrained": "maximize"}
    first, second = compare_metrics(runs, metrics, equivalent_within=9.0)
    alone = [compare(runs, metric, equivalent_within=9.0) for metric in metrics]
    for kind in ("blocked", "paired", "equivalent"):
        raw = [getattr(table.rows[0].difference, kind).value for table in alone]
        now = [getattr(table.rows[0].difference, kind).corrected for table in (first, second)]
        assert now[raw.index(min(raw))] == pytest.approx(min(1, 2 * min(raw)))
        assert now[raw.index(max(raw))] == pytest.approx(max(min(1, 2 * min(raw)), max(raw)))
        assert first.tests[kind] == second.tests[kind] == 2
    assert (first.tables, alone[0].tables) == (2, 1)


def test_equivalence_is_shown_within_a_wide_margin_alone() -> None:
    runs = results("a", RANDOM) + results("b", [value + 0.001 * (number % 2) for number, value in enumerate(RANDOM)])
    wide, narrow = (
        compare(runs, "low_shot/pretrained", against="a", equivalent_within=margin).rows for margin in (1.0, 0.05)
    )
    found = [next(row for row in rows if row.variant == "b").difference for rows in (wide, narrow)]
    assert [difference.equivalent.significant for difference in found] == [True, False]
    plain = compare(runs, "low_shot/pretrained", against="a").rows
    assert all(row.difference.equivalent is None for row in plain if row.variant == "b")


def test_a_margin_that_cannot_be() -> None:
    runs = with_knn(results("a", RANDOM), KNN["a"]) + with_knn(results("b", HARD), KNN["b"])
    for margin in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UserError, match=r"--equivalent-within .* must be more than 0"):
            compare(runs, "low_shot/pretrained", equivalent_within=margin)
    for run in runs:
        run.metrics["agreement/teacher"] = 0.3
    with pytest.raises(UserError, match="has one unit, but low_shot/pretrained, agreement/teacher"):
        compare_metrics(
            runs, {"low_shot/pretrained": "maximize", "agreement/teacher": "maximize"}, equivalent_within=0.3
        )


def test_a_withheld_p_still_counts_in_the_correction() -> None:
    """Its question was asked; two pairs or fewer ask none."""
    same = [value + 0.01 for value in RANDOM]
    runs = results("a", RANDOM) + results("b", HARD) + results("c", same) + results("d", HARD[:2])
    made = compare(runs, "low_shot/pretrained", against="a")
    found = {row.variant: row.difference for row in made.rows}
    assert (found["c"].paired.value, found["c"].paired.missing) == (None, "sd < 1/10000")
    assert (found["d"].paired.missing, found["d"].blocked.missing) == ("2 pairs", "2 pairs")
    assert made.tests["paired"] == 2
    assert found["b"].paired.corrected == pytest.approx(2 * found["b"].paired.value)
    assert math.isnan(found["c"].estimate.half)


def test_nothing_is_finite() -> None:
    with pytest.raises(UserError, match="--metric low_shot/pretrained is finite in no run"):
        compare(results("a", [math.nan, math.nan]), "low_shot/pretrained")
