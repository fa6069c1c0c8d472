"""What stands above a study's runs in MLflow."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from hpm.metrics import half_interval
from hpm.runs.manifest import DataRecord, Manifest, SplitRecord
from hpm.runs.run_folder import RunFolder
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.outbox import TrackingState
from studies.analysis.results import RESULTS
from studies.definition.ablation import Ablation
from studies.definition.search import Search
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
    assert (entry.info.experiment_id, entry.info.status, entry.data.metrics) == (
        experiment,
        "FINISHED",
        {"Training/loss": 0.5},
    )
    assert client.get_run(entry.data.tags["mlflow.parentRunId"]).info.run_name == "a"
    assert client.get_run(theirs).data.metrics == {}


RIDGE, VALIDATION = "ridge/pretrained", "validation/ridge/pretrained"
SPACE = {"Ramp.end": "Float(0, 1)", "Ramp.shape": "Categorical(['linear', 'cosine'])"}


@pytest.fixture
def uri(empty_mlflow: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'mlflow.db')}"


def finished_run(folder: Path, uri: str, metrics: Mapping[str, float], **tags: str) -> Path:
    """A run that has ended, and that the server has."""
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    run.metrics.append({"step": 20, "time": 1e9, "kind": "train", "loss": 0.5})
    run.metrics.append({"step": 20, "time": 1e9, "kind": "final", **metrics})
    for file in (run.config, run.operative):
        file.write_text("")
    held_out = {"test": SplitRecord(48, "c" * 16)}
    Manifest(folder.name, "pixels", "hard", "fp32", DataRecord("Scenes", 160, "a" * 16, held_out)).write(run.manifest)
    run.write_summary({"metrics": {}})
    tracker = MLflowTracker(uri=uri, experiment="s", tags=tags)
    tracker.start(run.path, name=folder.name, parameters={"Ramp.end": "0.9"}, tags={"seed": "0"})
    tracker.send(run.metrics.rows(), [])
    tracker.finish("FINISHED")
    return folder


def result(folder: Path, variant: str, seed: int, value: float, *, test: float = 0.0) -> dict[str, Any]:
    metrics = {RIDGE: test, VALIDATION: value}
    cost = {"images": 640, "training_seconds": 2.0, "flops": 1e9}
    return {"variant": variant, "seed": seed, "metrics": metrics, "cost": cost, "folder": str(folder)}


def ablation_study(folder: Path, values: Mapping[str, Sequence[float]]) -> optuna.Study:
    """Complete trials, a seed each; the runs' folders are elsewhere unless the test makes them."""
    study = optuna.create_study(study_name="s", direction="maximize")
    space = {
        "variant": optuna.distributions.CategoricalDistribution(sorted(values)),
        "seed": optuna.distributions.IntDistribution(0, 2**31 - 1),
    }
    for variant, found in values.items():
        for seed, value in enumerate(found):
            kept = result(folder / f"{variant}-seed{seed}", variant, seed, value, test=1 - value)
            study.add_trial(
                optuna.trial.create_trial(
                    params={"variant": variant, "seed": seed},
                    distributions=space,
                    value=value,
                    user_attrs={RESULTS: [kept], "variant": variant, "run_seed": seed},
                )
            )
    return study


def rows(uri: str) -> dict[str, Run]:
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("s").experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs), "two rows of one name"
    return {run.info.run_name: run for run in runs}


def test_rows_share_the_names_of_the_runs_metrics(uri: str, tmp_path: Path, small: Path) -> None:
    values = {"a": [0.5, 0.6], "b": [0.8, 0.7]}
    for variant, found in values.items():
        for seed, value in enumerate(found):
            folder = tmp_path / "runs" / f"{variant}-seed{seed}"
            finished_run(folder, uri, {VALIDATION: value, RIDGE: 1 - value})
    study = ablation_study(tmp_path / "runs", values)
    definition = Ablation(
        base=[str(small)], variants={"a": [], "b": ["Ramp.end = 0.9"]}, seeds=[0, 1], metric=VALIDATION, baseline="a"
    )
    definition.check()
    tracker = StudyTracker(MLflowTracker(uri=uri, experiment="s"), "s", definition, "What it is.")
    tracker.prepare(study)
    for number in range(4):
        tracker.update(study, number)
    tracker.complete(study, [], table="| variant |")
    before = rows(uri)
    tracker.complete(study, [], table="| variant |")  # again, which changes nothing
    shown = rows(uri)
    assert {name: run.data.metrics for name, run in before.items()} == {
        name: run.data.metrics for name, run in shown.items()
    }
    assert len(MlflowClient(tracking_uri=uri).get_metric_history(shown["b"].info.run_id, VALIDATION)) == 1

    assert set(shown) == {"s", "a", "b", *(f"{variant}-seed{seed}" for variant in "ab" for seed in (0, 1))}
    assert shown["a"].data.metrics == pytest.approx(
        {
            VALIDATION: 0.55,
            RIDGE: 0.45,
            f"interval/{VALIDATION}": half_interval([0.5, 0.6]),
            f"interval/{RIDGE}": half_interval([0.5, 0.4]),
            "cost/images": 640,
            "cost/training_seconds": 2.0,
            "cost/flops": 1e9,
            "interval/cost/images": 0,
            "interval/cost/training_seconds": 0,
            "interval/cost/flops": 0,
            "study/seeds": 2,
            "study/failed_runs": 0,
        }
    )
    assert {VALIDATION, RIDGE, "cost/flops"} <= shown["a-seed0"].data.metrics.keys()
    for name in ("s", "a", "b", "b-seed1"):
        images = {(one.dataset.digest, one.tags[0].value) for one in shown[name].inputs.dataset_inputs}
        assert images == {("a" * 16, "training"), ("c" * 16, "test")}
    # What differs, and nothing that all have alike; a seed has everything in force.
    assert shown["a"].data.params == {"Ramp.end": "0.5", "variant": "a"}
    assert shown["b"].data.params == {"Ramp.end": "0.9", "variant": "b"}
    assert shown["b-seed0"].data.params == {"Ramp.end": "0.9", "variant": "b"}
    assert shown["b-seed0"].data.tags["mlflow.parentRunId"] == shown["b"].info.run_id
    assert shown["b"].data.tags["mlflow.parentRunId"] == shown["s"].info.run_id
    assert "`Ramp.end = 0.9`" in shown["b"].data.tags["mlflow.note.content"]
    assert shown["s"].data.tags["mlflow.note.content"] == "What it is.\n\n| variant |"


