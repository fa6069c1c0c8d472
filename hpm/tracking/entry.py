"""A run's entry in MLflow: found or made, and given parameters, metrics and files.

Every function takes an `MlflowClient` and passes on whatever error it raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hpm.runs.metrics_file import Row
from hpm.tracking.destination import Destination
from hpm.tracking.redact import redact_address

_METRICS_PER_CALL = 1000
_PARAMETERS_PER_CALL = 100
_LONGEST_VALUE = 500  # characters of a parameter
_NOT_METRICS = {"step", "time", "kind"}
TRAINING = "Training/"
_OF_THE_STEP = {
    "epoch",
    "ema_decay",
    "gradient_norm",
    "images_per_second",
    "learning_rate",
    "seconds",
    "skipped_steps",
    "unscored",
}
_NOT_IN_A_NAME = re.compile(r"[^\w/.\- :]")  # MLflow refuses a whole batch for one of these
_KEY = "run_key"  # tag of our runs in MLflow
_NAME = "mlflow.runName"  # a tag that names a run


@dataclass(frozen=True)
class Opening:
    """What an entry is made with.

    Args:
        folder: the run's.
        name: the run's.
        destination: where on the server it is put.
        parameters: everything in force, by name.
        tags: what it may be found by.
    """

    folder: Path
    name: str
    destination: Destination
    parameters: Mapping[str, str]
    tags: Mapping[str, str]


def find_run(client: Any, run_id: str | None) -> Any:
    """The MLflow run of that id, or None where the server does not have it; other errors are passed on."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


def create_run(client: Any, opening: Opening, key: str) -> Any:
    """A new MLflow run; or the one of that key, made just before a kill or before its answer was lost; or the one that
    MLFLOW_RUN_ID names.
    """
    if (named := opening.destination.find_run(client, opening.folder)) is not None:
        for name, value in {**opening.tags, _KEY: key}.items():
            client.set_tag(named.info.run_id, name, value)
        return named
    identifier = opening.destination.find_or_make(client)
    made = client.search_runs([identifier], f"tags.{_KEY} = '{key}'", max_results=1)
    if made:
        return made[0]
    name = opening.tags.get(_NAME, opening.name)
    return client.create_run(identifier, run_name=name, tags={**opening.tags, _KEY: key})


def send_parameters(client: Any, run: Any, parameters: Mapping[str, str], uri: str) -> None:
    """Give an MLflow run the parameters that it lacks.

    Args:
        client: of the server.
        run: as found or made.
        parameters: by name.
        uri: the server's address, whose password is taken out of them.
    """
    from mlflow.entities import Param

    lacking = [
        Param(name, redact_address(value, uri)[:_LONGEST_VALUE])
        for name, value in parameters.items()
        if name not in run.data.params
    ]
    for first in range(0, len(lacking), _PARAMETERS_PER_CALL):
        client.log_batch(run.info.run_id, params=lacking[first : first + _PARAMETERS_PER_CALL])


def send_file(client: Any, run_id: str, path: Path, uri: str) -> None:
    """Add a file to an MLflow run; pictures to its folder `pictures`.

    Args:
        client: of the server.
        run_id: the run.
        path: the file.
        uri: the server's address, whose password is taken out of a configuration.
    """
    text = path.read_text(encoding="utf-8") if path.suffix == ".gin" else ""
    redacted = redact_address(text, uri)
    if redacted != text:
        client.log_text(run_id, redacted, path.name)
    else:
        client.log_artifact(run_id, str(path), "pictures" if path.suffix == ".png" else None)


def metric_name(name: str) -> str:
    """A name that MLflow takes: what it refuses becomes an underscore."""
    return _NOT_IN_A_NAME.sub("_", name)


def metrics_of(values: Mapping[str, Any], *, seconds: float, step: int) -> list[Any]:
    """The finite numbers among values, as MLflow's metrics.

    Args:
        values: by name.
        seconds: when they were measured, since 1970.
        step: after how many steps.
    """
    from mlflow.entities import Metric

    return [
        Metric(metric_name(name), float(value), int(seconds * 1000), step)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]


def metrics_of_rows(rows: Iterable[Row]) -> Iterator[Any]:
    """All metrics of a run's rows; those of no known time have the same one whenever they are sent.

    What training logs of losses and of the curriculum stands under `Training/`: MLflow shows charts by what stands
    before the slash, capitals first, and those without one last, where learning rate and speed are found.
    """
    for row in rows:
        learns = row.get("kind") == "train"
        values = {
            f"{TRAINING}{name}" if learns and name not in _OF_THE_STEP else name: value
            for name, value in row.items()
            if name not in _NOT_METRICS
        }
        seconds = row.get("time", math.nan)
        yield from metrics_of(values, seconds=0.0 if math.isnan(seconds) else seconds, step=row["step"])


def send_metrics(client: Any, run_id: str, metrics: Iterable[Any]) -> None:
    """Add metrics to an MLflow run, as many at once as it takes in a call."""
    remaining = iter(metrics)
    while batch := list(islice(remaining, _METRICS_PER_CALL)):
        client.log_batch(run_id, metrics=batch)
