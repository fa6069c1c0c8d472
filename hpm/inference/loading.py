"""A trained model from wherever it is: a run's folder, a checkpoint, or a published file. No trainer is built for it,
and none of its run's images are read.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from curriculum import Batch, TrainingContext
from curriculum.validation import require_instance
from hpm.config import Config, make_importable, parse_config
from hpm.data import ImageSource
from hpm.errors import Notice, UserError
from hpm.evaluation import EvaluationContext
from hpm.evaluation.base import Pretraining
from hpm.methods.method import Method
from hpm.optim.schedule import Schedule
from hpm.runs.checkpoint import Checkpoint, find_checkpoint, manifest_of
from hpm.runs.run_folder import RunFolder
from hpm.runtime.devices import autocast_dtype, set_up
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.settings import Runtime

WEIGHTS = ("student", "teacher")


def check_weights(weights: str) -> None:
    """Refuse an unknown choice of weights.

    Raises:
        UserError: if it is none of `WEIGHTS`.
    """
    if weights not in WEIGHTS:
        raise UserError(f"--weights {weights} is unknown; choose {' or '.join(WEIGHTS)}")


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, and everything that its configuration says.

    Args:
        path: the checkpoint or file.
        run: the folder of the run it belongs to, None for a file without one.
        step: steps taken, 0 where the file does not say.
        config: the configuration.
        method: with the weights in place, on the device.
        source: the images it was trained on; not read before they are asked for.
        device: where the model is.
        seed: of its run.
        lines: what to tell the user.
    """

    path: Path
    run: RunFolder | None
    step: int
    config: Config
    method: Method
    source: ImageSource
    device: torch.device
    seed: int
    lines: tuple[str, ...] = ()

    def context(self, weights: str = "student") -> EvaluationContext:
        """What evaluations look at.

        Args:
            weights: "student", or "teacher" for the moving average's in its place.

        Raises:
            UserError: if there is no moving average, or the curriculum learns and a file holds nothing of it.
        """
        if self.path.is_file() and self.learned_by_difficulty():
            raise self.unlearned(self.path)
        averaged = self.method.teacher.averaged_model
        if weights == "teacher" and averaged is None:
            raise UserError(f"{self.path} holds no teacher, so its weights cannot be used; choose the student's")
        return EvaluationContext(
            model=averaged if weights == "teacher" and averaged is not None else self.method.student,
            initial=partial(self.method.initial_copy, self.seed),
            teacher=self.method.teacher,
            curriculum=self.method.curriculum,
            target=self.method.target,
            source=self.source,
            device=self.device,
            seed=self.seed,
            pretraining=self._pretraining(),
        )

    def _pretraining(self) -> Pretraining | None:
        """How the model was trained; None where there is no run to say so."""
        if self.run is None or not self.run.manifest.is_file():
            return None
        schedule: Schedule = self.config.parameter("Trainer", "schedule") or Schedule()
        try:
            clock = schedule.clock(manifest_of(self.run).data.images).at(self.step)
        except ValueError as error:
            raise UserError(f"{self.run.manifest} does not fit the run's configuration: {error}") from error
        progress_per = self.config.parameter("Trainer", "progress_per") or "epoch"
        return Pretraining(clock, schedule.batch_size, progress_per, self.method.dense_prediction_every)

    def load(self, checkpoint: Checkpoint) -> None:
        """Put what a checkpoint of the same run holds in the place of the present weights and curriculum.

        A scheduler that is not the run's, by a binding over its configuration, stays as it is before training; a
        `Notice` says so.

        Raises:
            UserError: if they are another model's, or of another curriculum that learns.
        """
        method = self.method
        checkpoint.load_into(method.student, "student")
        if method.teacher.averaged_model is not None:
            checkpoint.load_into(method.teacher.averaged_model, "teacher")
        try:
            method.curriculum.load_state_dict(checkpoint.values["curriculum"])
        except ValueError as error:
            warnings.warn(f"{error}, which stands as before training", Notice, stacklevel=2)
        if learned := self.learned_by_difficulty():
            saved = checkpoint.names()
            if any(f"curriculum.{name}" not in saved for name in learned):
                raise self.unlearned(checkpoint.path)
            difficulty = method.curriculum.difficulty
            assert difficulty.module is not None
            others = tuple(name for name in difficulty.module.state_dict() if name not in learned)
            checkpoint.load_into(difficulty.module, "curriculum", exclude=others)

    def learned_by_difficulty(self) -> list[str]:
        """The tensors that the difficulty keeps and that are not of single images, which no use here asks about.

        It is prepared for them where it is not yet, as for a training split without images.
        """
        curriculum, model = self.method.curriculum, self.method.student
        if not curriculum.difficulty.stateful:
            return []
        if curriculum.difficulty.module is None:
            curriculum.prepare(
                TrainingContext(
                    num_images=0,
                    steps_per_epoch=1,
                    in_chans=model.in_chans,
                    patch_size=model.patch_size,
                    grid=model.grid,
                    device=self.device,
                    seed=self.seed,
                    object_shares=_unasked,
                )
            )
        assert curriculum.difficulty.module is not None
        return [name for name, tensor in curriculum.difficulty.module.state_dict().items() if tensor.numel()]

    def unlearned(self, path: Path) -> UserError:
        """What to tell of a file that lacks what the difficulty learns."""
        name = type(self.method.curriculum.difficulty).__name__
        return UserError(f"{path} holds nothing of what {name} learns beside a model; choose another curriculum")


