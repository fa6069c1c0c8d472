"""The tracker by itself, against real stores: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tracked_runs import Eager, rows_of, runs, sent, start, steps, track, until

from hpm.errors import UserError
from hpm.tracking.base import UnusableTrackerError
from hpm.tracking.mlflow import MLflowTracker


def test_sending_again_changes_nothing(uri: str, folder: Path) -> None:
    """Also where the state is older than the server, as after a kill between sending and remembering."""
    track(uri, folder, rows_of(50))
    state = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps(state | {"sent": 0, "ended": False}))
    track(uri, folder, rows_of(60))
    assert runs(uri) == [state["run_id"]]
    assert steps(uri, state["run_id"]) == list(range(1, 61))


def test_a_file_in_the_home_folder(
    uri: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    file = Path(uri.removeprefix("sqlite:///"))
    monkeypatch.setenv("HOME", str(file.parent))
    monkeypatch.chdir(tmp_path)
    track(f"sqlite:///~/{file.name}", folder, rows_of(5))
    assert len(runs(uri)) == 1
    assert not list(tmp_path.rglob("~"))
    assert not [warning for warning in recwarn if "password" in str(warning.message)]
    assert MLflowTracker(uri="sqlite:///~nobody-of-that-name/a.db").where == "sqlite:///~nobody-of-that-name/a.db"


def test_runs_that_start_together_make_one_database(tmp_path: Path) -> None:
    """Each would make the tables; MLflow by itself ends in half of them, or in an error."""
    uri, go = f"sqlite:///{tmp_path / 'new.db'}", tmp_path / "go"
    (tmp_path / "new.db").touch()  # as SQLite leaves it that was killed at once
    code = (
        "import sys, threading, pathlib, mlflow; from hpm.tracking.mlflow import MLflowTracker; print(1, flush=True)\n"
        "while not pathlib.Path(sys.argv[2]).exists(): threading.Event().wait(0.001)\n"
        "MLflowTracker(uri=sys.argv[1]).client().create_experiment(sys.argv[3])"
    )
    command = [sys.executable, "-c", code, uri, str(go)]
    together = [subprocess.Popen([*command, name], stdout=subprocess.PIPE) for name in "abc"]
    for run in together:
        assert run.stdout is not None
        assert run.stdout.readline() == b"1\n"
    go.touch()
    assert [run.wait(240) for run in together] == [0, 0, 0]
    made = {experiment.name for experiment in MlflowClient(tracking_uri=uri).search_experiments()}
    assert made >= {"a", "b", "c"}
    assert {path.name for path in tmp_path.iterdir()} == {"new.db", "new.db.lock", "go"}


def test_a_database_that_no_lock_can_be_put_beside(uri: str, tmp_path: Path, folder: Path) -> None:
    """As in a folder that cannot be written to, whose database can still be read."""
    (tmp_path / "tracking.db.lock").mkdir()
    track(uri, folder, rows_of(3))
    assert len(runs(uri)) == 1


def test_a_run_that_was_made_but_not_confirmed_is_found(uri: str, folder: Path) -> None:
    """As after a kill, or a lost answer, between making the run and noting its name."""
    track(uri, folder, rows_of(5))
    state = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps({"uri": state["uri"], "key": state["key"]}))
    tracker = start(Eager(uri=uri), folder, **{"Ramp.start": "0.1"})
    tracker.send(rows_of(7))
    tracker.finish("FINISHED")
    assert runs(uri) == [state["run_id"]]
    # A parameter that it lacked, as after a failure in the middle of them, is there too.
    params = MlflowClient(tracking_uri=uri).get_run(state["run_id"]).data.params
    assert params == {"Ramp.end": "0.5", "Ramp.start": "0.1"}
    assert steps(uri, state["run_id"]) == list(range(1, 8))


_CHILD = """
import sys, threading
from pathlib import Path
from tracked_runs import rows_of, sent, start, until
from hpm.tracking.mlflow import MLflowTracker

folder = Path(sys.argv[2])
tracker = start(MLflowTracker(uri=sys.argv[1]), folder)
tracker.send(rows_of(50))
until(lambda: sent(folder) == 50)
print("sent", flush=True)
for number in range(51, 1000):
    tracker.send(rows_of(number))
