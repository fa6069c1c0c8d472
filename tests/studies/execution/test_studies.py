"""Whole studies: workers, a dead worker, a stop and a restart, and what is there afterwards."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.redact import redact_text
from studies.analysis.results import experiment_results, study_results
from studies.execution.storage import open_storage

Hpm = Callable[..., int]
Study = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[3]

ABLATION = """
Ablation.base = ['tiny.gin']
Ablation.bindings = ['MLflowTracker.enabled = True']
Ablation.variants = {'random': ['curricula/random'], 'easy_to_hard': []}
Ablation.seeds = [0]
Ablation.metric = 'ridge/pretrained'
"""
SEARCH = """
import kill_worker
Search.base = ['tiny.gin']
Search.bindings = ['MLflowTracker.enabled = False', 'Curriculum.scheduler = @KillWorker()']
Search.space = {'KillWorker.shape': "Categorical(['linear', 'root'])", 'KillWorker.end': 'Float(0, 1)'}
Search.first = [{'KillWorker.shape': 'linear', 'KillWorker.end': 0.5}]
Search.metric = 'validation/ridge/pretrained'
Search.sampler = @TPESampler
TPESampler.n_startup_trials = 3
Search.pruner = @MedianPruner()
MedianPruner.n_startup_trials = 2
"""


SHARE = "curriculum/hardness_share"


def trials(url: str, name: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=name, storage=open_storage(url)).get_trials()


def summary(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder, "summary.json").read_text())


def measured(folder: str, name: str) -> list[float]:
    return [json.loads(line).get(name) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("server", ["sqlite", pytest.param("postgresql", marks=pytest.mark.needs_postgresql)])
def test_a_killed_workers_trial_goes_on(
    study: Study, small: Path, tmp_path: Path, server: str, request: pytest.FixtureRequest
) -> None:
    """Two workers search; a run kills its own worker, and the other takes its trial too: none is lost or doubled."""
    url = "sqlite:///studies.db" if server == "sqlite" else request.getfixturevalue("postgresql")
    (tmp_path / "search.gin").write_text(SEARCH)
    ran = study(
        "search",
        "search.gin",
        "--trials",
        2,
        "--workers",
        2,
        "--storage",
        url,
        "--poll",
        0.2,
        KILLED=str(tmp_path / "killed"),
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = trials(url, "search")
    counts = Counter(trial.state for trial in found)
    assert counts[TrialState.FAIL] == 1
    assert counts[TrialState.COMPLETE] + counts[TrialState.PRUNED] == 2
    assert len(found) == 3
    (dead,) = (trial for trial in found if trial.state == TrialState.FAIL)
    (retried,) = (trial for trial in found if trial.system_attrs.get("retry_history") == [dead.number])
    assert retried.params == dead.params
    log = Path(f"runs/search/logs/trial-{dead.number:04d}.txt").read_text()
    assert re.search(r"resuming after step \d+ of 40", log)
    assert len(list(Path("runs/search").glob("trial-*"))) == 2
    assert found[0].params == {"KillWorker.shape": "linear", "KillWorker.end": 0.5}
    for trial in found:
        if trial.state == TrialState.COMPLETE:
            (result,) = trial.user_attrs["results"]
            assert (
                trial.value
                == result["metrics"]["validation/ridge/pretrained"]
                == summary(result["folder"])["metrics"]["validation/ridge/pretrained"]
            )
    best = max((trial for trial in found if trial.state == TrialState.COMPLETE), key=lambda trial: trial.value)
    text = Path("runs/search/best.gin").read_text()
    assert f"KillWorker.shape = '{best.params['KillWorker.shape']}'" in text
    again = html.unescape(Path("runs/search/report.html").read_text())
    assert f"hpm-study search search.gin --trials 2 --storage {redact_text(url)}" in again


def test_an_ablation_is_stopped_goes_on_and_repeats(study: Study, hpm: Hpm, small: Path, tmp_path: Path) -> None:
    (tmp_path / "abl.gin").write_text(ABLATION)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "studies", "ablate", "abl.gin", "--poll", "0.2"]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = Path("runs/abl/random-seed0/metrics.jsonl")
    while not metrics.is_file() and first.poll() is None:
        time.sleep(0.05)  # until the first run trains
    first.send_signal(signal.SIGTERM)  # SIGINT is ignored by what a shell starts in the background
    printed, _ = first.communicate(timeout=120)
    assert first.returncode == 75, printed
    assert "go on with the same command" in printed
    assert "MLflow at http://127.0.0.1:9 does not show the study" in " ".join(printed.split())
    assert {trial.state for trial in trials("sqlite:///runs/studies.db", "abl")} == {TrialState.WAITING}

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ran = study("ablate", "abl.gin", "--workers", 2, "--poll", 0.2, MLFLOW_TRACKING_URI=uri)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = trials("sqlite:///runs/studies.db", "abl")
    assert {(trial.params["variant"], trial.params["seed"]) for trial in found} == {("random", 0), ("easy_to_hard", 0)}
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 2
    assert "resuming after step" in Path("runs/abl/logs/random-seed0.txt").read_text()
    assert all(result["cost"]["images"] == 640 for trial in found for result in trial.user_attrs["results"])
    assert [result["scored_images"] for trial in found for result in trial.user_attrs["results"]] == [
        {"validation/ridge/pretrained": 40, "ridge/pretrained": 48}
    ] * 2
    for result in (result for trial in found for result in trial.user_attrs["results"]):
        images = json.loads(Path(result["folder"], "run.json").read_text())["data"]
        assert result["fingerprints"]["training"] == images["fingerprint"]
        assert result["fingerprints"]["test"] == images["held_out"]["test"]["fingerprint"]
        assert result["skipped_steps"] == 0
    assert Path("runs/abl/report.html").is_file()

    compared = study("compare", "abl", "--markdown")
    assert compared.returncode == 0, compared.stderr
    assert "ridge/pretrained, %, against random" in compared.stdout
    again = study("compare", "runs/abl/results.csv", "--metric", "ridge/pretrained", "--against", "random", "--csv")
    assert again.stdout == Path("runs/abl/results.csv").read_text()
    # Whatever was interrupted, a trial is what hpm pretrain makes of the same configuration.
    assert (
        hpm("pretrain", "tiny.gin", "curricula/random", "--output", "direct", "-b", "MLflowTracker.enabled = False")
        == 0
    )
    (random,) = (trial for trial in found if trial.params["variant"] == "random")
    assert random.value == summary("direct")["metrics"]["ridge/pretrained"]
    for name in ("loss", "gradient_norm"):
        assert measured("direct", name) == measured("runs/abl/random-seed0", name)
    shows_nested_runs(uri)


def test_an_ablation_says_which_runs_failed_and_keeps_the_others(study: Study, small: Path, tmp_path: Path) -> None:
    """Numbers of parts have no hardness, which is found out when their share of it is measured."""
    variants = "Ablation.variants = {'random': ['curricula/random'], 'semmae': ['curricula/semmae']}"
    changed = re.sub(r"Ablation\.variants = .*", variants, ABLATION).replace("ridge/pretrained", SHARE)
    (tmp_path / "abl.gin").write_text(changed + "Ablation.bindings = ['Monitoring.evaluations = [@HardnessShare()]']\n")
    for _ in range(2):
        ran = study("ablate", "abl.gin", "--poll", 0.2)
        told = " ".join((ran.stdout + ran.stderr).split())
        assert ran.returncode == 3, told
        assert told.count(f"failed: semmae-seed0 has no {SHARE}; it has") == 1
        assert "1 of its runs failed, as told above; the same command trains them once more" in told
        assert Path("runs/abl/report.html").is_file()
    fewer = study("ablate", "abl.gin", "-b", "Ablation.seeds = [1]", "--poll", 0.2)
    assert fewer.returncode == 3
    assert "seed0" not in fewer.stdout + fewer.stderr  # what failed there is not asked for now
    compared = study("compare", "abl", "--markdown")
    assert compared.returncode == 0, compared.stderr
    assert "no run is complete yet of semmae" in compared.stdout


def shows_nested_runs(uri: str) -> None:
    """Study, variant, seed; with every row of metrics, though the server was not there when the first run began."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("abl")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"abl", "random", "easy_to_hard", "seed 0 of random", "seed 0 of easy_to_hard"}
    assert all(run.info.status == "FINISHED" for run in runs.values())
    for variant in ("random", "easy_to_hard"):
        leaf, parent = runs[f"seed 0 of {variant}"], runs[variant]
        assert leaf.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert parent.data.tags["mlflow.parentRunId"] == runs["abl"].info.run_id
        assert {leaf.data.tags[name] for name in ("study", "variant", "seed")} == {"abl", variant, "0"}
        assert {"curriculum", "data", "commit", "device"} <= leaf.data.tags.keys()
        assert leaf.data.params["Schedule.epochs"] == "4"
        steps = [metric.step for metric in client.get_metric_history(leaf.info.run_id, "Training/loss")]
        assert steps == list(range(4, 41, 4))
        assert parent.data.metrics["ridge/pretrained"] == leaf.data.metrics["ridge/pretrained"]
        assert parent.data.metrics["cost/flops"] == leaf.data.metrics["cost/flops"] > 0
        scheduler = {"random": "@Constant()", "easy_to_hard": "@Ramp()"}[variant]
        assert parent.data.params["Curriculum.scheduler"] == leaf.data.params["Curriculum.scheduler"] == scheduler
        assert "Made by" in leaf.data.tags["mlflow.note.content"]
    assert runs["abl"].data.tags["figures_of"] == "random, the baseline"
    assert "hpm-study ablate abl.gin" in runs["abl"].data.tags["mlflow.note.content"]
    assert "| random |" in experiment.tags["mlflow.note.content"]
    # An experiment compares as the study does, whatever else is logged to it.
    for tags in ({}, {"seed": "none"}):
        client.set_terminated(client.create_run(experiment.experiment_id, tags=tags).info.run_id)
    of_mlflow = {(r.variant, r.seed): r for r in experiment_results("abl", MLflowTracker(uri=uri))}
    stored = optuna.load_study(study_name="abl", storage=open_storage("sqlite:///runs/studies.db"))
    of_optuna = {(r.variant, r.seed): r for r in study_results(stored)}
    assert of_mlflow.keys() == of_optuna.keys() == {("random", 0), ("easy_to_hard", 0)}
    for key, result in of_optuna.items():
        assert of_mlflow[key].metrics == dict(result.metrics)
        assert of_mlflow[key].cost == result.cost
        assert result.cost["images"] == 640
        assert len(of_mlflow[key].rows()) == len(result.rows()) > 10
    files = {file.path for file in client.list_artifacts(runs["abl"].info.run_id)}
    assert {"report.html", "results.csv", "figures"} <= files
    pictures = {file.path for file in client.list_artifacts(runs["abl"].info.run_id, "figures")}
    assert "figures/differences.png" in pictures
    assert "figures%2Fdifferences.png" in runs["abl"].data.tags["mlflow.note.content"]