def _unasked(batch: Batch) -> Tensor:
    raise AssertionError("the object's share is asked of images of a training run alone")


def load_model(
    path: Path,
    configs: Sequence[str] = (),
    bindings: Sequence[str] = (),
    *,
    over: Sequence[str] = (),
    weights: str = "student",
) -> LoadedModel:
    """Load a model with the configuration that it was trained under.

    Args:
        path: a run's folder, whose newest whole checkpoint is taken; a checkpoint-* folder; or a published file.
        configs: for a published file, which says nothing of its configuration.
        bindings: gin bindings over the configuration.
        over: configs over the configuration, and under the bindings.
        weights: which weights will be asked for, "student" or "teacher".

    Raises:
        UserError: where there is no model, it does not fit its configuration, or has no such weights.
    """
    check_weights(weights)
    if path.is_file():
        if weights == "teacher":
            raise UserError(
                f"--weights teacher: {path} is a published file, whose student alone is read; choose student"
            )
        return _load_file(path, [*configs, *over], bindings)
    if configs:
        raise UserError(f"{path} knows its configuration; change it by -b, and name configs for published files alone")
    checkpoint, lines = find_checkpoint(path)
    checkpoint.require("step", "config", "manifest", "curriculum")
    make_importable(checkpoint.manifest.plugins)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{checkpoint.path.name}.gin")
        file.write_text(checkpoint.values["config"])
        config = parse_config([str(file), *over], bindings)
    run = _run_of(path, checkpoint)
    loaded = _build(config, checkpoint.path, run, step=checkpoint.values["step"], lines=lines)
    loaded.load(checkpoint)
    return loaded


def _run_of(path: Path, checkpoint: Checkpoint) -> RunFolder | None:
    """The run that a path is, or that its checkpoint lies in; None for a checkpoint that was copied elsewhere."""
    for folder in (path, checkpoint.path.resolve().parent.parent):
        if (run := RunFolder(folder)).config.is_file():
            return run
    return None


def _load_file(path: Path, configs: Sequence[str], bindings: Sequence[str]) -> LoadedModel:
    if not configs:
        raise UserError(f"{path} does not say which model it is of; name its config, e.g. recipes/hpm_vit_base_200")
    loaded = _build(parse_config(configs, bindings), path, None, step=0)
    method = loaded.method
    lines = method.student.load_pretrained(path)
    method.start_teacher()
    return replace(loaded, lines=tuple(lines))


def _build(config: Config, path: Path, run: RunFolder | None, *, step: int, lines: Sequence[str] = ()) -> LoadedModel:
    """The parts that use needs, the weights initialized and on their device."""
    method: Method = config.parameter("Trainer", "method")
    source: ImageSource = config.parameter("Trainer", "source")
    runtime: Runtime = config.parameter("Trainer", "runtime") or Runtime()
    seed: int = config.parameter("Trainer", "seed")
    try:
        require_instance("Trainer", Method, method=method)
        require_instance("Trainer", ImageSource, source=source)
        require_instance("Trainer", Runtime, runtime=runtime)
        device = runtime.choose_device(DistributedContext.from_environment())
        precision = runtime.choose_precision(device)
        method.student.check_images(source.img_size, source.in_chans, type(source).__name__)
    except ValueError as error:
        raise UserError(str(error)) from error
    set_up(device, precision, deterministic=runtime.deterministic)
    with torch.no_grad():
        method.initialize(device, autocast=autocast_dtype(precision), seed=seed, mean=source.mean, std=source.std)
    return LoadedModel(path, run, step, config, method, source, device, seed, tuple(lines))
