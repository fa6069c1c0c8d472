"""What runs brought: read from Optuna's storage, where studies keep it, or from an experiment of MLflow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from hpm.errors import UserError
from hpm.runs.metrics_file import Row
from hpm.runs.run_folder import RunFolder
from hpm.tracking.entry import TRAINING
from hpm.tracking.mlflow import MLflowTracker

RESULTS = "results"
"""The user attribute in which a trial keeps what its runs brought: a list with one dictionary for each run."""

COSTS = ("images", "training_seconds", "flops")
"""What a run is known to have cost, in this order in tables."""

_SEED = re.compile(r"-?[0-9]{1,20}")
_NOT_RESULTS = ("system/", "evaluate/", "cost/", TRAINING)
_LARGEST = 1e50  # tests take the fourth power of a figure


def is_usable(value: float) -> bool:
    """Whether statistics can be made of a figure: it is finite, and its fourth power is."""
    return abs(value) <= _LARGEST


@dataclass(frozen=True)
class Result:
    """One complete run.

    Args:
        source: the study or experiment it belongs to.
        variant: what is compared.
        seed: the run's seed.
        metrics: the final figures, by name.
        cost: "images", "training_seconds" and, where counted, "flops".
        data: the data set.
        device: what it was trained on.
        commit: the source it was trained with.
        folder: the run's, if it is on this machine.
        parameters: a search's, by binding; empty for an ablation.
        config: tells one configuration from another, seeds apart; "" where that is not known.
        scored_images: over how many images a metric is a share of right answers, by its name; empty for runs that do
            not say.
        skipped_steps: steps whose gradient was not finite; None for runs that do not say.
        fingerprints: of the images, by "training", "validation" and "test"; empty for runs that do not say.
    """

    source: str
    variant: str
    seed: int
    metrics: Mapping[str, float]
    cost: Mapping[str, float]
    data: str
    device: str
    commit: str
    folder: Path | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    scored_images: Mapping[str, int] = field(default_factory=dict)
    skipped_steps: int | None = None
    fingerprints: Mapping[str, str] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """What was measured during training; empty where the run's folder is elsewhere."""
        return [] if self.folder is None else RunFolder(self.folder).metrics.rows()


def study_results(study: optuna.Study) -> list[Result]:
    """The complete runs of a study, each once."""
    results: dict[tuple[str, int], Result] = {}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        for kept in trial.user_attrs.get(RESULTS, []):
            result = Result(
                source=study.study_name,
                variant=kept["variant"],
                seed=kept["seed"],
                metrics=kept["metrics"],
                cost=kept["cost"],
                data=kept["data"],
                device=kept["device"],
                commit=kept["commit"],
                folder=Path(kept["folder"]),
                parameters=trial.params if "variant" not in trial.params else {},
                config=kept.get("config", ""),
                scored_images=kept.get("scored_images", {}),
                skipped_steps=kept.get("skipped_steps"),
                fingerprints=kept.get("fingerprints", {}),
            )
            results.setdefault((result.variant, result.seed), result)
    return list(results.values())


def experiment_results(name: str, tracker: MLflowTracker) -> list[Result]:
    """The complete runs of an MLflow experiment; a run's variant is its tag `variant`, else its curriculum.

    Args:
        name: the experiment's.
        tracker: says where MLflow is.

    Raises:
        UserError: if the server has no such experiment, or cannot be reached.
    """
    try:
        client = tracker.client(to_read=True)
        experiment = None if client is None else client.get_experiment_by_name(name)
        runs = _all_runs(client, experiment.experiment_id) if experiment is not None else []
    except Exception as error:  # whatever a server says
        raise UserError(f"MLflow at {tracker.where} cannot be read: {tracker.reason(error)}") from error
    if experiment is None:
        raise UserError(f"there is no study and, at {tracker.where}, no MLflow experiment {name!r}")
    # Others that are logged to the same experiment have no seed, or something else under that name.
    ours = [run for run in runs if _SEED.fullmatch(run.data.tags.get("seed", "")) and run.info.status == "FINISHED"]
    return [_result_of_run(name, run) for run in ours]


def _all_runs(client: Any, experiment_id: str) -> list[Any]:
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([experiment_id], max_results=1000, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _result_of_run(experiment: str, run: Any) -> Result:
    tags = run.data.tags
    parameters = run.data.params
    metrics = run.data.metrics
    cost = {"training_seconds": metrics["seconds"]} if "seconds" in metrics else {}
    steps = max((metric.step for metric in run.data._metric_objs if metric.key == f"{TRAINING}loss"), default=None)
    if steps is not None and parameters.get("Schedule.batch_size", "").isdigit():
        cost["images"] = steps * int(parameters["Schedule.batch_size"])
    cost |= {name: metrics[f"cost/{name}"] for name in COSTS if f"cost/{name}" in metrics}  # of a study's runs
    folder = Path(tags["folder"]) if "folder" in tags else None
    return Result(
        source=experiment,
        variant=tags.get("variant") or tags.get("curriculum", "unknown"),
        seed=int(tags["seed"]),
        metrics={
            name: value
            for name, value in metrics.items()
            if "/" in name and not name.startswith(_NOT_RESULTS)  # evaluations', not training's
        },
        cost=cost,
        data=tags.get("data", "unknown"),
        device=tags.get("device", "unknown"),
        commit=tags.get("commit", "unknown"),
        folder=folder if folder is not None and folder.is_dir() else None,
    )


def metric_names(results: Sequence[Result]) -> list[str]:
    """Every metric that some run has."""
    return sorted({name for result in results for name in result.metrics})


def metric_choice(results: Sequence[Result]) -> str:
    """What an error says of the metrics that there are to choose from."""
    names = ", ".join(metric_names(results))
    return f"choose one of {names}" if names else "there are no complete runs"
