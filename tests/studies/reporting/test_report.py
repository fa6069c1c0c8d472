"""Figures, and the page that holds everything."""

from __future__ import annotations

import html
import json
import os
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import optuna
import pytest
from made_results import HARD, RANDOM, results
from matplotlib.figure import Figure
from PIL import Image

from hpm.errors import UserError
from hpm.visualization import style
from studies.analysis.comparison import Comparison, compare
from studies.analysis.results import Result
from studies.analysis.statistics import Estimate
from studies.analysis.units import display_unit
from studies.definition.identity import give_identity
from studies.reporting.figures import draw_comparison, draw_search
from studies.reporting.files import check_report, check_study_folder, write_files
from studies.reporting.report import write_report

ROOT = Path(__file__).parents[3]


@pytest.fixture
def measured(comparison: Comparison, tmp_path: Path) -> Comparison:
    """The comparison of runs that have metrics on disk."""
    with_folders = []
    for number, result in enumerate(comparison.results):
        folder = tmp_path / str(number)
        folder.mkdir()
        rows = [
            {"step": step, "kind": kind, "epoch": step / 10, "alpha": step / 40, "ridge/pretrained": 0.1 * step}
            for step, kind in ((10, "train"), (15, "probe"), (20, "train"), (25, "probe"))
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with_folders.append(Result(**{**vars(result), "folder": folder}))
    return compare(with_folders, "low_shot/pretrained", against="random")


def test_pictures_and_report(measured: Comparison, tmp_path: Path) -> None:
    """The page needs nothing beside itself."""
    figures = draw_comparison(measured, tmp_path / "figures")
    assert [path.name for path in figures] == ["differences.png", "training.png", "alpha.png", "compute.png"]
    for path in figures:
        with Image.open(path) as image:
            assert image.size[0] > 900
    page = write_report(
        tmp_path / "report.html",
        [measured],
        figures,
        heading="a <study>",
        command="hpm-study ablate x",
        identity={"kind": "x"},
    ).read_text()
    assert "a &lt;study&gt;" in page
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=\"(?!data:)", page)


class Page(HTMLParser):
    """A page as a browser reads it: its elements, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: object) -> None:
        self.tags.append(tag)

    def handle_data(self, text: str) -> None:
        self.texts.append(text.strip())


EVIL = "<script>alert('x')</script> & \"y\""


def test_the_page_escapes_everything(tmp_path: Path) -> None:
    runs = results("random", RANDOM[:2], data=EVIL) + results("b", HARD[:2], data="other")
    (tmp_path / "<b>.png").write_bytes(b"")
    page = write_report(
        tmp_path / "report.html",
        [compare(runs, "low_shot/pretrained")],
        [tmp_path / "<b>.png"],
        heading=f"{EVIL} title",
        command=f"{EVIL} command",
        identity={"metric": f"{EVIL} metric", "variants": {f"{EVIL} variant": f"{EVIL} config"}},
        best=f"{EVIL} best",
    )
    text = page.read_text()
    read = Page(text)
    assert "script" not in read.tags
    assert "b" not in read.tags
    for what in ("title", "command", "variant", "config", "best"):
        assert f"{EVIL} {what}" in read.texts
        assert f"{EVIL} {what}" not in text
    assert f"Warning: data differ: {EVIL}, other." in read.texts
    assert json.loads(next(found for found in read.texts if "metric" in found and found.startswith("{"))) == {
        "metric": f"{EVIL} metric"
    }
    assert "<b>" in read.texts


def test_names_are_drawn_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as formulas, which most would be wrong ones, nor left out of the legend."""
    drawn: list[Figure] = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda figure, path: drawn.append(figure) or save(figure, path))
    names = ["$_$", "_b", "lr$1$^"]
    runs = [run for name, values in zip(names, (RANDOM, HARD, HARD), strict=True) for run in results(name, values)]
    draw_comparison(compare(runs, "low_shot/pretrained"), tmp_path)
    (legend,) = [axis.get_legend() for figure in drawn for axis in figure.axes if axis.get_legend() is not None]
    shown = {text.get_text().removeprefix("\N{ZERO WIDTH SPACE}").replace("\\", "") for text in legend.get_texts()}
    assert shown == set(names)
    assert style.plain(b"\xff".decode("utf-8", "surrogateescape")) == r"\udcff"


def test_the_page_shows_every_cell(comparison: Comparison, tmp_path: Path) -> None:
    text = write_report(tmp_path / "report.html", [comparison], [], heading="t", command="c").read_text()
    read = Page(text)
    for cell in ("variant", "p blocked", "p paired", "hard", "random", "baseline", "1,000", "1.00e+12"):
        assert cell in read.texts
    assert text.count('<tr class="significant">') == 1
    assert read.tags.count("tr") == 3
    assert not {"Best setting", "Definition"} & set(read.texts)
    assert html.unescape(text).count("±") > 3


def test_the_template_lies_in_the_package() -> None:
    assert (resources.files("studies.reporting") / "report.html.j2").is_file()


def search(directions: list[str]) -> optuna.Study:
    """A search of eight trials in two parameters, one of them pruned."""
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_metric_names(["ridge/pretrained", "flops"][: len(directions)])
    for number in range(8):
        trial = study.ask()
        value = trial.suggest_float("Ramp.end", 0, 1)
        trial.suggest_categorical("Ramp.shape", ["linear", "root"])
        if number == 5 and len(directions) == 1:
            trial.report(value, 0)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, [value, 1 - value][: len(directions)])
    return study


