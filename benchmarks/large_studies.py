"""What many runs and long runs cost: comparing 500 runs, and a million rows of metrics. Prints JSON.

Comparing is timed as a user waits for it, the whole command with its start: of a study in SQLite, of a results.csv, of
an MLflow experiment, and with a report, whose figures read the metrics of every run (200 rows each). The rows of a run
are timed as training waits for them, what one logging interval and one checkpoint take, with few rows in the run's
folder and with many.

    python benchmarks/large_studies.py [--runs 500] [--rows 1000000]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from machine import describe_machine
from mlflow.entities import Metric
from optuna.distributions import IntDistribution

from hpm.runs.metrics_file import MetricsFile
from hpm.runs.run_folder import RunFolder
from hpm.runtime.distributed import DistributedContext
from hpm.tracking import NoTracker
from hpm.tracking.mlflow import MLflowTracker
from hpm.training.recorder import RunRecorder
from studies.analysis.results import RESULTS, Result
from studies.analysis.results_csv import csv_results

MEASURED = Path(__file__).parents[1] / "docs" / "results" / "hardness" / "results.csv"
VARIANTS = 10
ROWS_OF_A_RUN = 200
HPM_STUDY = [sys.executable, "-m", "studies"]


def many_results(count: int, folder: Path) -> Iterator[Result]:
    """Runs of a study that was measured, with other seeds."""
    measured = csv_results(MEASURED)
    for number in range(count):
        like = asdict(measured[number % len(measured)])
        known = {"source": "many", "variant": f"variant{number % VARIANTS}", "seed": number // VARIANTS}
        yield Result(**{**like, **known, "folder": folder / str(number)})


def row_of(step: int) -> dict[str, Any]:
    """A row as training writes it."""
    losses = ("loss", "reconstruction_loss", "prediction_loss", "alpha", "lr", "gradient_norm", "seconds")
    return {"step": step, "time": 1e9 + step, "kind": "train", "epoch": step / 100} | dict.fromkeys(losses, step / 7)


def write_rows(path: Path, count: int) -> None:
    """A file of metrics with so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        file.writelines(f"{json.dumps(row_of(step))}\n" for step in range(1, count + 1))


def make_sources(results: list[Result], folder: Path) -> dict[str, list[str]]:
    """The runs as a study, as a file and as an experiment: the words of the command that compares each."""
    storage = f"sqlite:///{folder / 'studies.db'}"
    study = optuna.create_study(storage=storage, study_name="study", direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                value=0.0,
                params={"number": number},
                distributions={"number": IntDistribution(0, len(results))},
                user_attrs={RESULTS: [{**asdict(result), "folder": str(result.folder)}]},
            )
            for number, result in enumerate(results)
        ]
    )
    compared = ["compare", "study", "--metric", "linear/pretrained", "--against", "variant0", "--storage", storage]
    printed = subprocess.run([*HPM_STUDY, *compared, "--csv"], capture_output=True, text=True, check=True).stdout
    (folder / "results.csv").write_text(printed)
    client = MLflowTracker(uri=f"sqlite:///{folder / 'mlflow.db'}").client()
    experiment = client.create_experiment("experiment")
    for result in results:
        tags = {"variant": result.variant, "seed": str(result.seed), "data": result.data, "device": result.device}
        run = client.create_run(experiment, tags=tags)
        client.log_batch(run.info.run_id, [Metric(name, value, 0, 0) for name, value in result.metrics.items()])
        client.set_terminated(run.info.run_id, "FINISHED")
    rest = compared[2:6]
    return {
        "study": compared,
        "study, with a report": [*compared, "--output", str(folder / "report")],
        "results.csv": ["compare", str(folder / "results.csv"), *rest],
        "MLflow experiment": ["compare", "experiment", *rest],
    }


def seconds_of_commands(commands: Mapping[str, list[str]], folder: Path, repeats: int) -> dict[str, float]:
    """Median seconds of each command, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, words in commands.items():
            started = time.perf_counter()
            subprocess.run([*HPM_STUDY, *words], cwd=folder, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - started)
    return {name: round(statistics.median(taken), 2) for name, taken in seconds.items()}


def microseconds_of_rows(counts: tuple[int, ...], folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Median microseconds of logging a row, and of handing over what a checkpoint covers, by rows that are there."""
    recorders: dict[int, RunRecorder] = {}
    seconds: dict[int, dict[str, list[float]]] = {}
    for count in counts:
        write_rows(folder / str(count) / "metrics.jsonl", count)
        recorders[count] = RunRecorder(
            RunFolder(folder / str(count)), NoTracker(), DistributedContext.from_environment()
        )
        recorders[count].start()
        seconds[count] = {"row": [], "checkpoint": []}
    for number in range(1, repeats + 1):
        for count, recorder in recorders.items():
            metrics: MetricsFile = recorder.folder.metrics
            started = time.perf_counter()
            metrics.append(row_of(count + number))
            logged = time.perf_counter()
            recorder.publish(count + number)
            seconds[count]["row"].append(logged - started)
            seconds[count]["checkpoint"].append(time.perf_counter() - logged)
    return {
        f"{count:,} rows": {name: round(1e6 * statistics.median(taken), 1) for name, taken in both.items()}
        for count, both in seconds.items()
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5, help="of each command; of rows, 40 times as many")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = list(many_results(options.runs, folder / "runs"))
        for result in results:
            assert result.folder is not None
            write_rows(result.folder / "metrics.jsonl", ROWS_OF_A_RUN)
        commands = {"--help": ["--help"], **make_sources(results, folder)}
        compared = seconds_of_commands(commands, folder, options.repeats)
        rows = microseconds_of_rows((100, options.rows), folder / "long", 40 * options.repeats)
    print(
        json.dumps(
            {
                "benchmark": "large_studies",
                **vars(options),
                "seconds_of_commands": compared,
                "microseconds": rows,
                "machine": describe_machine("cpu"),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
