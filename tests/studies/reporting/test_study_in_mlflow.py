"""What stands above a study's runs in MLflow."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from hpm.runs.run_folder import RunFolder
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.outbox import TrackingState
from studies.analysis.results import RESULTS
from studies.definition.ablation import Ablation
from studies.reporting.mlflow import StudyTracker


def test_a_run_that_is_sent_later_is_one_of_its_own(
    empty_mlflow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the experiment that the environment says by its number, and not in the MLflow run that it names."""
    uri = f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'mlflow.db')}"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("numbered")
    theirs = client.create_run(client.create_experiment("theirs")).info.run_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    run.metrics.append({"step": 1, "time": 1e9, "kind": "train", "loss": 0.5})
    for file in (run.config, run.operative):
        file.write_text("Ramp.end = 0.5\n")
    run.write_summary({"metrics": {}})
    TrackingState(uri, name="a-seed0").write(run.path)  # as of a run whose server was away

    result = {"variant": "a", "seed": 0, "metrics": {"ridge/pretrained": 0.5}, "cost": {}, "folder": str(run.path)}
    study = optuna.create_study(study_name="s")
    study.add_trial(optuna.trial.create_trial(value=0.5, user_attrs={RESULTS: [result], "variant": "a", "run_seed": 0}))
    definition = Ablation(base=["tiny.gin"], variants={"a": []}, seeds=[0], metric="ridge/pretrained")
    StudyTracker(MLflowTracker(uri=uri), "s", definition).update(study, 0)

    entry = client.get_run(json.loads((run.path / "mlflow.json").read_text())["run_id"])
    assert (entry.info.experiment_id, entry.info.status, entry.data.metrics) == (experiment, "FINISHED", {"loss": 0.5})
    assert client.get_run(entry.data.tags["mlflow.parentRunId"]).info.run_name == "a"
    assert client.get_run(theirs).data.metrics == {}
