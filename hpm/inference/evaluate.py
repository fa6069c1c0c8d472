"""`hpm evaluate`: protocols on a trained model, and where their results go.

evaluation-PROTOCOL.json   beside checkpoints/ in the run's folder, or beside a published file: a list of entries, one
                           for each (model, weights, configs, bindings, seeds)
evaluation/                what long protocols need to go on after a kill; gone once they are done
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hpm import __version__
from hpm.errors import UserError
from hpm.evaluation import Evaluation
from hpm.evaluation.base import half_interval
from hpm.inference.loading import LoadedModel, check_weights, load_model
from hpm.runs.run_folder import RunFolder
from hpm.runtime.distributed import DistributedContext
from hpm.tracking.mlflow import MLflowTracker
from hpm.tracking.outbox import TrackingState

PROTOCOLS = {
    "knn": "KNN",
    "linear": "Linear",
    "linear-mae": "LinearMAE",
    "ridge": "Ridge",
    "finetune": "FineTune",
    "low-shot": "LowShot",
    "agreement": "Agreement",
    "diagnostics": "Diagnostics",
    "localization": "Localization",
}
_SHARES = ("knn/", "linear/", "linear_mae/", "ridge/", "finetune/", "low_shot/")  # metrics that are accuracies
_OF_A_DRAW = re.compile(r"/(draw\d+|interval)$")
_WITHOUT_NUMBERS = ("Runtime.", "MLflowTracker.")  # bindings that change nothing but speed and rounding

Entry = dict[str, Any]


def evaluate(
    path: Path,
    console: Console,
    *,
    protocols: Sequence[str],
    configs: Sequence[str] = (),
    bindings: Sequence[str] = (),
    weights: str = "student",
    seeds: int | None = None,
    processes: DistributedContext | None = None,
) -> list[Entry]:
    """Run protocols on a trained model, print a table, and keep the results.

    Args:
        path: a run's folder, a checkpoint, or a published file.
        console: where a person reads.
        protocols: names, of `PROTOCOLS`.
        configs: for a published file, its config and any of the protocols'; for a run, the protocols' alone.
        bindings: gin bindings over all.
        weights: "student" or "teacher".
        seeds: how many seeds a protocol is repeated with; how many draws low-shot fine-tuning makes. None for what
            the configuration says.
        processes: all that were started. Default this one alone.

    Returns:
        The results' entries, one for each protocol, as written; none in all processes but the main one.

    Raises:
        UserError: for an unknown protocol, a model that cannot be loaded, or data that cannot serve.
    """
    _check(protocols, weights, seeds)
    processes = DistributedContext() if processes is None else processes
    draws = [f"LowShot.draws = {seeds}"] if seeds is not None and "low-shot" in protocols else []
    loaded = load_model(path, bindings=[*draws, *bindings], over=configs, weights=weights)
    evaluations = _build(loaded, protocols)
    processes.connect(loaded.device)
    for line in loaded.lines:
        console.print(line, markup=False, highlight=False)
    folder = _results_folder(loaded)
    for protocol in protocols:
        _read(folder / f"evaluation-{protocol}.json")  # a damaged file is found before the work, not after it
    entries = []
    for protocol, evaluation in zip(protocols, evaluations, strict=True):
        entry = _entry(loaded, protocol, configs, bindings, weights, seeds)
        console.print(f"{protocol}: {entry['model']}, {weights}'s weights, on {loaded.device}", highlight=False)
        kept = folder / "evaluation" / f"{protocol}-{_fingerprint(loaded, entry, processes.world_size)}"
        started = time.monotonic()
        values = _measure(console, loaded, evaluation, processes, weights=weights, seeds=seeds or 1, kept=kept)
        if not processes.is_main:
            continue
        entry |= {"seconds": time.monotonic() - started, "metrics": summarize(values)}
        console.print(table(protocol, entry["metrics"]))
        _write(console, folder / f"evaluation-{protocol}.json", entry)
        shutil.rmtree(kept, ignore_errors=True)
        _report_to_mlflow(console, loaded, entry)
        entries.append(entry)
    return entries


def _check(protocols: Sequence[str], weights: str, seeds: int | None) -> None:
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown or not protocols:
        raise UserError(
            f"--protocol {','.join(unknown) or 'of no name'} is unknown; choose from {', '.join(PROTOCOLS)}"
        )
    if len(set(protocols)) < len(protocols):
        raise UserError(f"--protocol {','.join(protocols)} names one twice")
    check_weights(weights)
    if seeds is not None and seeds < 1:
        raise UserError(f"--seeds {seeds} must be at least 1")


def _build(loaded: LoadedModel, protocols: Sequence[str]) -> list[Evaluation]:
    """The protocols, as the configuration has them.

    Raises:
        UserError: where one does not fit the data or the model, or a binding of the command line is of none of them.
    """
    evaluations: list[Evaluation] = [loaded.config.build_part(PROTOCOLS[name]) for name in protocols]
    loaded.config.check_bindings()
    for evaluation in evaluations:
        try:
            evaluation.check(loaded.source, loaded.method.student)
        except ValueError as error:
            raise UserError(str(error)) from error
    return evaluations


def _results_folder(loaded: LoadedModel) -> Path:
    """The run's folder; for a checkpoint or a file without a run, the folder that it lies in."""
    return loaded.path.parent if loaded.run is None else loaded.run.path


