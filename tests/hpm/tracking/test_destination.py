"""Where runs are sent: what is bound, what MLflow's variables say, and what is refused before training."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked_runs import Eager, rows_of, start, steps

from hpm.errors import Notice, UserError
from hpm.tracking.base import UnusableTrackerError
from hpm.tracking.client import _require_answer, connect
from hpm.tracking.mlflow import MLflowTracker


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


def track(uri: str, folder: Path, experiment: str | None = None) -> None:
    folder.mkdir(exist_ok=True)
    tracker = Eager(uri=uri, experiment=experiment)
    tracker.start(folder, name="run", parameters={}, tags={"folder": str(folder.resolve())})
    tracker.send(rows_of(2))
    tracker.finish("FINISHED")
    assert tracker.problem is None


def counts(client: MlflowClient) -> dict[str, int]:
    found = client.search_experiments()
    return {one.name: len(client.search_runs([one.experiment_id])) for one in found if one.name != "Default"}


def test_mlflows_variables_say_which_experiment(
    client: MlflowClient, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    track(uri, tmp_path / "named")
    track(uri, tmp_path / "bound", "bound")
    number = client.create_experiment("numbered")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", number)
    track(uri, tmp_path / "numbered")
    assert counts(client) == {"mine": 1, "bound": 1, "numbered": 1}
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    with pytest.raises(UserError, match="MLFLOW_EXPERIMENT_NAME = 'mine' another; unset one of them"):
        track(uri, tmp_path / "torn")


def test_a_run_of_mlflows_takes_one_of_ours(
    client: MlflowClient, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = client.create_run(client.create_experiment("theirs")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run)
    track(uri, tmp_path / "first")
    assert steps(uri, run) == [1, 2]
    assert client.get_run(run).data.tags["folder"] == str(tmp_path / "first")
    track(uri, tmp_path / "first")  # as a run that goes on
    with pytest.raises(UserError, match=f"MLFLOW_RUN_ID = {run} holds the run in .*first; unset the variable"):
        track(uri, tmp_path / "second")
    track(uri, tmp_path / "third", "bound")  # what is bound goes first
    assert counts(client) == {"theirs": 1, "bound": 1}
    client.delete_run(run)
    with pytest.raises(UserError, match="was deleted"):
        track(uri, tmp_path / "fourth")


@pytest.mark.parametrize("name", ["MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"])
def test_a_number_that_is_not_there(uri: str, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1234567")
    with pytest.raises(UserError, match=r"1234567.* do without by MLflowTracker.enabled = False"):
        start(MLflowTracker(uri=uri), folder)


def test_a_deleted_experiment(client: MlflowClient, uri: str, folder: Path) -> None:
    number = client.create_experiment("gone")
    client.delete_experiment(number)
    with pytest.raises(UserError, match=f"'gone' was deleted; .* restore --experiment-id {number}"):
        start(MLflowTracker(uri=uri, experiment="gone"), folder)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"experiment": ""}, "MLflowTracker.experiment = '' is no name"),
        ({"experiment": "  "}, "is no name"),
        ({"uri": "sqlite://x.db"}, "MLflowTracker.uri = 'sqlite://x.db' cannot be used: .* sqlite:///x.db"),
        ({"uri": "sqlite"}, "it is no address"),
        ({"uri": "sqlite:///a\x00.db"}, "MLflowTracker.uri: .* holds a control character"),
        ({"experiment": "x" * 501}, r"MLflowTracker.experiment: 'x+'\.\.\. has more than 500 characters"),
        ({"experiment": "x\ud800"}, r"MLflowTracker.experiment: 'x\\ud800' holds a control character, or half of one"),
        ({"tags": {"k" * 251: "v"}}, r"MLflowTracker.tags: 'k+'\.\.\. has more than 250 characters"),
        ({"tags": {"k@x": "v"}}, r"MLflowTracker.tags: 'k@x' is no name of a tag"),
        ({"tags": {"": "v"}}, "is no name of a tag"),
        ({"tags": {"a/../x": "v"}}, "is no name of a tag"),
    ],
)
def test_what_can_be_told_at_once(settings: dict[str, str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        MLflowTracker(**settings)


def test_a_run_keeps_its_own_tags(client: MlflowClient, uri: str, folder: Path) -> None:
    tags = {"seed": "7", "mine": "\N{WOMAN}\u200d\N{MICROSCOPE}", "link": "http://me:hunter2@host/"}
    tracker = MLflowTracker(uri=uri, tags=tags)
    with pytest.warns(Notice, match=r"MLflowTracker.tags sets 'seed', which every run has; it keeps its own, '0'"):
        start(tracker, folder)
    tracker.finish("FINISHED")
    kept = json.loads((folder / "mlflow.json").read_text())
    for found in (kept["tags"], client.get_run(kept["run_id"]).data.tags):
        assert found["seed"] == "0"
        assert found["mine"] == tags["mine"]
        assert found["link"] == "http://***@host/"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:////proc/no/such.db", "/proc/no/such.db cannot be written: No such file or directory; name another"),
        ("sqlite:///file.txt/x.db", "file.txt/x.db cannot be written"),
        ("sqlite:///folder.db", "cannot be written: Is a directory"),
        ("sqlite:///file.txt", "file.txt is no SQLite database; name another file"),
        ("gopher://x", "unsupported URI 'gopher://x' .* supported backend storage locations; change MLflowTracker's"),
        ("postgresql://u:p@ss@h/db", "holds an @, which must be written %40"),
        ("http://h:port", "it is no address"),
    ],
)
def test_what_is_refused_before_training(
    uri: str, expected: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file.txt").write_text("not a database")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "folder.db" / "a").touch()
    with pytest.raises(UserError, match=expected):
        start(MLflowTracker(uri=uri), folder)


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "postgresql://u:secret@127.0.0.1:1/db"])
def test_a_server_that_is_away_costs_no_minutes(uri: str, folder: Path) -> None:
    begin = time.monotonic()
    tracker = start(MLflowTracker(uri=uri), folder)
    tracker.send(rows_of(3))
    tracker.finish("FINISHED")
    assert tracker.problem is not None
    assert "it does not answer: " in tracker.problem
    assert "Connection refused" in tracker.problem
    assert time.monotonic() - begin < 20
    assert "secret" not in tracker.problem


def test_a_database_that_is_half_made_is_named(uri: str) -> None:
    """As a process leaves it that is killed while it makes the tables in place."""
    file = Path(uri.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(file)) as database:
        database.execute("DROP TABLE alembic_version")
        database.commit()
    with pytest.raises(UnusableTrackerError, match=r"is not whole, .* holds no run; remove it, and it is made anew"):
        connect(uri)


def test_no_secret_goes_to_whoever_answers() -> None:
    """Whether to trust a server is not known when it is only asked whether it is there."""
    asked: list[tuple[str, str | None]] = []

    class Server(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        _require_answer(f"http://me:secret@127.0.0.1:{server.server_port}/path?token=abc")
        thread.join()
    assert asked == [("/", None)]
