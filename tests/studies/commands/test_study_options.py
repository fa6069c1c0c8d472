"""The options of a study: the same for every command and every worker."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest

from hpm.errors import UserError
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"study": "../out"}, "--study ../out names a folder within runs/"),
        ({"study": "/out"}, "--study /out names a folder"),
        ({"study": "a" * 201}, "give a short name"),
        ({"timeout": math.nan}, "--timeout nan must be a number, 0 or more"),
        ({"timeout": -5.0}, "--timeout -5.0 must be"),
        ({"poll": math.inf}, "--poll inf must be"),
        ({"retries": -1}, "--retries -1 must be 0 to 1,000"),
        ({"retries": 10**30}, "must be 0 to 1,000"),
        ({"workers": 0}, "--workers 0 must be 1 to 1,024"),
        ({"workers": 5000}, "--workers 5000 must be 1 to 1,024"),
        ({"processes": 1025}, "--processes 1025 must be 1 to 1,024"),
        ({"heartbeat": 10**30, "grace": 10**31}, "must be 1 to 1,000,000"),
        ({"grace": 10**30}, "must be 1 to 1,000,000"),
        ({"heartbeat": 60, "grace": 60}, "--grace 60 must be more than --heartbeat 60"),
        ({"output": Path(__file__)}, "is a file; name a folder"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        StudyOptions(configs=["my.gin"], **options).check()


def test_takes() -> None:
    StudyOptions(configs=["my.gin"], study="a/my study", timeout=0.0, retries=0).check()
