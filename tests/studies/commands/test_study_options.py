"""The options of a study: the same for every command and every worker."""

from __future__ import annotations

import inspect
from pathlib import Path

from studies.commands import ablate, search
from studies.execution.options import StudyOptions


def test_commands_have_every_option_once() -> None:
    options = list(inspect.signature(StudyOptions).parameters)
    assert list(inspect.signature(ablate.command).parameters) == options
    assert set(inspect.signature(search.command).parameters) == {*options, "trials"}


def test_workers_get_what_was_given() -> None:
    given = StudyOptions(configs=["my.gin"], bindings=["a.b = 1"], output=Path("x"), timeout=2.5, workers=3)
    assert StudyOptions.from_json(given.to_json()) == given
    plain = StudyOptions(configs=["studies/my.gin"])
    assert StudyOptions.from_json(plain.to_json()) == plain
    assert (plain.name, plain.folder) == ("my", Path("runs/my"))
    assert (given.folder, StudyOptions(configs=["my.gin"], study="s").name) == (Path("x"), "s")
