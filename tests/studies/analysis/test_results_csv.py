"""What is written as CSV is read again."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from made_results import HARD, RANDOM, results

from hpm.errors import UserError
from studies.analysis.comparison import compare
from studies.analysis.results_csv import csv_results, csv_text

RESULTS = Path(__file__).parents[3] / "docs" / "results"

# What a benchmark wrote, and what `hpm evaluate` said of the masks of one run of each variant.
OF_NO_STUDY = ("stamp_scenes/tasks.csv", "zoo/masks_stamp_scenes_seed0.csv")
OF_STUDIES = [
    path for path in sorted(RESULTS.glob("*/*.csv")) if path.relative_to(RESULTS).as_posix() not in OF_NO_STUDY
]


@pytest.mark.parametrize("path", OF_STUDIES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_committed_results_are_the_same_after_a_round_trip(path: Path) -> None:
    assert csv_text(csv_results(path)) == path.read_text()


def test_parameters_and_scored_images_come_back(tmp_path: Path) -> None:
    parameters = {"Ramp.end": "0.5", "ratio/Ramp.end": "0.1", "a/b/hpm.Ramp.end": "0.2", "ALPHA": "1"}
    runs = results("random", RANDOM, parameters=parameters, config="ab") + results("hard", HARD)
    runs[0] = replace(
        runs[0],
        metrics={
            "low_shot/pretrained": 0.5,
            "low_shot/pretrained/epochs": 118,
            "few/fraction0.1": 0.2,
            "few/0.1": 0.3,
            "finetune/top1.acc": 0.4,
        },
    )
    runs[1] = replace(runs[1], skipped_steps=0, fingerprints={"training": "0123", "test": "12e4"})
    runs[2] = replace(runs[2], skipped_steps=20, fingerprints={"training": "0123 4567", "validation": "89"})
    path = tmp_path / "results.csv"
    path.write_text(csv_text(runs))
    read = csv_results(path)
    assert [vars(run) for run in read] == [vars(run) for run in runs]
    assert csv_text(read) == path.read_text()


@pytest.mark.parametrize("name", ["=1+2", "+a", "-a", "@a", "'=1", "'", "''", "a=b"])
def test_no_name_becomes_a_formula_in_a_spreadsheet(tmp_path: Path, name: str) -> None:
    runs = results(name, RANDOM, source=name, parameters={"Ramp.shape": name, "Ramp.end": "-0.5"})
    path = tmp_path / "results.csv"
    path.write_text(csv_text(runs))
    assert [vars(run) for run in csv_results(path)] == [vars(run) for run in runs]
    (row, *_) = csv.DictReader(path.open())
    assert all(row[column][:1] not in ("=", "+", "-", "@") for column in ("source", "variant", "Ramp.shape"))
    assert row["Ramp.end"] == "-0.5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot be read as a results.csv of a study: .*No such file"),
        ("", "it has no column 'source'"),
        ("a,b\n1,2\n", "it has no column 'source'"),
        ("source,variant,seed,data,device,commit\ns,a,x,d,e,c\n", "line 2: seed = 'x' must be a whole number"),
        ("source,variant,seed,data,device,commit,k/p\ns,a,0,d,e,c,much\n", "line 2: k/p = 'much' is no number"),
        ("source,variant,seed,data,device,commit,k/p\ns,a,0,d,e,c,0.5\ns,a,1,d,e,c,0.2", "line 3: the line has no end"),
        ("source,variant,seed,data,device,commit,k/p,l/p\ns,a,0,d,e,c,0.5\n", "line 2: there is no l/p; the line is"),
        ("source,variant,seed,data,device,commit,k/p\ns,a,0,d,e,c,0,5\n", "line 2: it has more cells than there are"),
        ("source,variant,seed,data,device,commit,k/p,k/p\ns,a,0,d,e,c,0.5,0.6\n", "has the column 'k/p' twice"),
        ('source,variant,seed,data,device,commit,k/p\ns,"a\n', "unexpected end of data"),
    ],
)
def test_what_is_no_results_file(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "results.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=expected):
        csv_results(path)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("seed", "1.5", "line 2: seed = '1.5' must be a whole number of 64 bits$"),
        ("seed", "9" * 500, "line 2: seed = '9+' must be a whole number of 64 bits"),
        ("scored_images:low_shot/pretrained", "0", "= '0' must be a whole number of 64 bits, 1 or more"),
        ("skipped_steps", "-1", "line 2: skipped_steps = '-1' must be a whole number of 64 bits, 0 or more"),
        ("images", "-3", "line 2: images = '-3' must be at least 0"),
        (
            "low_shot/pretrained",
            "1.01",
            "line 2: low_shot/pretrained = 1.01 must be from 0 to 1",
        ),
    ],
)
def test_a_cell_that_cannot_be_is_named(tmp_path: Path, column: str, value: str, expected: str) -> None:
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as file:
        rows = list(
            csv.DictReader(csv_text([replace(run, skipped_steps=0) for run in results("a", RANDOM)]).splitlines())
        )
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows([rows[0] | {column: value}, *rows[1:]])
    with pytest.raises(UserError, match=expected):
        csv_results(path)


def test_a_cost_beyond_all_is_left_out_of_means(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(csv_text([replace(run, cost={"images": 10**400}) for run in results("a", RANDOM)]))
    (row,) = compare(csv_results(path), "low_shot/pretrained").rows
    assert row.cost == {}


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_lines_may_end_as_spreadsheets_end_them(tmp_path: Path, end: str) -> None:
    path = tmp_path / "results.csv"
    text = csv_text(results("a", RANDOM))
    path.write_text(text.replace("\n", ",,\n").replace("\n", end), newline="")
    assert csv_text(csv_results(path)) == text


@pytest.mark.parametrize("scale", [1e-50, 1e-20, 1e49])
def test_figures_of_any_size_that_is_taken_are_compared(scale: float) -> None:
    """Tests square variances."""
    sizes = [[scale * value for value in values] for values in (RANDOM, RANDOM[::-1], HARD)]
    runs = [run for name, values in zip("abc", sizes, strict=True) for run in results(name, values)]
    rows = compare(runs, "low_shot/pretrained").rows
    assert max(row.estimate.mean for row in rows) == pytest.approx(scale * max(sum(RANDOM), sum(HARD)) / 5)
