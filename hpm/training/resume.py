"""Whether a run may go on from what it left: from the same images, in the same precision, at a step that it has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from hpm.data import ImageSource
from hpm.errors import UserError
from hpm.optim.clock import Clock
from hpm.runs.checkpoint import STATE_FILE, Checkpoint
from hpm.runs.manifest import DataRecord, EarlierData, Manifest, SplitRecord
from hpm.runs.run_folder import RunFolder

_NEEDED = ("step", "seconds", "logged_seconds", "logged_step", "precision", "curriculum", "scaler")


def check_saved(saved: Checkpoint, clock: Clock, precision: str) -> Mapping[str, Any]:
    """Refuse a checkpoint that a run cannot go on from.

    Args:
        saved: the checkpoint.
        clock: the run's.
        precision: what it computes in.

    Returns:
        The checkpoint's values.

    Raises:
        UserError: naming the value at fault.
    """
    saved.require(*_NEEDED)
    values, file = saved.values, saved.path / STATE_FILE
    if values["precision"] != precision:
        raise UserError(
            f"{saved.path} was trained in {values['precision']}, and Runtime.precision gives {precision} here; go "
            f"on with -b \"Runtime.precision = '{values['precision']}'\""
        )
    if values["step"] > clock.total_steps:
        raise UserError(f"{file}: 'step' = {values['step']} is beyond the {clock.total_steps} steps of this run")
    if (values["scaler"] is None) != (precision != "fp16"):
        raise UserError(f"{file} is damaged: 'scaler' = {values['scaler']} does not go with the precision {precision}")
    return values


def manifest_at(run_says: Manifest, saved: Checkpoint, said: Mapping[str, Any]) -> Manifest:
    """What a run says of itself at a checkpoint: its images are the checkpoint's, unless it went on over others since.

    Args:
        run_says: what `run.json` holds.
        saved: the checkpoint.
        said: what the run says of its model now, which completes what a run of before lacks.

    Raises:
        UserError: where it would go on towards the features of other weights.
    """
    known = saved.manifest if "manifest" in saved.values else run_says
    if EarlierData(saved.values["step"], known.data) in run_says.earlier_data:
        known = run_says
    then, now = known.target_weights, said["target_weights"]
    if then not in (None, now):
        raise UserError(
            f"{saved.path} was trained towards features of other weights (fingerprint {then} then, {now} now): let "
            "Method.target read the same ones, or start a new run with --init-from"
        )
    return known.completed(said)


def check_restart(run: RunFolder, damaged: Sequence[str], init_from: str | None, *, loaded: bool) -> None:
    """Refuse to start a run from its beginning where it has left something that may be mended.

    Args:
        run: the run, of which no checkpoint is whole.
        damaged: a line about each checkpoint that is not.
        init_from: the weights that it started from, None for random ones.
        loaded: whether these are loaded.

    Raises:
        UserError: naming what is to be removed.
    """
    if damaged or (init_from is not None and not loaded):
        raise UserError(
            f"{run.path} holds no whole checkpoint{''.join(f'; {line}' for line in damaged)}; remove "
            f"{run.checkpoints}, and --resume starts again from {init_from or 'the beginning'}"
        )


def changed_images(before: DataRecord, now: DataRecord) -> str | None:
    """How the images of a run differ from those that it was trained on; None where they do not.

    Of held-out images those are compared that both records have: a run of before has none of them.

    Args:
        before: those that it was trained on.
        now: those that are there.
    """
    if (before.source, before.train) != (now.source, now.train):
        return (
            f"was trained on {before.images} images of {before.source}, and these are other ones, {now.images} of "
            f"{now.source} (fingerprint {before.fingerprint} then, {now.fingerprint} now)"
        )
    for name, then in before.held_out.items():
        if (split := now.held_out.get(name, then)) != then:
            return (
                f"was begun with {then.images} {name} images, and these are other ones, {split.images} (fingerprint "
                f"{then.fingerprint} then, {split.fingerprint} now)"
            )
    return None


def take_images(
    manifest: Manifest, now: DataRecord, where: Path, *, other_images: bool, until_step: int, console: Console
) -> Manifest:
    """Go on over the images that are there: the same or, where that is asked for, others.

    Args:
        manifest: says what the run was trained on.
        now: the images that are there.
        where: the checkpoint or run that the manifest is of.
        other_images: whether others will do.
        until_step: steps that were taken over those before.
        console: where a person reads.

    Returns:
        The manifest of the run from now on.

    Raises:
        UserError: naming numbers and fingerprints, where these are others and others will not do.
    """
    change = changed_images(manifest.data, now)
    if change is None:
        return replace(manifest, data=now)  # what a record of before lacks is there now
    if not other_images:
        raise UserError(
            f"{where} {change}; give the same images, go on over these with --other-images, which run.json will tell, "
            "or start a new run with --init-from"
        )
    console.print(f"{where} {change}: going on over these", style="yellow")
    return manifest.over(now, until_step=until_step)


def require_same_training_images(where: Path, before: DataRecord, now: DataRecord) -> None:
    """Refuse other training images than before, for a curriculum that remembers something of each.

    Args:
        where: the checkpoint that holds what is remembered.
        before: the images that it was trained on.
        now: those that are there.

    Raises:
        UserError: naming numbers and fingerprints.
    """
    if before.train != now.train:
        raise UserError(
            f"{where} {changed_images(before, now)}; its curriculum remembers something of each training image, "
            "so others will not do: give the same images, or start a new run with --init-from"
        )


def record_images(source: ImageSource, looked_at: Iterable[str]) -> DataRecord:
    """Which images a run is trained on, and which it looks at beside them.

    Args:
        source: of the images.
        looked_at: held-out splits, those of which that there are.
    """
    train, others = source.train(), source.existing(looked_at)
    held_out = {name: SplitRecord(len(split), split.fingerprint()) for name, split in others.items()}
    return DataRecord(type(source).__name__, len(train), train.fingerprint(), held_out)


def fingerprint_of(weights: Mapping[str, Tensor]) -> str | None:
    """16 hexadecimal digits, others for other weights or names; None for none."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16] if weights else None
