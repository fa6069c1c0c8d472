"""`hpm show`: what a configuration comes to, for a person, for grep and as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Hpm = Callable[..., int]


@pytest.fixture
def show(hpm: Hpm, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: object) -> str:
        capsys.readouterr()
        assert hpm("show", *words) == 0
        return capsys.readouterr().out

    return run


def rows(text: str) -> dict[str, list[str]]:
    """The words of each parameter's line."""
    return {line.split()[0]: line.split() for line in text.splitlines() if line.startswith("  ")}


def test_every_parameter_is_a_line(show: Callable[..., str], tiny: Path) -> None:
    (tiny.parent / "a_name_so_long_that_a_terminal_would_wrap_every_line_that_ends_in_it.gin").write_text(
        "include 'tiny.gin'\nPiecewise.points = [(0.0, 0.0), (0.25, 0.125), (0.5, 0.375), (0.75, 0.625), (1.0, 0.875)]"
        "\nCurriculum.scheduler = @Piecewise()\n"
    )
    text = show("a_name_so_long_that_a_terminal_would_wrap_every_line_that_ends_in_it", "-b", "Schedule.epochs = 2")
    found = rows(text)
    assert found["Schedule.epochs"] == ["Schedule.epochs", "2", "200", "-b"]
    assert found["MaskedAutoencoder.img_size"][1:4] == ["16", "224", "%IMG_SIZE,"]
    assert "(1.0, 0.875)]" in " ".join(found["Piecewise.points"])
    assert found["Piecewise.points"][-3:] == [
        "a_name_so_long_that_a_terminal_would_wrap_every_line_that_ends_in_it.gin,",
        "line",
        "2",
    ]
    assert all(line == line.rstrip() for line in text.splitlines())
    assert "Curriculum.scheduler" in next(line for line in text.splitlines() if line.startswith("Piecewise "))


def test_only_what_is_changed(show: Callable[..., str], tiny: Path) -> None:
    whole, changed = rows(show(tiny)), rows(show(tiny, "--changed"))
    assert set(changed) < set(whole)
    assert "Schedule.batch_size" in changed
    assert "Schedule.accumulate" not in changed


def test_json(show: Callable[..., str], tiny: Path) -> None:
    found: list[dict[str, Any]] = json.loads(show(tiny, "--json"))
    by_name = {entry["parameter"]: entry for entry in found}
    assert by_name["Schedule.batch_size"]["value"] == 16
    assert by_name["RandomResizedCrop.scale"]["value"] == [0.5, 1.0]
    assert by_name["Curriculum.scheduler"] == {
        "parameter": "Curriculum.scheduler",
        "part": "Curriculum",
        "used_as": ["Method.curriculum"],
        "in_training": True,
        "required": True,
        "value": "@Ramp()",
        "default": None,
        "changed": True,
        "set_in": by_name["Curriculum.scheduler"]["set_in"],
        "macros": [],
    }
    assert by_name["Curriculum.scheduler"]["set_in"].startswith("curricula/hpm_easy_to_hard.gin, line")
    assert by_name["Schedule.accumulate"]["set_in"] is None
    kept = {entry["parameter"] for entry in json.loads(show(tiny, "--json", "--changed"))}
    assert kept == {entry["parameter"] for entry in found if entry["changed"]}


def test_a_run_is_shown_by_its_folder_and_by_its_config(hpm: Hpm, show: Callable[..., str], tiny: Path) -> None:
    run = tiny.with_name("run")
    assert hpm("pretrain", tiny, "--output", run, "-b", "Schedule.epochs = 2") == 0
    assert rows(show(run)) == rows(show(run / "config.gin"))
    assert rows(show(run))["Schedule.epochs"][1:3] == ["2", "200"]
    assert rows(show(run, "-b", "Schedule.epochs = 9"))["Schedule.epochs"][1:] == ["9", "200", "-b"]


def test_mistakes_are_refused_as_everywhere(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in [
        (("shwo",), "no config file 'shwo'"),
        ((tiny, "-b", "Ramp.ende = 1"), "Did you mean Ramp.end?"),
    ]:
        assert hpm("show", *words) == 2
        assert told in capsys.readouterr().err


def test_a_config_of_a_study_is_refused() -> None:
    """In a fresh process: one that has imported `studies` knows its parts."""
    words = [sys.executable, "-m", "hpm", "show", "ablations/zoo"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Ablation is a part of studies alone; the config is one for `hpm-study ablate`" in done.stderr
