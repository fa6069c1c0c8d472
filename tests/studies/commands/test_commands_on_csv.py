"""`compare` and `power` on the committed results, whose runs are gone."""

from __future__ import annotations

import html
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from hpm.errors import UserError
from studies.analysis.results import RESULTS
from studies.analysis.results_csv import csv_results
from studies.cli import main
from studies.commands._sources import load_sources
from studies.definition.identity import give_identity
from studies.execution.storage import open_storage

ZOO = Path(__file__).parents[3] / "docs" / "results" / "zoo_small" / "results.csv"
Output = Callable[..., str]


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Output:
    """`hpm-study` in this process, in an empty folder; what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["hpm-study", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert not stopped.value.code, printed.err
        return printed.out

    return run


def test_a_pipe_gets_every_column(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    heads = output("compare", ZOO, "--metric", "linear/pretrained", "--against", "random").splitlines()[2]
    assert "p paired" in heads
    assert "seconds" in heads
    monkeypatch.setenv("COLUMNS", "80")
    assert "seconds" not in output("compare", ZOO, "--metric", "linear/pretrained", "--against", "random")


BOTH = ("--metric", "linear/pretrained", "--metric", "knn/pretrained", "--against", "random")


def test_a_table_for_each_metric_and_one_report(output: Output) -> None:
    text = output("compare", ZOO, *BOTH, "--equivalent-within", 2, "--output", "out")
    for expected in (
        "linear/pretrained, %, against random",
        "knn/pretrained, %, against random",
        "within ±2",
        "F(11, 44) = 3.94",
        "F(11, 44) = 13.62",
        "at 0.05/22, the strictest corrected level",
    ):
        assert expected in text, expected
    markdown = Path("out/results.md").read_text()
    assert markdown.count("Least detectable effect in points") == 2
    assert "Holm's correction over 22 tests of all 2 tables" in markdown
    assert Path("out/results.csv").read_text() == ZOO.read_text()
    assert {path.name for path in Path("out/figures").iterdir()} == {
        "differences.png",
        "differences-knn-pretrained.png",
        "compute.png",
    }
    page = Path("out/report.html").read_text()
    assert page.count("Least detectable effect in points") == 2
    assert f"hpm-study compare {ZOO} --metric linear/pretrained --metric knn/pretrained" in page
    assert page.count("<table>") == 2


def test_the_printed_csv_is_the_file(output: Output) -> None:
    assert output("compare", ZOO, *BOTH, "--csv") == ZOO.read_text()


def csv_file(path: str, rows: list[tuple[object, ...]], *, images: object = 100) -> str:
    """A results.csv of the runs (variant, seed, linear/pretrained, knn/pretrained)."""
    lines = ["source,variant,seed,data,device,commit,images,linear/pretrained,knn/pretrained"]
    lines += [f"mine,{variant},{seed},D,cpu,x,{images},{linear},{knn}" for variant, seed, linear, knn in rows]
    Path(path).write_text("\n".join(lines) + "\n")
    return path


def test_every_run_is_printed_and_kept(output: Output) -> None:
    """Also those that lack the first metric, or both."""
    rows = [("a", 0, 0.5, 0.25), ("a", 1, "", 0.5), ("b", 0, 0.625, ""), ("b", 1, "", ""), ("b", 2, 0.75, 0.75)]
    path = csv_file("mine.csv", rows)
    text = output("compare", path, "--metric", "linear/pretrained", "--metric", "knn/pretrained", "--csv")
    assert [line.split(",")[1:3] for line in text.splitlines()[1:]] == [[name, str(seed)] for name, seed, *_ in rows]
    output("compare", path, "--metric", "linear/pretrained", "--metric", "knn/pretrained", "--output", "out")
    assert Path("out/results.csv").read_text() == text


def test_the_first_with_complete_runs_says_what_is_compared(output: Output) -> None:
    """A study that has none yet is named, and its baseline is looked for nowhere."""
    url = "sqlite:///studies.db"
    storage = open_storage(url)
    for name, baseline in (("early", "own"), ("done", "random")):
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        give_identity(
            study, {"kind": "ablation", "metric": "knn/pretrained", "direction": "maximize", "baseline": baseline}
        )
    kept = [
        {
            "variant": variant,
            "seed": 0,
            "metrics": {"knn/pretrained": value},
            "folder": "none",
            "cost": {},
            "data": "D",
            "device": "cpu",
            "commit": "x",
        }
        for variant, value in (("hard", 0.5), ("random", 0.25))
    ]
    study.add_trial(optuna.create_trial(value=0.5, user_attrs={RESULTS: kept}))
    path = csv_file("mine.csv", [("a", 0, 0.5, 0.25)])
    text = output("compare", "early", "done", path, "--storage", url)
    assert "early: no run is complete yet; left out" in text
    assert "knn/pretrained, %, against done/random" in text
    told = output("compare", "early", "done", "--storage", url, "--output", "out")
    assert "knn/pretrained, %, against random" in told
    assert f"--storage {url} --output out</pre>" in Path("out/report.html").read_text()


def test_a_baseline_that_has_no_complete_run_yet(output: Output) -> None:
    """As a study is left whose time ended before the baseline's first run did."""
    storage = open_storage("sqlite:///studies.db")
    for name in ("one", "two"):
        study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
        identity = {"kind": "ablation", "metric": "knn/pretrained", "direction": "maximize", "baseline": "random"}
        give_identity(study, {**identity, "variants": {"hard": "", "random": ""}})
        run = {"variant": "hard", "seed": 0, "metrics": {"knn/pretrained": 0.5}, "folder": "none", "cost": {}}
        kept = [{**run, "data": "D", "device": "cpu", "commit": "x"}]
        study.add_trial(optuna.create_trial(value=0.5, user_attrs={RESULTS: kept}))
    for names, baseline in ((["one"], "random"), (["one", "two"], "one/random")):
        text = " ".join(output("compare", *names, "--storage", "sqlite:///studies.db").split())
        assert f"no complete run of the baseline {baseline} has knn/pretrained yet" in text
        assert "no baseline yet" in text


