"""The data sets of a run's entry in MLflow: which images it is trained on, and which it is scored on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hpm.errors import UserError
from hpm.runs.manifest import DataRecord, SplitRecord
from hpm.runs.run_folder import RunFolder
from hpm.tracking.entry import Opening
from hpm.tracking.redact import redact_address

_CONTEXT = "mlflow.data.context"
IMAGE_SIZE = "image_size"  # tag of our runs


def send_datasets(client: Any, run: Any, opening: Opening, uri: str) -> None:
    """Give an MLflow run the data sets that it lacks; a folder without a manifest tells of none.

    Args:
        client: of the server.
        run: as found or made.
        opening: what the entry is made with.
        uri: the server's address, whose password is taken out.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    known = _known(run)
    inputs = []
    for source, context, split in _splits(RunFolder(opening.folder)):
        if (split.fingerprint, context) in known:
            continue
        settings = {
            name: redact_address(value, uri)
            for name, value in opening.parameters.items()
            if name.startswith(f"{source}.")
        }
        profile = {"images": split.images} | {
            name: value for name, value in opening.tags.items() if name == IMAGE_SIZE and value
        }
        dataset = Dataset(
            source, split.fingerprint, "local", json.dumps(settings), schema=None, profile=json.dumps(profile)
        )
        inputs.append(DatasetInput(dataset, [InputTag(_CONTEXT, context)]))
    if inputs:
        client.log_inputs(run.info.run_id, inputs)


def share_datasets(client: Any, run: Any, row: str) -> None:
    """Give a row above a run the data sets of that run which it lacks.

    Args:
        client: of the server.
        run: the run.
        row: the row's id.
    """
    known = _known(client.get_run(row))
    inputs = [entry for entry in run.inputs.dataset_inputs if not _keys(entry) <= known]
    if inputs:
        client.log_inputs(row, inputs)


def _known(run: Any) -> set[tuple[str, str]]:
    return {key for entry in run.inputs.dataset_inputs for key in _keys(entry)}


def _keys(entry: Any) -> set[tuple[str, str]]:
    """The digest and the purposes of a data set."""
    return {(entry.dataset.digest, tag.value) for tag in entry.tags if tag.key == _CONTEXT}


def _splits(run: RunFolder) -> Iterator[tuple[str, str, SplitRecord]]:
    """Source, purpose and images of every data set that a run has looked at."""
    from hpm.runs.checkpoint import manifest_of  # here, since whoever only compares runs needs no torch

    with suppress(OSError, UserError):
        manifest = manifest_of(run, told=False)
        yield from _of_record(manifest.data, "training")
        for earlier in manifest.earlier_data:
            yield earlier.data.source, f"training until step {earlier.until_step}", earlier.data.train


def _of_record(data: DataRecord, context: str) -> Iterator[tuple[str, str, SplitRecord]]:
    yield data.source, context, data.train
    for name, split in data.held_out.items():
        yield data.source, name, split
