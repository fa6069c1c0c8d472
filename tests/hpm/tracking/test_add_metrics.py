"""Results that are measured after a run go to the run's entry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked_runs import rows_of, runs, start, steps, track

from hpm.tracking import NoTracker, TrackingError
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.outbox import TrackingState

RESULTS = {"evaluate/student/knn/accuracy": 0.75, "evaluate/student/knn/accuracy/interval": 0.01}


def test_they_are_there_at_their_step(uri: str, folder: Path) -> None:
    track(uri, folder, rows_of(3))
    state = TrackingState.read(folder)
    assert MLflowTracker(uri=uri).add_metrics(folder, RESULTS, step=40) == uri
    assert MLflowTracker(uri=uri).add_metrics(folder, {"evaluate/knn": 0.8, "Training/loss": 2.0}, step=50) == uri
    (run_id,) = runs(uri)
    run = MlflowClient(tracking_uri=uri).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == RESULTS | {"evaluate/knn": 0.8, "Training/loss": 2.0, "Training/alpha": 0.5}
    assert steps(uri, run_id, "evaluate/student/knn/accuracy") == [40]
    assert steps(uri, run_id) == [1, 2, 3, 50]
    assert TrackingState.read(folder) == state  # nothing of the run is outstanding, as before


def test_pictures_and_files_go_with_them(
    uri: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures to those of the run, others beside its configuration; a picture that is sent again takes its place."""
    monkeypatch.chdir(tmp_path)
    track(uri, folder, rows_of(3))
    tracker, (run_id,) = MLflowTracker(uri=uri), runs(uri)
    picture, notes = folder / "evaluation-segmentation.png", folder / "notes.txt"
    for content in ("one", "two"):
        picture.write_text(content)
        notes.write_text(content)
        assert tracker.add_metrics(folder, RESULTS, step=40, files=[picture, notes]) == uri
    client = MlflowClient(tracking_uri=uri)
    assert {item.path for item in client.list_artifacts(run_id)} == {"pictures", "notes.txt"}
    assert [item.path for item in client.list_artifacts(run_id, "pictures")] == [f"pictures/{picture.name}"]
    fetched = client.download_artifacts(run_id, f"pictures/{picture.name}", str(tmp_path))
    assert Path(fetched).read_text() == "two"
    assert client.get_run(run_id).info.status == "FINISHED"
    picture.unlink()
    with pytest.raises(TrackingError, match=picture.name):
        tracker.add_metrics(folder, {"knn": 0.3}, step=41, files=[picture])
    assert client.get_run(run_id).data.metrics["knn"] == 0.3  # the figures are sent before
    assert NoTracker().add_metrics(folder, RESULTS, step=40, files=[notes]) is None


def test_names_and_figures_that_mlflow_refuses(uri: str, folder: Path) -> None:
    track(uri, folder, [])
    figures = {"top@1": 0.5, "gain": float("nan")} | {f"patch {number}": 0.1 for number in range(1500)}
    assert MLflowTracker(uri=uri).add_metrics(folder, figures, step=1) == uri
    (run_id,) = runs(uri)
    metrics = MlflowClient(tracking_uri=uri).get_run(run_id).data.metrics
    assert metrics.keys() == {"top_1"} | {f"patch {number}" for number in range(1500)}


def test_they_go_where_the_run_went(uri: str, other: str, folder: Path) -> None:
    track(uri, folder, rows_of(3))
    assert MLflowTracker(uri=other).add_metrics(folder, RESULTS, step=40) == uri
    (run_id,) = runs(uri)
    assert steps(uri, run_id, "evaluate/student/knn/accuracy") == [40]
    assert MlflowClient(tracking_uri=other).get_experiment_by_name("curriculum-masking") is None


def test_a_run_without_entry_gets_none(uri: str, folder: Path) -> None:
    assert MLflowTracker(uri=uri).add_metrics(folder, RESULTS, step=40) is None
    TrackingState(uri).write(folder)  # as of a run whose server was away
    assert MLflowTracker(uri=uri).add_metrics(folder, RESULTS, step=40) is None
    track(uri, folder, rows_of(3))
    assert MLflowTracker(uri=uri, enabled=False).add_metrics(folder, RESULTS, step=40) is None
    assert NoTracker().add_metrics(folder, RESULTS, step=40) is None
    (run_id,) = runs(uri)
    assert steps(uri, run_id, "evaluate/student/knn/accuracy") == []


def test_failing_ends_in_one_sentence(uri: str, folder: Path) -> None:
    track(uri, folder, rows_of(3))
    state = folder / "mlflow.json"
    known = json.loads(state.read_text())
    state.write_text(json.dumps(known | {"run_id": "0" * 32}))
    with pytest.raises(TrackingError, match="0" * 32):
        MLflowTracker(uri=uri).add_metrics(folder, RESULTS, step=40)
    away = "http://me:secret@127.0.0.1:9"
    state.write_text(json.dumps(known | {"uri": "http://me:***@127.0.0.1:9"}))
    with pytest.raises(TrackingError) as failed:
        MLflowTracker(uri=away).add_metrics(folder, RESULTS, step=40)
    assert "127.0.0.1" in str(failed.value)
    assert "secret" not in str(failed.value)
    state.write_text("{")
    with pytest.raises(TrackingError, match=r"mlflow.json is damaged"):
        MLflowTracker(uri=uri).add_metrics(folder, RESULTS, step=40)


def test_a_run_that_goes_on_keeps_them(uri: str, folder: Path) -> None:
    track(uri, folder, rows_of(3))
    MLflowTracker(uri=uri).add_metrics(folder, RESULTS, step=3)
    tracker = start(MLflowTracker(uri=uri), folder)
    tracker.send(rows_of(5))
    tracker.finish("FINISHED")
    (run_id,) = runs(uri)
    assert steps(uri, run_id) == [1, 2, 3, 4, 5]
    assert steps(uri, run_id, "evaluate/student/knn/accuracy") == [3]