def spread(variant: str, seeds: int, *, step: float = 0.01) -> list[tuple[object, ...]]:
    """Runs whose values differ from seed to seed, and otherwise for each variant."""
    place = sum(map(ord, variant))
    return [(variant, seed, 0.5 + step * ((7 * seed + place * (seed + 1)) % 11), 0.5) for seed in range(seeds)]


CROWD = [run for number in range(200) for run in spread(f"v{number:03}", 3)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("a", 0, 0.5, "")], "Least detectable effect: not known"),
        (spread("a", 5), "Least detectable effect: not known"),
        ([run for name in "abc" for run in spread(name, 1)], "(1 pair)"),
        ([run for name in "ab" for run in spread(name, 2)], "(2 pairs)"),
        ([run for name in "abc" for run in spread(name, 4, step=0.0)], "they scatter too little"),
        (
            [*spread("a", 4), *spread("b", 3), ("b", 3, "nan", 0.5)],
            "is not finite, or is beyond 1e50, in b seed 3; left out",
        ),
        (CROWD, "Are all 200 variants equal?"),
    ],
    ids=["a run", "a variant", "a seed", "two seeds", "equal values", "not a number", "a crowd"],
)
@pytest.mark.filterwarnings("error::UserWarning")
def test_tables_that_say_little(output: Output, rows: list[tuple[object, ...]], expected: str) -> None:
    path = csv_file("mine.csv", rows)
    assert expected in output("compare", path, "--metric", "linear/pretrained", "--output", "out")
    assert Path("out/report.html").exists()


def test_a_cost_that_is_no_number_is_not_known(output: Output) -> None:
    path = csv_file("mine.csv", [*spread("a", 3), *spread("b", 3)], images="nan")
    assert "nan" not in output("compare", path, "--metric", "linear/pretrained", "--markdown")


def test_the_command_of_a_report_makes_it_again(output: Output) -> None:
    """Where the first variant lacks the second metric, each table has a baseline of its own."""
    rows = [*((*run[:3], "") for run in spread("a", 3)), *spread("b", 3), *spread("c", 3)]
    path = csv_file("mine.csv", rows)
    output("compare", path, "--metric", "linear/pretrained", "--metric", "knn/pretrained", "--output", "out")
    before = Path("out/report.html").read_text()
    command = html.unescape(re.search(r"hpm-study (compare [^<]*)", before)[1])
    output(*shlex.split(command))
    assert Path("out/results.md").read_text().count("against") == 2


def test_a_spreadsheets_file_and_a_line_that_is_too_short(output: Output) -> None:
    path = Path(csv_file("mine.csv", [*spread("a", 3), *spread("b", 3)]))
    plain = output("compare", path, "--metric", "linear/pretrained", "--csv")
    path.write_text("\ufeff" + path.read_text())
    assert output("compare", path, "--metric", "linear/pretrained", "--csv") == plain
    path.write_text("knn/pretrained,source,variant,seed,data,device,commit\n0.5,mine,a,0\n")
    with pytest.raises(UserError, match=r"mine.csv, line 2: there is no data; the line is too short"):
        csv_results(path)


def test_two_files_with_a_run_of_one_seed_are_refused(output: Output) -> None:
    one, two, more = (
        csv_file(f"{name}.csv", rows)
        for name, rows in (
            ("one", [*spread("a", 3), *spread("b", 3)]),
            ("two", spread("b", 3)),
            ("more", [(name, seed + 3, *others) for name, seed, *others in spread("b", 3)]),
        )
    )
    message = r"one.csv and two.csv both have a run of study mine, b seed 0; name one of them"
    with pytest.raises(UserError, match=message):
        load_sources([one, two], "sqlite:///none.db")
    assert "b" in output("compare", one, more, "--metric", "linear/pretrained")


def test_seeds_for_a_question(output: Output) -> None:
    """Of a standard deviation of 0.76 points, 0.4 points take dozens of seeds; fewer for fewer variants."""
    words = ("power", ZOO, "--metric", "linear/pretrained", "--against", "random", "--effect", 0.4)

    def seeds(*more: object) -> int:
        text = output(*words, *more)
        assert "sd of a difference, points" in text
        return int(re.search(r"blocked [^\n]* to [^\n]*?│ +(\d+) │", text)[1])

    many, few, surer = seeds(), seeds("--variants", 2), seeds("--power", 0.95)
    assert 30 <= few < many < surer <= 120