@pytest.mark.parametrize(("metric", "whose"), [(VALIDATION, "b, the best by"), (RIDGE, "a, the baseline")])
def test_no_test_image_chooses_whose_figures_a_study_shows(
    uri: str, tmp_path: Path, tiny: Path, metric: str, whose: str
) -> None:
    """By test images, of which the best is c, the baseline stands for the study."""
    study = ablation_study(tmp_path, {"a": [0.5, 0.6], "b": [0.8, 0.7], "c": [0.1, 0.1], "d": [0.99]})
    variants: dict[str, list[str]] = {"a": [], "b": ["Ramp.end = 0.9"], "c": [], "d": []}
    definition = Ablation(base=[str(tiny)], variants=variants, seeds=[0, 1], metric=metric, baseline="a")
    StudyTracker(MLflowTracker(uri=uri, experiment="s"), "s", definition).complete(study, [])
    row = rows(uri)["s"]
    assert row.data.tags["figures_of"].startswith(whose)
    assert row.data.metrics[metric] == pytest.approx(0.75 if metric == VALIDATION else 0.45)
    counts = {name: value for name, value in row.data.metrics.items() if name.startswith("study/")}
    assert counts == {
        "study/variants": 4,
        "study/seeds": 2,
        "study/finished_runs": 7,
        "study/failed_runs": 0,
        "study/pruned_trials": 0,
    }


def test_trials_are_named_by_their_setting_and_pruned_ones_have_no_figures(
    uri: str, tmp_path: Path, tiny: Path
) -> None:
    definition = Search(base=[str(tiny)], space=SPACE, metric=VALIDATION)
    space = {
        "Ramp.end": optuna.distributions.FloatDistribution(0, 1),
        "Ramp.shape": optuna.distributions.CategoricalDistribution(["linear", "cosine"]),
    }
    study = optuna.create_study(study_name="s", direction="maximize")
    for number, (end, value, state) in enumerate(
        [(0.5, 0.6, TrialState.COMPLETE), (0.25, 0.4, TrialState.COMPLETE), (0.75, 0.99, TrialState.PRUNED)]
    ):
        kept = result(tmp_path / str(number), f"trial-{number:04d}", 0, value)
        study.add_trial(
            optuna.trial.create_trial(
                params={"Ramp.end": end, "Ramp.shape": "linear"},
                distributions=space,
                value=value,
                state=state,
                user_attrs={RESULTS: [kept]},
                intermediate_values={1: 0.99},
            )
        )
    tracker = StudyTracker(MLflowTracker(uri=uri, experiment="s"), "s", definition)
    for number in range(3):
        tracker.update(study, number)
    shown = rows(uri)
    pruned = "trial-0002: Ramp.end=0.75, Ramp.shape=linear"
    assert set(shown) == {
        "s",
        "trial-0000: Ramp.end=0.5, Ramp.shape=linear",
        "trial-0001: Ramp.end=0.25, Ramp.shape=linear",
        pruned,
    }
    assert shown[pruned].data.metrics == {"study/seeds": 0, "study/failed_runs": 0}
    assert shown[pruned].info.status == "KILLED"
    assert shown[pruned].data.params == {"Ramp.end": "0.75", "Ramp.shape": "linear"}
    assert shown["s"].data.tags["figures_of"] == f"trial-0000, the best by {VALIDATION}"
    assert shown["s"].data.metrics[VALIDATION] == 0.6
    assert shown["s"].data.metrics["study/pruned_trials"] == 1


def test_a_run_of_a_study_is_named_by_its_seed(uri: str, tmp_path: Path, tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("MLflowTracker.enabled = False", ""))
    study = ablation_study(tmp_path, {"a": [0.5]})
    definition = Ablation(base=[str(tiny)], variants={"a": []}, seeds=[0], metric=RIDGE)
    tracker = StudyTracker(MLflowTracker(uri=uri), "s", definition)
    (planned,) = definition.plan(study.trials[0], 0)
    bindings = tracker.bindings(study, planned, 0)
    (tags,) = (text for text in bindings if text.startswith("MLflowTracker.tags"))
    finished_run(tmp_path / "a-seed0", uri, {}, **ast.literal_eval(tags.partition("=")[2]))
    assert set(rows(uri)) == {"s", "a", "seed 0 of a"}
