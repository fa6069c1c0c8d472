"""A study's storage: which studies are the same, and what is said of a storage or study that is not there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import text
from two_studies import IDENTITY, ablation, search

from hpm.errors import UserError
from studies.definition.identity import identity_of
from studies.execution.storage import exclusively, load_study, open_storage, open_storage_to_read, open_study


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"variants": {"a": "x", "b": "z"}}, "other variants: b is another there"),
        ({"variants": {"a": "x"}}, "other variants: b is not here"),
        ({"variants": {"a": "x", "b": "y", "c": "w"}}, "other variants: c is not in it"),
        ({"metric": "n"}, "another metric: 'm' there, 'n' here"),
    ],
)
def test_a_study_of_another_definition_is_refused(tmp_path: Path, change: dict[str, object], expected: str) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    open_study(storage, "s", ablation(), IDENTITY)
    with pytest.raises(UserError, match="give this one another --study name") as error:
        open_study(storage, "s", ablation(), {**IDENTITY, **change})
    assert expected in str(error.value)


def test_a_space_that_differs_is_named(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    open_study(storage, "s", search(), {"kind": "search", "space": {"Ramp.end": "Float(0, 1)"}})
    with pytest.raises(UserError, match=r"Ramp.end is Float\(0, 1\) there and Float\(0, 0.5\) here"):
        open_study(storage, "s", search(), {"kind": "search", "space": {"Ramp.end": "Float(0, 0.5)"}})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:secret@127.0.0.1:1/x", "cannot be opened"),
        ("nonsense", "cannot be opened: it is no address; it must be of the form sqlite:///FILE"),
        ("postgresql://user:a@secret@127.0.0.1:1/x", "its password holds an @, which must be written %40"),
        ("sqlite://s.db", "a file's address has three slashes: sqlite:///s.db"),
        ("sqlite://", "name a file: sqlite:///FILE"),
        ("sqlite:///:memory:", "name a file"),
        ("sqlite:///file:s?mode=memory&uri=true", "name a file"),
        ("mysql://127.0.0.1/x", "needs a driver that is not installed"),
        ("sqlite:////usr", "the file of --storage /usr is a folder; name a file"),
        (f"sqlite:///{__file__}", "cannot be opened: file is not a database"),
    ],
)
def test_a_storage_that_cannot_be_reached(url: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        open_storage(url)
    assert expected in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///s.db?timeout=30", "s.db"),
        ("sqlite+pysqlite:///deep/er/s.db", "deep/er/s.db"),
        ("sqlite:///my%20runs%3F.db", "my runs?.db"),
        ("sqlite:///file:s.db?cache=shared&uri=true", "s.db"),
        ("sqlite:///~/s.db", "home/s.db"),
        ("sqlite:///{a}.db", "{a}.db"),
    ],
)
def test_the_file_of_an_address(url: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_storage_to_read(url) is None
    assert list(tmp_path.iterdir()) == []
    storage = open_storage(url)
    with exclusively(storage):
        open_study(storage, "s", ablation(), IDENTITY)
    assert open_storage_to_read(url) is not None
    assert Path(file).is_file()
    assert {path.name for path in Path(file).parent.iterdir() if path.is_file()} == {
        Path(file).name,
        f"{Path(file).name}.lock",
    }
    assert load_study(open_storage(url), "s").study_name == "s"


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("opened", [open_storage, open_storage_to_read])
@pytest.mark.parametrize(
    ("tables", "named"),
    [("CREATE TABLE moz_places(a)", "moz_places"), ("CREATE TABLE studies(a); CREATE TABLE t(b)", "studies")],
)
def test_a_database_of_another_program_is_refused_and_left_alone(
    opened: Callable[[str], object], tables: str, named: str, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.executescript(f"PRAGMA journal_mode = WAL; {tables}")
    before = files(tmp_path)
    with pytest.raises(UserError, match=f"other.db is a database of another program, whose table {named} is there"):
        opened(f"sqlite:///{tmp_path}/other.db")
    assert files(tmp_path) == before


@pytest.mark.parametrize("state", ["missing", "empty", "begun"])
def test_a_storage_that_holds_nothing_yet(tmp_path: Path, state: str) -> None:
    """Reading leaves it as it is; a study is begun there, also where a process was killed that was at it."""
    path = tmp_path / "s.db"
    if state == "empty":
        path.touch()
    elif state == "begun":
        open_storage(f"sqlite:///{path}").engine.dispose()
        with closing(sqlite3.connect(path)) as database:
            database.executescript("DROP TABLE alembic_version; DROP TABLE trials; DROP TABLE trial_params")
    before = files(tmp_path)
    assert open_storage_to_read(f"sqlite:///{path}") is None
    assert files(tmp_path) == before
    open_study(open_storage(f"sqlite:///{path}"), "s", ablation(), IDENTITY)
    found = open_storage_to_read(f"sqlite:///{path}")
    assert found is not None
    assert identity_of(load_study(found, "s")) == IDENTITY
    with pytest.raises(StorageInternalError):
        optuna.create_study(study_name="other", storage=found)


def test_what_an_address_says_of_waiting_goes_first(tmp_path: Path) -> None:
    for query, seconds in (("", 60_000), ("?timeout=7", 7_000)):
        with open_storage(f"sqlite:///{tmp_path}/s.db{query}").engine.connect() as connection:
            assert connection.execute(text("PRAGMA busy_timeout")).scalar() == seconds


def test_a_study_that_is_not_there(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    optuna.create_study(study_name="other", storage=storage)
    with pytest.raises(UserError, match="there is no study 's' in the storage; other"):
        load_study(storage, "s")


def test_another_baseline_is_remembered(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    open_study(storage, "s", ablation(), {**IDENTITY, "baseline": "a"})
    study = open_study(storage, "s", ablation(), {**IDENTITY, "baseline": "b"})
    assert identity_of(study) == {**IDENTITY, "baseline": "b"}