def _entry(
    loaded: LoadedModel, protocol: str, configs: Sequence[str], bindings: Sequence[str], weights: str, seeds: int | None
) -> Entry:
    own = f"{PROTOCOLS[protocol]}."
    return {
        "protocol": protocol,
        "model": loaded.path.name,
        "step": loaded.step,
        "weights": weights,
        "configs": list(configs),
        "bindings": list(bindings),
        "seeds": seeds,
        "data": type(loaded.source).__name__,
        "parameters": {name: value for name, value in loaded.config.parameters().items() if name.startswith(own)},
        "seed": loaded.seed,
        "device": str(loaded.device),
        "version": __version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _key(entry: Entry) -> str:
    """What makes two entries the same evaluation."""
    return json.dumps([entry.get(name) for name in ("model", "step", "weights", "configs", "bindings", "seeds")])


def _fingerprint(loaded: LoadedModel, entry: Entry, world_size: int) -> str:
    """Of everything that the progress of a long protocol depends on."""
    parameters = {
        name: value
        for name, value in loaded.config.parameters().items()
        if not name.startswith(_WITHOUT_NUMBERS) and not name.endswith(".num_workers")
    }
    file = loaded.path.stat()
    content = [_key(entry), entry["seed"], file.st_size, file.st_mtime_ns, parameters, world_size]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _measure(
    console: Console,
    loaded: LoadedModel,
    evaluation: Evaluation,
    processes: DistributedContext,
    *,
    weights: str,
    seeds: int,
    kept: Path,
) -> dict[str, list[float]]:
    """Each metric's values, one for each seed."""
    name = type(evaluation).__name__
    if seeds > 1 and not evaluation.seeded:
        if name != "LowShot":  # whose draws the seeds have become
            console.print(f"{name} draws nothing: it is measured once", style="yellow")
        seeds = 1
    context = replace(loaded.context(weights), processes=processes)
    values: dict[str, list[float]] = {}
    for number in range(seeds):
        seed = context.seed + number
        if seeds > 1:
            console.print(f"seed {seed}", highlight=False)
        report = _line(console)
        if not evaluation.shared and not processes.is_main:
            continue
        metrics = evaluation.measure(replace(context, seed=seed, folder=kept / f"seed-{seed}", report=report))
        for metric, value in metrics.items():
            values.setdefault(metric, []).append(value)
    return values


def _line(console: Console) -> Any:
    return lambda text: console.print(text, markup=False, highlight=False)


def summarize(values: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Mean, half the width of the 95 % interval (Student's t) and values of each metric.

    An evaluation that draws by itself, as `LowShot` does, gives each draw as `NAME/draw0`; these are NAME's values.
    """
    summary = {}
    for name, found in values.items():
        if _OF_A_DRAW.search(name):
            continue
        draws = [value[0] for other, value in values.items() if re.fullmatch(re.escape(name) + r"/draw\d+", other)]
        found = draws if len(found) == 1 and draws else found
        summary[name] = {"mean": statistics.fmean(found), "interval": half_interval(found), "values": found}
        if len(found) < 2:
            del summary[name]["interval"]
    return summary


def is_share(metric: str) -> bool:
    """Whether a metric is an accuracy in [0, 1], which people read in percent."""
    return metric.startswith(_SHARES)


def table(protocol: str, metrics: dict[str, dict[str, Any]]) -> Table:
    """For a terminal."""
    several = any("interval" in metric for metric in metrics.values())
    shown = Table(title=protocol, title_justify="left", title_style="bold")
    for column in ("metric", "mean", *(["95 % interval", "values"] if several else [])):
        shown.add_column(column, justify="left" if column == "metric" else "right")
    for name, metric in metrics.items():
        scale, unit = (100.0, " %") if is_share(name) else (1.0, "")
        digits = 2 if unit else 4
        row = [name, f"{scale * metric['mean']:.{digits}f}{unit}"]
        if "interval" in metric:
            row += [f"± {scale * metric['interval']:.{digits}f}", str(len(metric["values"]))]
        shown.add_row(*row)
    return shown


def _read(file: Path) -> list[Entry]:
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}; move it away, new results go there") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{file} does not hold results of hpm evaluate; move it away, new results go there")
    return entries


def _write(console: Console, file: Path, entry: Entry) -> None:
    """Add an entry, in the place of an older one of the same evaluation. What cannot be written is printed."""
    try:
        others = _read(file)
        replaced = [other for other in others if _key(other) == _key(entry)]
        entries = [other for other in others if _key(other) != _key(entry)] + [entry]
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(entries, indent=2) + "\n")
        partial.replace(file)
    except (OSError, UserError) as error:
        console.print(f"{file} could not be written: {error}; these are the results", style="yellow", markup=False)
        console.print_json(json.dumps(entry))
        return
    for other in replaced:
        console.print(f"replaces the result of {other.get('time')}", highlight=False)
    console.print(f"results: {file}", highlight=False, soft_wrap=True)


def _report_to_mlflow(console: Console, loaded: LoadedModel, entry: Entry) -> None:
    """Add the results to the run's entry in MLflow, where it has one. Failing loses nothing."""
    if loaded.run is None:
        return
    tracker: MLflowTracker = loaded.config.parameter("Monitoring", "tracker") or MLflowTracker(enabled=False)
    try:
        where = send_to_mlflow(loaded.run, tracker, entry)
    except Exception as error:  # whatever goes wrong in tracking, the results are on disk
        console.print(f"MLflow does not have these results: {tracker.reason(error)}", style="yellow", markup=False)
        return
    if where:
        console.print(f"MLflow: {where}", highlight=False, soft_wrap=True)


def send_to_mlflow(run: RunFolder, tracker: MLflowTracker, entry: Entry) -> str | None:
    """Log an entry's metrics to the run that `mlflow.json` names, as `evaluate/WEIGHTS/METRIC` at the model's step.

    Returns:
        Where they went, without password; None where the run has no entry.
    """
    try:
        known = TrackingState.read(run.path)
    except FileNotFoundError:
        return None
    if known.run_id is None:
        return None
    # The file has no passwords; where it means the address that is configured, that one has.
    client = (tracker if known.uri == tracker.where else MLflowTracker(uri=known.uri)).client()
    from mlflow.entities import Metric

    now, metrics = int(time.time() * 1000), []
    for name, metric in entry["metrics"].items():
        metrics.append(Metric(f"evaluate/{entry['weights']}/{name}", metric["mean"], now, entry["step"]))
        if "interval" in metric:
            name = f"evaluate/{entry['weights']}/{name}/interval"
            metrics.append(Metric(name, metric["interval"], now, entry["step"]))
    client.log_batch(known.run_id, metrics=metrics)
    return known.uri