@pytest.mark.parametrize(
    ("directions", "last"), [(["maximize"], "parallel.png"), (["maximize", "minimize"], "pareto.png")]
)
def test_pictures_of_a_search(directions: list[str], last: str, tmp_path: Path) -> None:
    paths = draw_search(search(directions), "ridge/pretrained", tmp_path / "figures")
    assert [path.name for path in paths[:3]] == ["history.png", "importance.png", "parallel.png"]
    assert paths[-1].name == last
    assert all(path.stat().st_size > 5000 for path in paths)


@pytest.mark.parametrize(("direction", "edge"), [("maximize", 0.0), ("minimize", 1.0)])
def test_what_was_pruned_is_marked_off_the_axis_of_the_objective(
    direction: str, edge: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe's value is another metric's: here a hundred times as good as the best trial."""
    figures: list[Figure] = []
    save = style.save
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    study = search([direction])
    for step, value in enumerate((100.0, -100.0)):
        trial = study.ask()
        trial.suggest_float("Ramp.end", 0, 1)
        trial.report(value, step)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    draw_search(study, "ridge/pretrained", tmp_path / "figures")
    axis = figures[0].axes[0]
    low, high = axis.get_ylim()
    assert -10 < low < high < 110  # percent
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines["pruned"].get_xdata()) == [5, 8, 9]
    assert set(lines["pruned"].get_ydata()) == {edge}
    assert lines["pruned"].get_transform() == axis.get_xaxis_transform()
    for figure in figures[1:]:  # no other figure shows them
        shown = [value for line in figure.axes[0].lines for value in line.get_ydata()]
        assert all(-1 <= value <= 1 for value in shown)


def test_a_search_has_its_own_figures_on_the_page(comparison: Comparison, tmp_path: Path) -> None:
    study = search(["maximize"])
    give_identity(study, {"kind": "search", "space": {"Ramp.end": "Float(0, 1)"}, "config": "Ramp.end = 0.5"})
    report, *others = write_files(
        [comparison], tmp_path / "out", runs=comparison.results, command="c", study=study, best="Ramp.end = 0.7"
    )
    assert [path.name for path in others[:2]] == ["results.md", "results.csv"]
    assert [path.name for path in others[2:6]] == ["history.png", "importance.png", "parallel.png", "differences.png"]
    read = Page(report.read_text())
    assert {"Best setting", "Ramp.end = 0.7", "base configuration", "Ramp.end = 0.5"} <= set(read.texts)


def test_an_interval_ends_where_values_do() -> None:
    percent = display_unit("ridge/pretrained")
    assert percent.interval(Estimate(98.0, 5.0, 3)) == (93.0, 100.0)
    assert percent.interval(Estimate(1.0, 5.0, 3)) == (0.0, 6.0)
    assert display_unit("anything").interval(Estimate(1.0, 5.0, 3)) == (-4.0, 6.0)


@pytest.mark.parametrize("place", ["", "figures", "report.html", "results.csv"])
def test_a_report_replaces_nothing_but_files(comparison: Comparison, tmp_path: Path, place: str) -> None:
    """What is in the way is found before the results are even read."""
    folder = tmp_path / "report"
    if place:
        folder.mkdir()
    os.mkfifo(folder / place)
    with pytest.raises(UserError, match=r"is a pipe; name a f"):
        check_report("--output", folder)
    (folder / place).unlink()
    check_report("--output", folder)


def test_only_what_a_comparison_wrote_is_replaced(comparison: Comparison, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "runs.csv").write_text("mine")
    check_report("--output", tmp_path)
    write_files([comparison], tmp_path, runs=comparison.results, command="hpm-study")
    check_report("--output", tmp_path)
    for name in ("report.html", "results.md", "results.csv"):
        ours = (tmp_path / name).read_text()
        (tmp_path / name).write_text("mine")
        with pytest.raises(UserError, match=rf"--output would replace .*/{name}, which no study and no comparison"):
            check_report("--output", tmp_path)
        (tmp_path / name).write_text(ours)
    (tmp_path / "report.html").unlink()
    with pytest.raises(UserError, match=r"--output would replace .*/figures, which"):
        check_report("--output", tmp_path)
    for folder in sorted((ROOT / "docs" / "results").iterdir()):
        check_report("--output", folder)


@pytest.mark.parametrize(
    ("files", "new", "going_on"),
    [
        ([], True, True),
        (["train/cat.png"], False, False),
        (["report.html"], False, False),
        (["logs/server.log"], False, False),
        ([".DS_Store"], True, True),
        (["logs/a-seed0.txt"], True, True),
        (["a-seed0/config.gin", "a-seed0/run.json", "notes.md"], True, True),
        (["a-seed0/config.gin", "a-seed0/run.json", "best.gin"], False, True),
        (["a-seed0/config.gin"], False, False),
    ],
)
def test_the_folder_of_a_study(files: list[str], new: bool, going_on: bool, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    for is_new, fine in ((True, new), (False, going_on)):
        if fine:
            check_study_folder("--output", tmp_path, is_new=is_new)
        else:
            with pytest.raises(UserError, match=r"--output (would replace|.* is not empty, and holds nothing)"):
                check_study_folder("--output", tmp_path, is_new=is_new)


def test_a_folder_that_a_study_left(comparison: Comparison, tmp_path: Path) -> None:
    write_files([comparison], tmp_path, runs=comparison.results, command="hpm-study")
    (tmp_path / "best.gin").write_text("# Trial 3 of study s: m 0.5.\n")
    for is_new in (True, False):
        check_study_folder("--output", tmp_path, is_new=is_new)
