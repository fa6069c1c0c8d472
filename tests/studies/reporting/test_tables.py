"""The table as people and other programs get it."""

from __future__ import annotations

import csv
import io
import re

import pytest
from made_results import HARD, RANDOM, results

from hpm.runtime.console import make_console
from studies.analysis.comparison import Comparison, compare
from studies.analysis.results_csv import csv_text
from studies.reporting.tables import columns, markdown, show_comparisons


def test_markdown(comparison: Comparison) -> None:
    text = markdown([comparison])
    assert text.startswith("low_shot/pretrained, %, against random\n")
    assert "| hard | 5 | 75.80 ± " in text
    assert "| +4.80 ± " in text
    assert "| baseline |" in text
    assert "Warning" not in text


def test_csv(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(comparison.results))))
    assert len(rows) == 10
    assert {float(row["low_shot/pretrained"]) for row in rows if row["variant"] == "hard"} == set(HARD)


def test_each_group_has_a_baseline() -> None:
    names = ["hog_random", "hog_hard", "pixels_random", "pixels_hard", "swin_random"]
    runs = [run for name in names for run in results(name, RANDOM)]
    assert markdown([compare(runs, "low_shot/pretrained", against="*_random")]).count("| baseline |") == 3


def test_one_seed_is_shown_without_an_interval() -> None:
    text = markdown([compare(results("a", [0.7]) + results("b", [0.6]), "low_shot/pretrained")])
    assert "| a | 1 | 70.00 | baseline |" in text
    assert "| b | 1 | 60.00 | -10.00 |" in text
    assert "nan" not in text
    assert "Warning: fewer than 5 seeds: a, b; intervals are wide, small effects are missed." in text


def test_what_is_not_an_accuracy_is_not_shown_in_percent() -> None:
    runs = results("a", RANDOM)
    for run in runs:
        run.metrics["agreement/teacher"] = 0.25
    assert "| a | 5 | 0.2500 | baseline |" in markdown([compare(runs, "agreement/teacher")])


def test_the_share_of_attainable_hardness_is_shown_as_a_share() -> None:
    runs = results("random", RANDOM) + results("hard", HARD)
    for run in runs:
        run.metrics["curriculum/hardness_share"] = 0.0 if run.variant == "random" else 0.8125
    text = markdown([compare(runs, "curriculum/hardness_share", against="random")])
    assert text.startswith("curriculum/hardness_share, against random\n")
    assert "| random | 5 | 0.0000 | baseline |" in text
    assert "| hard | 5 | 0.8125 | +0.8125 |" in text


@pytest.mark.parametrize(("width", "hidden"), [(140, set()), (110, {"images", "seconds"})])
def test_a_narrow_terminal_shows_less(comparison: Comparison, width: int, hidden: set[str]) -> None:
    console = make_console(width=width, record=True, file=io.StringIO())
    show_comparisons(console, [comparison], most=1)
    text = console.export_text()
    assert {column for column in columns(comparison) if column not in text} == hidden
    assert "hard" in text
    assert "│ random" not in text


def test_notes_say_what_could_have_been_found(comparison: Comparison) -> None:
    text = markdown([comparison])
    least = comparison.groups[0].least_detectable(comparison.tests)
    assert f"Least detectable effect in points: {100 * least['blocked']:.2f}: a true difference" in text
    assert "at 0.05/1, the strictest corrected level" in text
    # Of two variants the omnibus test is their own.
    assert "F(" not in text
    assert "over 1 test of the table" in text


def test_the_table_says_why_a_p_is_missing() -> None:
    same = [value + 0.01 for value in RANDOM]
    runs = results("a", RANDOM) + results("b", same) + results("c", HARD[:2]) + results("d", HARD)
    text = markdown([compare(runs, "low_shot/pretrained")])
    assert re.search(r"\| b \| 5 \| [^|]+ \| \+1.00 \| \S+ \*? ?\| \(sd < 1/10000\) \|", text), text
    assert re.search(r"\| c \| 2 \| [^|]+ \| [^|]+ \| \(2 pairs\) \| \(2 pairs\) \|", text)
    assert "The metric moves in steps of 0.01 (10,000 scored images)." in text
    assert "Left out, with fewer than 3 shared seeds: c." in text


def test_without_seeds_nothing_could_have_been_found() -> None:
    text = markdown([compare(results("a", [0.7]) + results("b", [0.6]), "low_shot/pretrained")])
    assert "Least detectable effect: not known; a variant needs 3 seeds that its baseline has" in text


def test_a_missing_run_is_told_of() -> None:
    runs = results("a", RANDOM) + results("b", HARD)[1:] + results("c", [0.71, 0.73, 0.72, 0.72, 0.74])
    text = markdown([compare(runs, "low_shot/pretrained")])
    assert "With fewer than 5 seeds the blocked test's power there is nearer 70 %." in text
    assert "(5 seeds as blocks; 1 of 15 runs are missing, fitted by least squares)" in text


def test_equivalence_has_a_column() -> None:
    runs = results("a", RANDOM) + results("b", HARD)
    text = markdown([compare(runs, "low_shot/pretrained", equivalent_within=10.0)])
    assert "| p paired | within ±10 | d_z |" in text
    assert "two one-sided tests" in text
    assert "two one-sided tests" not in markdown([compare(runs, "low_shot/pretrained")])


def test_what_rounds_to_nothing_has_no_minus() -> None:
    values = [value - 1e-7 for value in RANDOM]
    text = markdown([compare(results("a", RANDOM) + results("b", values), "low_shot/pretrained", against="a")])
    assert "+0.00" in text
    assert "-0.00" not in text


def test_names_end_no_cell_and_begin_no_tag() -> None:
    named = results("a|<script>x</script>[y](http://z)", RANDOM)
    text = markdown([compare(named, "low_shot/pretrained")])
    assert "| a\\|&lt;script>x&lt;/script>\\[y](http://z) | 5 |" in text


def test_names_in_notes_begin_no_tag_and_backslashes_free_no_pipe() -> None:
    runs = results("a", RANDOM) + results("b", HARD) + results("c", RANDOM[::-1])
    text = markdown([compare(runs + results("<script>x</script>\\|y\\", HARD[:2]), "low_shot/pretrained")])
    name = "&lt;script>x&lt;/script>\\\\\\|y\\\\"
    assert f"Left out, with fewer than 3 shared seeds: {name}." in text
    assert f"| {name} | 2 |" in text
    assert "<script" not in text
