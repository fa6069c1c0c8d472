"""`compare` and `power` on the committed results, whose runs are gone."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from studies.cli import main

ZOO = Path(__file__).parents[3] / "docs" / "results" / "zoo" / "results.csv"
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


def test_seeds_for_a_question(output: Output) -> None:
    """Of a standard deviation of 0.76 points, 0.4 points take dozens of seeds; fewer for fewer variants."""
    words = ("power", ZOO, "--metric", "linear/pretrained", "--against", "random", "--effect", 0.4)

    def seeds(*more: object) -> int:
        text = output(*words, *more)
        assert "sd of a difference, points" in text
        return int(re.search(r"blocked [^\n]* to [^\n]*?│ +(\d+) │", text)[1])

    many, few, surer = seeds(), seeds("--variants", 2), seeds("--power", 0.95)
    assert 30 <= few < many < surer <= 120
