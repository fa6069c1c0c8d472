"""The pages of committed results are what `hpm-study compare` makes of their results.csv."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from studies.analysis.comparison import compare_metrics
from studies.analysis.results_csv import csv_results
from studies.reporting.tables import markdown

RESULTS = Path(__file__).parents[3] / "docs" / "results"
STUDIES = sorted(path.parent.name for path in RESULTS.glob("*/results.csv"))


@pytest.mark.parametrize("study", STUDIES)
def test_pages_are_made_of_the_results(study: str) -> None:
    page = (RESULTS / study / "README.md").read_text()
    (command,) = re.findall(r"hpm-study (compare docs/results/\S+ .*? --output docs/results/\S+)\n", page, re.DOTALL)
    words = shlex.split(command.replace("\\\n", " "))
    metrics = [words[place + 1] for place, word in enumerate(words) if word == "--metric"]
    made = markdown(
        compare_metrics(
            csv_results(RESULTS / study / "results.csv"),
            dict.fromkeys(metrics, "maximize"),
            against=words[words.index("--against") + 1],
        )
    )
    assert (RESULTS / study / "results.md").read_text() == made
    for line in made.splitlines():
        if line.startswith(("| ", "Are all", "Least detectable")):
            assert line in page, line
