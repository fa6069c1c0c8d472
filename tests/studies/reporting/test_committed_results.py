"""The tables on the pages of committed results are what `hpm-study compare` makes of the committed CSV.

They stand below the commands that make them.
"""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest

from studies.analysis.comparison import compare_metrics
from studies.commands._sources import load_sources
from studies.execution.options import DEFAULT_STORAGE
from studies.reporting.tables import markdown

ROOT = Path(__file__).parents[3]
STUDIES = sorted(path.parent.name for path in (ROOT / "docs" / "results").glob("*/results.csv"))
_COMMAND = re.compile(r"^hpm-study compare (docs/results/(?:[^\n\\]|\\\n)+)", re.MULTILINE)


def _commands(page: str) -> list[list[str]]:
    """The words of every comparison of committed results whose table the page shows."""
    return [shlex.split(command.replace("\\\n", " ")) for command in _COMMAND.findall(page)]


def _table(words: list[str]) -> str:
    def values(option: str) -> list[str]:
        return [words[place + 1] for place, word in enumerate(words) if word == option]

    files = list(itertools.takewhile(lambda word: not word.startswith("--"), words))
    sources = load_sources([str(ROOT / file) for file in files], DEFAULT_STORAGE)
    metrics = dict.fromkeys(values("--metric"), "maximize")
    return markdown(compare_metrics(sources.results, metrics, against=sources.baseline(values("--against")[0])))


@pytest.mark.parametrize("study", STUDIES)
def test_pages_are_made_of_the_results(study: str) -> None:
    folder = ROOT / "docs" / "results" / study
    page = (folder / "README.md").read_text()
    commands = _commands(page)
    (written,) = [words for words in commands if "--output" in words]
    assert written[written.index("--output") + 1] == f"docs/results/{study}"
    assert (folder / "results.md").read_text() == _table(written)
    for words in commands:
        for line in _table(words).splitlines():
            if line.startswith("| ") or (words is written and line.startswith(("Are all", "Least detectable"))):
                assert line in page, f"{' '.join(words)}: {line}"
