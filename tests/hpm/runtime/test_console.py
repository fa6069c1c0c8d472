"""What is printed is what was said, whatever names are in it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from hpm.runtime.console import make_console

Hpm = Callable[..., int]
NAMES = ["[/nope]", "[red]r[/red]", "[bold", ":smile:", "a" * 200, "[link=file:///x]y[/link]"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(name: str) -> None:
    text = io.StringIO()
    make_console(file=text).print(f"run folder: {name}", style="yellow")
    assert text.getvalue() == f"run folder: {name}\n"


@pytest.mark.parametrize("name", NAMES[:-2])
def test_names_in_tables_too(name: str) -> None:
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    text = io.StringIO()
    make_console(file=text, width=100).print(table)
    assert text.getvalue().count(name) == 3


def test_a_pipe_has_room_for_every_column_unless_it_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console(file=io.StringIO()).width == 140
    monkeypatch.setenv("COLUMNS", "70")
    assert make_console(file=io.StringIO()).width == 70


def test_a_run_whose_folder_looks_like_markup(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("[red]", "[", "nope]")
    assert hpm("pretrain", tiny, "-b", "Monitoring.evaluations = []", "--output", folder) == 0
    assert f"metrics:  {folder}/metrics.jsonl and {folder}/summary.json" in capsys.readouterr().out
    assert hpm("pretrain", "--resume", "--output", folder) == 0
    assert f"the run in {folder} is complete" in capsys.readouterr().out
