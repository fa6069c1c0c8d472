"""The trials of a search as a table, and its best setting in words."""

from __future__ import annotations

import html
import io
import shlex
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from hpm.runtime.console import make_console
from studies.analysis.comparison import Comparison
from studies.definition.identity import give_identity
from studies.definition.settings import REPEATS, best_of
from studies.reporting.files import write_files
from studies.reporting.tables import markdown_of_trials
from studies.reporting.trials import best_sentences, show_trials, trial_table

METRIC = "validation/ridge/pretrained"


def search(direction: str = "maximize", *, cost: bool = False) -> optuna.Study:
    """Three complete trials, of which 2 is the best; one pruned at a better figure, one failed, one that repeats 2."""
    study = optuna.create_study(directions=[direction] + ["minimize"] * cost)
    space = {
        "Ramp.end": optuna.distributions.FloatDistribution(0, 1),
        "Ramp.shape": optuna.distributions.CategoricalDistribution(["linear", "it's"]),
    }
    sign = 1 if direction == "maximize" else -1
    for end, value, state, attributes in (
        (0.5, 0.50, TrialState.COMPLETE, {}),
        (1 / 3, 0.99, TrialState.PRUNED, {}),
        (0.75, 0.60, TrialState.COMPLETE, {}),
        (0.1, 0.40, TrialState.COMPLETE, {}),
        (0.2, 0.0, TrialState.FAIL, {}),
        (0.75, 0.60, TrialState.COMPLETE, {REPEATS: 2}),
    ):
        if cost and state == TrialState.PRUNED:
            state = TrialState.FAIL
        study.add_trial(
            optuna.trial.create_trial(
                params={"Ramp.end": end, "Ramp.shape": "it's"},
                distributions=space,
                values=[sign * value, *([1e9 * end] if cost else [])] if state == TrialState.COMPLETE else None,
                state=state,
                user_attrs=attributes,
                intermediate_values={20: sign * 0.9, 40: sign * 0.99} if state == TrialState.PRUNED else {},
            )
        )
    return study


def test_the_table_ranks_complete_trials_alone() -> None:
    table = trial_table(search(), METRIC)
    assert table.columns == ["trial", "state", "Ramp.end", "Ramp.shape", METRIC]
    assert table.rows() == [
        ["2", "best", "0.75", "it's", "60.00 %"],
        ["0", "complete", "0.5", "it's", "50.00 %"],
        ["3", "complete", "0.1", "it's", "40.00 %"],
        ["1", "pruned after step 40", "0.3333", "it's", ""],
        ["4", "failed", "0.2", "it's", ""],
    ]


def test_where_less_is_better_the_least_stands_first() -> None:
    study = search("minimize")
    assert [trial.number for trial in trial_table(study, "anything").trials] == [2, 0, 3, 1, 4]
    assert [trial.number for trial in best_of(study)] == [2]


def test_a_front_stands_first_by_its_cost() -> None:
    table = trial_table(search(cost=True), METRIC)
    assert [row[:2] for row in table.rows()] == [
        ["3", "front"],
        ["0", "front"],
        ["2", "front"],
        ["1", "failed"],
        ["4", "failed"],
    ]
    assert table.rows()[0][-2:] == ["40.00 %", "1e+08"]
    assert len(best_sentences(search(cost=True), METRIC)) == 6


def test_the_best_setting_in_words_and_as_bindings() -> None:
    words, bindings = best_sentences(search(), METRIC)
    assert words == (
        f"best setting, of 3 complete trials: trial 2, {METRIC} 60.00 %; Ramp.end is 0.75 and Ramp.shape is it's"
    )
    # As a shell reads it, it is what `hpm pretrain` takes.
    given = shlex.split(bindings.removeprefix("as bindings: "))
    assert given == ["-b", "Ramp.end = 0.75", "-b", """Ramp.shape = "it's\""""]


def test_a_search_without_a_complete_trial_has_no_best_setting() -> None:
    study = optuna.create_study()
    assert best_of(study) == []
    assert best_sentences(study, METRIC) == []
    assert trial_table(study, METRIC).rows() == []


def test_terminal_page_and_markdown_show_the_table(
    comparison: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = search()
    give_identity(study, {"kind": "search", "space": {"Ramp.end": "Float(0, 1)"}, "config": "Ramp.end = 0.5"})
    report, results, *_ = write_files(
        [comparison], tmp_path, runs=comparison.results, command="c", study=study, best="Ramp.end = 0.7"
    )
    words, bindings = best_sentences(study, comparison.metric)
    page = html.unescape(report.read_text())
    assert f"<p>{words}</p>\n<p>{bindings}</p>" in page
    assert "<tr><td>1</td><td>pruned after step 40</td><td>0.3333</td><td>it's</td><td></td></tr>" in page
    assert "| 1 | pruned after step 40 | 0.3333 | it's |   |\n" in results.read_text()
    table = trial_table(study, METRIC)
    assert results.read_text().endswith(markdown_of_trials(trial_table(study, comparison.metric), [words, bindings]))
    show_trials(Console(width=100), table, most=2)
    printed = capsys.readouterr().out
    assert "60.00 %" in printed
    assert "40.00 %" not in printed
    assert "3 more trials, worse, pruned or failed, stand in the report" in printed


def test_in_a_pipe_each_trial_is_one_line_whatever_the_number_of_parameters() -> None:
    study = optuna.create_study(direction="maximize")
    names = [f"TokenBottleneck.parameter_{number}" for number in range(12)]
    study.add_trial(
        optuna.trial.create_trial(
            params=dict.fromkeys(names, 0.5),
            distributions=dict.fromkeys(names, optuna.distributions.FloatDistribution(0, 1)),
            value=0.5,
        )
    )
    console = make_console(file=io.StringIO())
    show_trials(console, trial_table(study, METRIC))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line for line in lines if all(name in line for name in names)]
    assert [line for line in lines if line.count("0.5") == len(names)]
