"""A study whose database is damaged is named with what is wrong, by whoever reads it or goes on with it."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from two_studies import IDENTITY, search

from hpm.errors import UserError
from studies.analysis.results import RESULTS
from studies.cli import main
from studies.execution.storage import load_study, open_storage, open_storage_to_read, open_study

RUN = {
    "variant": "a",
    "seed": 0,
    "metrics": {"m": 0.5},
    "cost": {"images": 1},
    "folder": "a",
    "data": "D",
    "device": "cpu",
    "commit": "x",
}
KNOWN = {**IDENTITY, "kind": "search", "space": {"Ramp.end": "Float(0, 1)"}}


def results(**changed: object) -> str:
    run = json.dumps([{**RUN, **changed}])
    return f"UPDATE trial_user_attributes SET value_json = '{run}' WHERE key = '{RESULTS}'"


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage with a search of one complete trial, and another study."""
    monkeypatch.chdir(tmp_path)
    storage = open_storage("sqlite:///s.db")
    study = open_study(storage, "s", search(), KNOWN)
    spread = optuna.distributions.FloatDistribution(0, 1)
    study.add_trial(
        optuna.create_trial(
            value=0.5, params={"Ramp.end": 0.5}, distributions={"Ramp.end": spread}, user_attrs={RESULTS: [RUN]}
        )
    )
    optuna.create_study(study_name="other", storage=storage)
    storage.engine.dispose()
    return "sqlite:///s.db"


def spoil(statement: str) -> None:
    with closing(sqlite3.connect("s.db")) as database, database:
        assert database.execute(statement).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE trial_user_attributes SET value_json = '{'", "is damaged: JSONDecodeError: Expecting property name"),
        (
            "UPDATE study_user_attributes SET value_json = '5' WHERE key = 'definition'",
            r"is damaged: 'definition' = 5 has the wrong type, dict\[str, Any\] is wanted",
        ),
        (
            "UPDATE study_user_attributes SET value_json = '{\"metric\": 5}' WHERE key = 'definition'",
            "is damaged: 'metric' = 5 has the wrong type, str is wanted",
        ),
        ("UPDATE study_system_attributes SET value_json = '[]'", r"it has 1 directions and the metrics \[\]"),
        ("UPDATE study_directions SET direction = 'UP' WHERE study_id = 1", "is damaged: LookupError: 'UP'"),
        ("DELETE FROM study_directions WHERE study_id = 1", "it has 0 directions"),
        ("UPDATE trials SET state = 'DONE'", "is damaged: LookupError: 'DONE'"),
        ("UPDATE trials SET number = 7", "its trials are not numbered from 0 on"),
        ("UPDATE trials SET datetime_start = 'x'", "is damaged: "),
        ("DELETE FROM trial_values", "trial 0, is damaged: it is complete, and lacks a value"),
        ("UPDATE trial_values SET value = 'x'", r"trial 0, is damaged: 'values' = \['x'\] has the wrong type"),
        ("UPDATE trial_values SET value_type = 'x'", "is damaged: LookupError"),
        ("UPDATE trial_params SET distribution_json = '[]'", "is damaged: "),
        (results(metrics=5), r"trial 0, is damaged: 'metrics' = 5 has the wrong type, dict\[str, float\] is wanted"),
        (results(seed="0"), "trial 0, is damaged: 'seed' = '0' has the wrong type, int is wanted"),
        (results(folder=None), "trial 0, is damaged: 'folder' = None has the wrong type, str is wanted"),
        (results().replace("variant", "varian"), "trial 0, is damaged: it lacks 'variant'"),
    ],
)
def test_damage_is_named_with_study_and_storage(
    url: str, statement: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(statement)
    with pytest.raises(UserError, match=rf"^study 's' of --storage sqlite:///s.db(,|) .*{expected}") as told:
        open_study(open_storage(url), "s", search(), KNOWN)
    storage = open_storage_to_read(url)
    assert storage is not None
    assert load_study(storage, "other").study_name == "other"
    for words in (["compare", "s"], ["power", "s", "--effect", "1"]):
        monkeypatch.setattr(sys, "argv", ["hpm-study", *words, "--storage", url])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert "".join(str(told.value).split()) in "".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "statement",
    ["DELETE FROM trial_params", "UPDATE trial_params SET param_name = 'x'"],
)
def test_parameters_that_the_search_has_not(url: str, statement: str) -> None:
    spoil(statement)
    with pytest.raises(UserError, match=r"study 's', trial 0, is damaged: ValueError: The value "):
        open_study(open_storage(url), "s", search(), KNOWN)
