"""MLflow sees every metric once; without it, or with a server that is not there, the run finishes and says so."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpm.runs import checkpoint
from hpm.tracking.mlflow import MLflowTracker

Hpm = Callable[..., int]


@pytest.fixture
def tracked(tiny: Path, tmp_path: Path, empty_mlflow: Path) -> Path:
    shutil.copy(empty_mlflow, tmp_path / "tracking.db")
    uri = f"MLflowTracker.uri = 'sqlite:///{tmp_path}/tracking.db'"
    text = tiny.read_text().replace("MLflowTracker.enabled = False", uri)
    tiny.write_text(text)
    return tiny


def logged(tmp_path: Path) -> tuple[MlflowClient, str]:
    """The one run that was tracked."""
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'tracking.db'}")
    experiment = client.get_experiment_by_name("curriculum-masking")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run.info.run_id


def history(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, metric)]


def test_every_metric_once_also_after_a_resume(tracked: Path, hpm: Hpm, tmp_path: Path) -> None:
    probes = ["-b", "Monitoring.probe_every = 1", "-b", "Monitoring.probes = []"]
    assert hpm("pretrain", tracked, *probes, "--output", "run") == 0
    # As if the newest checkpoint and all after it had been lost, with its metrics sent already.
    shutil.rmtree(checkpoint.list_checkpoints(Path("run/checkpoints"))[0])
    Path("run/summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", "run") == 0

    client, run_id = logged(tmp_path)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["Ramp.end"] == "0.5"
    assert run.data.params["Optimization.weight_decay"] == "0.05"
    assert run.data.tags["curriculum"] == "Ramp / PredictedLoss / HardestFirst"
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]
    assert [step for step, _ in expected] == list(range(4, 41, 4))
    assert history(client, run_id, "Training/loss") == expected
    artifacts = {item.path for item in client.list_artifacts(run_id)}
    assert {"config.gin", "operative.gin", "summary.json", "pictures"} <= artifacts
    pictures = {Path(item.path).name for item in client.list_artifacts(run_id, "pictures")}
    assert pictures == {f"step-{step:08d}.png" for step in (10, 20, 30, 40)}


def test_a_server_that_is_not_there(
    hpm: Hpm, tracked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert hpm("pretrain", tracked, "-b", f"MLflowTracker.uri = 'http://127.0.0.1:{port}'", "--output", "run") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "MLflow cannot be used" in told
    assert json.loads(Path("run/summary.json").read_text())["steps"] == 40


def test_without_mlflow(
    hpm: Hpm, tracked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # import fails, as where it is not installed
    assert hpm("pretrain", tracked, "--output", "run") == 0
    assert "MLflow is not installed" in " ".join(capsys.readouterr().out.split())
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 11


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]  # free, and closed again: nobody listens there


def test_what_could_not_be_sent_is_replayed(
    hpm: Hpm, tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose server was away is sent when it is resumed, though it is complete."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = f"MLflowTracker.uri = 'http://me:secret@127.0.0.1:{closed_port()}'"
    assert hpm("pretrain", tracked, "-b", away, "--output", "run") == 0
    told = "".join(capsys.readouterr().out.split())
    assert "hpmpretrain--resume--outputrunsendswhatismissing" in told
    assert "secret" not in told
    before = Path("run/metrics.jsonl").read_text()
    assert hpm("pretrain", tracked, "--resume", "--output", "run") == 0
    client, run_id = logged(tmp_path)
    assert client.get_run(run_id).info.status == "FINISHED"
    expected = [(row["step"], row["loss"]) for row in map(json.loads, before.splitlines()) if row["kind"] == "train"]
    assert history(client, run_id, "Training/loss") == expected
    # Once it has everything, it is left alone.
    assert hpm("pretrain", tracked, "--resume", "--output", "run") == 0
    assert logged(tmp_path)[1] == run_id


@pytest.mark.parametrize("lost", ["state", "run"])
def test_a_run_that_mlflow_lost_is_sent_anew(hpm: Hpm, tracked: Path, tmp_path: Path, lost: str) -> None:
    assert hpm("pretrain", tracked, "--output", "run") == 0
    client, first = logged(tmp_path)
    state = Path("run/mlflow.json")
    if lost == "state":
        state.write_text(state.read_text()[:20])
    else:
        state.write_text(json.dumps(json.loads(state.read_text()) | {"run_id": "0" * 32, "ended": False}))
    client.delete_run(first)
    assert hpm("pretrain", "--resume", "--output", "run") == 0
    client, run_id = logged(tmp_path)
    assert run_id != first
    assert [step for step, _ in history(client, run_id, "Training/loss")] == list(range(4, 41, 4))


def test_sending_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and never answers: `send` returns at once, all the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = MLflowTracker(uri=f"http://127.0.0.1:{silent.getsockname()[1]}")
        tracker.start(tmp_path, name="run", parameters={}, tags={})
        rows = [{"step": step, "time": 0.0, "kind": "train", "loss": 1.0} for step in range(100)]
        for number in range(1, 101):
            tracker.send(rows[:number])
        assert tracker.problem is None  # it is still waiting for its first answer
        with pytest.warns(UserWarning, match="lacks 100 of 100 rows .* sends what is missing"):
            tracker.finish("FINISHED")
    assert tracker.problem is not None
    assert not tracker.has_all_of(tmp_path)
