"""MLflow sees every metric once; without it, or with a server that is not there, the run finishes and says so."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpm import checkpoint

Hpm = Callable[..., int]


@pytest.fixture
def tracked(tiny: Path) -> Path:
    text = tiny.read_text().replace("MLflowTracker.enabled = False", "MLflowTracker.uri = 'sqlite:///tracking.db'")
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
    probes = ["-b", "Trainer.probe_every = 1", "-b", "Trainer.probes = []"]
    assert hpm("pretrain", tracked, *probes, "--output", "run") == 0
    # As if the newest checkpoint and all after it had been lost, with its metrics sent already.
    checkpoint.found(Path("run/checkpoints"))[0].unlink()
    Path("run/summary.json").unlink()
    assert hpm("pretrain", "--resume", "--output", "run") == 0

    client, run_id = logged(tmp_path)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["Ramp.end"] == "0.5"
    assert run.data.params["Trainer.weight_decay"] == "0.05"
    assert run.data.tags["curriculum"] == "Ramp / PredictedLoss / HardestFirst"
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], row["loss"]) for row in rows if row["kind"] == "train"]
    assert [step for step, _ in expected] == list(range(4, 41, 4))
    assert history(client, run_id, "loss") == expected
    artifacts = {item.path for item in client.list_artifacts(run_id)}
    assert {"config.gin", "operative.gin", "summary.json", "pictures"} <= artifacts
    pictures = {Path(item.path).name for item in client.list_artifacts(run_id, "pictures")}
    assert pictures == {f"step-{step:08d}.png" for step in (10, 20, 30, 40)}


def test_a_server_that_is_not_there(
    hpm: Hpm, tracked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]  # free, and closed again: nobody listens there
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
