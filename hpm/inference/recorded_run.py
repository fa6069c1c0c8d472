"""What a run has recorded of its training, for a model card: read from its own configuration and manifest, whatever is
bound over them where it is used.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from hpm.config import Config
from hpm.config.usage import spell
from hpm.errors import UserError
from hpm.inference.loading import LoadedModel, parse_text
from hpm.inference.markdown import block, code, shareable
from hpm.methods.method import Method
from hpm.methods.run_work import run_work
from hpm.optim.clock import Clock
from hpm.optim.image_sizes import ImageSizes
from hpm.optim.schedule import Schedule
from hpm.runs.manifest import Manifest, SplitRecord
from hpm.runtime.settings import Runtime

Rows = list[tuple[str, Any]]
"""Lines of a table, what and its value; a value of None is "not recorded"."""

_REFERENCE = re.compile(r"@((?:\w+/)*)(?:[\w.]+\.)?(\w+)\(\)")  # scopes and name
_SECTION = re.compile(r"^# Parameters for (?:\S*/)?(\w+):$", re.M)


@dataclass(frozen=True)
class RecordedRun:
    """What a run was trained with, as lines of tables.

    Args:
        parts: the curriculum's scheduler, difficulty and sampler, by these words.
        mask_ratio: how much was hidden.
        curriculum: all of what decided which patches were hidden.
        data: which images.
        training: schedule and optimizer.
        flops: of the whole training, counted; None where a part cannot be counted, or training is not done at this
            step.
        passes_left_out: whether an image curriculum's passes over all images are left out of `flops`.
        versions: of the source and others.
        config: the configuration, without what belongs to the machine that it ran on.
    """

    parts: dict[str, str]
    mask_ratio: str
    curriculum: Rows
    data: Rows
    training: Rows
    flops: float | None
    passes_left_out: bool
    versions: Rows
    config: Markup


def recorded_run(loaded: LoadedModel) -> RecordedRun | None:
    """What the run of a model has recorded; None for weights without a run.

    Args:
        loaded: the model.

    Raises:
        UserError: where the manifest does not fit the configuration.
    """
    manifest, text = loaded.manifest, loaded.recorded
    if manifest is None or text is None:
        return None
    config = parse_text(f"{loaded.path.name}.gin", text, checkpoint=loaded.path)
    method, countable = _method(config)
    parts = {
        name: config.parameter("Trainer", name)
        for name in ("source", "crop", "schedule", "optimization", "runtime", "progress_per", "image_size", "seed")
    }
    tracker = config.parameter("Monitoring", "tracker")
    bound = {spell(statement.key): str(statement.value) for statement in config.statements}
    trainer = _Part("@Trainer()", dict(sorted((bound | config.parameters()).items())))
    schedule: Schedule = parts["schedule"] or Schedule()
    try:
        clock = schedule.clock(manifest.data.images).at(loaded.step)
    except ValueError as error:
        raise UserError(f"{loaded.path}: its manifest does not fit its configuration: {error}") from error
    sizes = ImageSizes(
        parts["image_size"],
        img_size=method.student.img_size,
        patch_size=method.student.patch_size,
        epochs=schedule.epochs,
    )
    runtime: Runtime = parts["runtime"] or Runtime()
    curriculum = method.curriculum
    return RecordedRun(
        parts={name: type(getattr(curriculum, name)).__name__ for name in ("scheduler", "difficulty", "sampler")},
        mask_ratio=curriculum.mask_ratio.describe(),
        curriculum=_curriculum(trainer.part("method"), method, clock, parts["progress_per"]),
        data=_data(trainer, manifest, sizes),
        training=[
            *_training(trainer.part("method"), manifest, method, schedule, clock),
            ("optimizer", Markup("AdamW, ") + code(trainer.part("optimization").spell())),
            ("precision", code(manifest.precision)),
            ("seed", code(parts["seed"])),
        ],
        flops=_flops(method, schedule, runtime, clock, parts["progress_per"], sizes) if countable else None,
        passes_left_out=method.image_curriculum is not None,
        versions=_versions(manifest),
        config=block(shareable(_without(text, type(tracker).__name__))),
    )


def _method(config: Config) -> tuple[Method, bool]:
    """The method, on the meta device where that can be: there its tensors take neither memory nor time, and its
    operations can be counted. A part of somebody's own need not be able to.
    """
    try:
        with torch.device("meta"):
            return config.parameter("Trainer", "method"), True
    except UserError:
        return config.parameter("Trainer", "method"), False


@dataclass(frozen=True)
class _Part:
    """A part of a run as its configuration makes it.

    Args:
        reference: to the part, "@Ramp()"; or what else stands in its place.
        known: every parameter in force, {"Ramp.end": "0.5"}.
        scope: in which gin makes it, "" or "image_share/".
    """

    reference: str
    known: dict[str, str]
    scope: str = ""

    @cached_property
    def parameters(self) -> dict[str, str]:
        """By name; none of what is no reference, such as a default."""
        if (found := _REFERENCE.fullmatch(self.reference)) is None:
            return {}
        starts = [f"{scope}{found[2]}." for scope in dict.fromkeys((found[1] or self.scope, ""))]
        start = next((start for start in starts if any(key.startswith(start) for key in self.known)), starts[0])
        return {key.removeprefix(start): value for key, value in self.known.items() if key.startswith(start)}

    def part(self, name: str) -> _Part:
        """The part that a parameter names."""
        found = _REFERENCE.fullmatch(self.reference)
        return _Part(self.parameters.get(name, ""), self.known, (found and found[1]) or self.scope)

    def spell(self) -> str:
        """As one would make it, and all parts within it: `Ramp(start=0.0, end=0.5)`."""
        found = _REFERENCE.fullmatch(self.reference)
        if found is None:
            return self.reference or "as by default"
        scope = found[1] or self.scope
        told = {
            name: _REFERENCE.sub(lambda inner: _Part(inner[0], self.known, scope).spell(), shareable(value))
            for name, value in self.parameters.items()
        }
        return f"{found[2]}({', '.join(f'{name}={value}' for name, value in told.items())})"


def listed(values: Sequence[float] | None) -> str | None:
    """Numbers of channels."""
    return None if values is None else ", ".join(f"{value:g}" for value in values)


def _curriculum(recorded: _Part, method: Method, clock: Clock, progress_per: str) -> Rows:
    curriculum, own = method.curriculum, recorded.part("curriculum")
    parts = ("scheduler", "difficulty", "sampler", "reconstruction")
    rows: Rows = [(name, code(own.part(name).spell())) for name in parts if getattr(curriculum, name) is not None]
    alpha = "follows what training measures"
    if not curriculum.scheduler.watches:
        first, last = (curriculum.alpha(clock.at(step).progress(progress_per)) for step in (0, clock.total_steps - 1))
        alpha = f"{first:.2f} in the first step, {last:.2f} in the last"
    rows.insert(1, ("alpha", alpha))
    rows.append(("mask ratio", curriculum.mask_ratio.describe()))
    rows += [
        (name.replace("_", " "), code(shareable(value)))
        for name, value in own.parameters.items()
        if name not in (*parts, "mask_ratio")
    ]
    if method.image_curriculum is not None:
        rows.append(("which images an epoch shows", code(recorded.part("image_curriculum").spell())))
    return rows


def _data(trainer: _Part, manifest: Manifest, sizes: ImageSizes) -> Rows:
    def told(split: SplitRecord) -> Markup:
        return Markup(f"{split.images:,}, fingerprint {code(split.fingerprint)}")

    rows: Rows = [("source", code(trainer.part("source").spell())), ("training images", told(manifest.data.train))]
    rows += [(f"{name} images", told(split)) for name, split in manifest.data.held_out.items()]
    rows += [
        (f"training images until step {earlier.until_step:,}", told(earlier.data.train))
        for earlier in manifest.earlier_data
    ]
    return [
        *rows,
        ("size in training", f"{sizes.describe()} pixels"),
        ("crops", code(trainer.part("crop").spell())),
        ("mean of each channel", listed(manifest.mean)),
        ("standard deviation of each channel", listed(manifest.std)),
    ]


def _training(recorded: _Part, manifest: Manifest, method: Method, schedule: Schedule, clock: Clock) -> Rows:
    started = None if manifest.init_from is None else Path(manifest.init_from).name
    return [
        ("target", code(recorded.part("target").spell())),
        ("started from", "random weights" if started is None else code(started)),
        ("steps", f"{clock.step:,} of {clock.total_steps:,}"),
        ("epochs", f"{clock.fractional_epoch:g} of {clock.epochs:,}"),
        ("batch size", f"{schedule.batch_size:,}, an image counting once for each of its masks"),
        ("masks of an image", f"{schedule.masks_per_image}"),
        (
            "learning rate",
            f"{schedule.lr:g} (base {schedule.blr:g} for 256 images), to {schedule.min_lr:g} by a cosine",
        ),
        ("warm-up", f"{schedule.warmup_epochs:g} epochs"),
        ("decay of the teacher's moving average", code(recorded.part("ema_decay").spell())),
        ("labels", "none" if method.supervision is None else method.supervision.describe()),
    ]


def _flops(
    method: Method, schedule: Schedule, runtime: Runtime, clock: Clock, progress_per: str, sizes: ImageSizes
) -> float | None:
    """Operations of the whole training as `hpm plan` counts them, but for an image curriculum's own passes."""
    if clock.step != clock.total_steps:
        return None
    work = run_work(method, clock, progress_per, sizes, masks_per_image=schedule.masks_per_image)
    passes = 4 if runtime.grad_checkpointing else 3
    flops = 2 * clock.step * schedule.batch_size * work.average_step(passes=passes)
    return None if math.isnan(flops) else flops


def _versions(manifest: Manifest) -> Rows:
    names = {"source": "curriculum-masking, version or commit", "torch": "PyTorch", "python": "Python"}
    told = {names[key]: manifest.versions.get(key) for key in names}
    return [
        *((name, None if value is None else code(value)) for name, value in told.items()),
        ("started", manifest.created),
    ]


def _without(text: str, part: str) -> str:
    """A configuration less what is bound of a part: a tracker's address is nobody else's business."""
    pieces = _SECTION.split(text)
    kept = [pieces[0]]
    for before, name, body in zip(_SECTION.finditer(text), pieces[1::2], pieces[2::2], strict=True):
        if name != part:
            kept += [before[0], body]
    return "".join(kept)