threading.Event().wait()
"""


def test_a_killed_run_goes_on(uri: str, folder: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, uri, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "sent\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    track(uri, folder, rows_of(1000))
    (run_id,) = runs(uri)
    assert steps(uri, run_id) == list(range(1, 1001))
    assert MlflowClient(tracking_uri=uri).get_run(run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    "text", ['{"uri": "sqlite', "", "[]", '{"uri": 1}', '{"surprise": 1}', '{"uri": "a", "sent": null}', "\x00" * 50]
)
def test_a_damaged_state_leads_to_a_new_run(uri: str, folder: Path, text: str) -> None:
    (folder / "mlflow.json").write_text(text)
    assert not MLflowTracker(uri=uri).has_all_of(folder)
    with pytest.warns(UserWarning, match=r"mlflow.json is damaged .* anew"):
        tracker = track(uri, folder, rows_of(3))
    (run_id,) = runs(uri)
    assert steps(uri, run_id) == [1, 2, 3]
    assert tracker.has_all_of(folder)


def test_another_server_gets_everything(uri: str, other: str, folder: Path) -> None:
    track(uri, folder, rows_of(3))
    with pytest.warns(UserWarning, match=r"was sent to .*tracking.db before; it is sent to .*other.db anew"):
        track(other, folder, rows_of(5))
    (run_id,) = runs(other)
    assert steps(other, run_id) == [1, 2, 3, 4, 5]


def test_a_deleted_database_leads_to_a_new_run(uri: str, other: str, folder: Path) -> None:
    track(uri, folder, rows_of(3))
    # MLflow opens a database once in a process, so an empty one under another name is what a deleted one would be.
    state = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps(state | {"uri": other}))
    with pytest.warns(UserWarning, match=r"other.db no longer has this run; it is sent anew"):
        track(other, folder, rows_of(5))
    (run_id,) = runs(other)
    assert steps(other, run_id) == [1, 2, 3, 4, 5]


def test_a_run_that_is_deleted_in_the_middle_is_sent_anew(
    uri: str, folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    tracker = start(Eager(uri=uri), folder)
    tracker.send(rows_of(3))
    until(lambda: sent(folder) == 3)
    (first,) = runs(uri)
    MlflowClient(tracking_uri=uri).delete_run(first)
    tracker.send(rows_of(4))
    until(lambda: tracker.problem)
    tracker.send(rows_of(5))
    tracker.finish("FINISHED")
    assert tracker.problem is None
    (second,) = runs(uri)
    assert second != first
    assert steps(uri, second) == [1, 2, 3, 4, 5]
    assert any("no longer has this run; it is sent anew" in str(warning.message) for warning in recwarn)


def test_a_state_that_cannot_be_written_loses_nothing(uri: str, folder: Path) -> None:
    tracker = Eager(uri=uri)
    (folder / "mlflow.json").mkdir()  # in the way, for root too
    start(tracker, folder)
    for count in (3, 6, 9):
        tracker.send(rows_of(count))
    tracker.finish("FINISHED")
    assert tracker.problem is None
    assert not list((folder / "mlflow.json").iterdir())
    (run_id,) = runs(uri)
    assert steps(uri, run_id) == list(range(1, 10))


def test_names_that_mlflow_refuses(uri: str, folder: Path) -> None:
    """An evaluation of a user's may call its metric what it likes."""
    tracker = track(uri, folder, [{"step": 1, "time": 1e9, "kind": "final", "top@1": 0.5, "loss": float("nan")}])
    assert tracker.problem is None
    (run_id,) = runs(uri)
    assert MlflowClient(tracking_uri=uri).get_run(run_id).data.metrics == {"top_1": 0.5}


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("place", ["deep/no.db", "empty.db", "other.db", "folder", "file:folder", "nowhere"])
def test_reading_makes_nothing_where_nothing_is(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.db").touch()
    with closing(sqlite3.connect("other.db")) as database:
        database.executescript("CREATE TABLE moz_places(a)")
    Path("folder").mkdir()
    before = content(tmp_path)
    assert MLflowTracker(uri=f"sqlite:///{place}" if place.endswith(".db") else place).client(to_read=True) is None
    assert content(tmp_path) == before


def test_reading_changes_nothing(uri: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track(uri, folder, rows_of(5))
    file = Path(uri.removeprefix("sqlite:///"))
    odd = file.rename(tmp_path / "my 100% runs?.db")
    monkeypatch.chdir(tmp_path)
    client = MLflowTracker(uri="sqlite:///my%20100%25%20runs%3F.db").client(to_read=True)
    assert len(client.search_runs([client.get_experiment_by_name("curriculum-masking").experiment_id])) == 1
    with pytest.raises(MlflowException, match="readonly"):
        client.create_experiment("another")
    with closing(sqlite3.connect(odd)) as database:
        database.executescript("DROP TABLE metrics; UPDATE alembic_version SET version_num = '451aebb31d03'")
    odd.rename(tmp_path / "old.db")
    before = content(tmp_path)
    with pytest.raises(UnusableTrackerError, match="another version of MLflow made it; `mlflow db upgrade sqlite:///"):
        MLflowTracker(uri="sqlite:///old.db").client(to_read=True)
    assert content(tmp_path) == before


def test_a_database_of_another_program_is_refused_and_left_alone(folder: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.executescript("CREATE TABLE alembic_version(a); CREATE TABLE studies(a)")
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(UserError, match=r"other.db is a database of another program; name another file"):
        start(MLflowTracker(uri=f"sqlite:///{tmp_path}/other.db"), folder)
    assert (tmp_path / "other.db").read_bytes() == before
