"""`hpm evaluate --keep`: the encoders that protocols have trained, as folders for timm beside the results.

PROTOCOL-NETWORK/   `finetune-scratch`, say; a model for every command
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from safetensors import SafetensorError, safe_open

from hpm.errors import UserError
from hpm.evaluation import EvaluationContext
from hpm.inference.export import metadata, write_timm
from hpm.inference.loading import LoadedModel
from hpm.runtime.files import printable, replacing

_NETWORKS = ("pretrained", "scratch", "scratch_equal_compute")
_NOTE, _OF = "trained", "evaluated"  # what a kept encoder's notes call its own name, and that of the model beside it


def check_kept(folder: Path, protocols: Sequence[str], seeds: int | None, loaded: LoadedModel) -> None:
    """Find out before the work whether what is trained can be kept.

    Args:
        folder: of the results.
        protocols: their names.
        seeds: how often each is repeated.
        loaded: what is evaluated.

    Raises:
        UserError: for several seeds, or where something else has the place of an encoder: another model's, or the model
            itself.
    """
    if seeds is not None and seeds > 1:
        raise UserError(f"--keep goes with one seed, and --seeds {seeds} would train several networks of each name")
    for name in (f"{protocol}-{network}" for protocol in protocols for network in _NETWORKS):
        path = folder / name
        if not path.exists():
            continue
        if not _is_kept(path):
            raise UserError(f"--keep: {path} is there already, and was not kept by it; move it away")
        if path.resolve() == loaded.path.resolve():
            raise UserError(
                f"--keep would write in the place of {path}, the model that is evaluated; move it elsewhere"
            )
        if (other := _notes(path).get(_OF)) not in (None, _name_of(loaded)):
            raise UserError(f"--keep: {path} is there already, from evaluating {other}; move it away")


def keep_trained(console: Console, loaded: LoadedModel, context: EvaluationContext, folder: Path) -> bool:
    """Write the encoders that a protocol has trained, each in the place of an earlier one, and forget them.

    Args:
        console: where a person reads.
        loaded: the model that was evaluated.
        context: has what was trained.
        folder: of the results.

    Returns:
        Whether all could be written.
    """
    whole, trained = True, context.trained or {}
    for name in list(trained):
        model, path = trained.pop(name), folder / name
        notes = metadata(loaded, model, "student") | {_NOTE: name, _OF: _name_of(loaded)}
        if "scratch" in name:  # it has nothing of the model that it is compared with
            notes = {key: text for key, text in notes.items() if key not in ("from", "step", "weights")}
        pool = "token" if model.encoder.num_prefix_tokens else "avg"
        try:
            with replacing(path) as partial:
                write_timm(model, loaded.source, pool, notes, partial)
                if path.exists() and _is_kept(path):
                    shutil.rmtree(path)
        except (OSError, SafetensorError) as error:
            console.print(f"{path} could not be written: {error}; the same command tries again", style="yellow")
            whole = False
            continue
        console.print(f"trained encoder: {path}")
    return whole


def _is_kept(path: Path) -> bool:
    """Whether an earlier command kept an encoder there."""
    return _notes(path).get(_NOTE) == path.name


def _notes(path: Path) -> dict[str, str]:
    """What stands beside the weights in a folder for timm; nothing where there are none."""
    try:
        with safe_open(path / "model.safetensors", framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError):
        return {}


def _name_of(loaded: LoadedModel) -> str:
    """A run's, whichever checkpoint of it is evaluated, or a file's."""
    return printable((loaded.path if loaded.run is None else loaded.run.path).resolve().name)
