"""A trained model from wherever it is, as `hpm.targets.find_model` finds it. No trainer is built for it, and none of
its run's images are read.
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
from hpm.data import ImageSource, UnreadableImages
from hpm.errors import Notice, UserError
from hpm.evaluation import EvaluationContext
from hpm.evaluation.base import Pretraining
from hpm.inference.published_config import published_config
from hpm.methods.method import Method
from hpm.methods.pretrained import load_weights, normalized_otherwise
from hpm.models.published import Published
from hpm.optim.image_sizes import ImageSizes
from hpm.optim.schedule import Schedule
from hpm.runs.checkpoint import Checkpoint, manifest_of
from hpm.runs.manifest import Manifest
from hpm.runs.run_folder import RunFolder
from hpm.runtime.devices import autocast_dtype, set_up
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.settings import Runtime
from hpm.targets.find_model import find_model

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
        untrained: the student's components that are as initialized, for the file has none, as `load_into` names them;
            and the "moving average" of a file, which starts as the student's copy.
        manifest: what its run says of itself; None for weights that others published.
        recorded: the configuration that it was trained under, without what this use has bound over it; None likewise.
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
    untrained: frozenset[str] = frozenset()
    manifest: Manifest | None = None
    recorded: str | None = None

    def context(self, weights: str = "student") -> EvaluationContext:
        """What evaluations look at.

        Args:
            weights: "student", or "teacher" for the moving average's in its place.

        Raises:
            UserError: if there is no moving average.
        """
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
            image_curriculum=self.method.image_curriculum if self.run is not None else None,
            untrained=self.untrained,
            unreadable=UnreadableImages(self.config.parameter("Loading", "max_unreadable")),
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
        student = self.method.student
        image_sizes = ImageSizes(
            self.config.parameter("Trainer", "image_size"),
            img_size=student.img_size,
            patch_size=student.patch_size,
            epochs=schedule.epochs,
        )
        return Pretraining(
            clock,
            schedule.batch_size,
            progress_per,
            self.method.dense_prediction_every,
            image_sizes,
            schedule.masks_per_image,
            self.method.supervision,
        )

    def load(self, checkpoint: Checkpoint) -> frozenset[str]:
        """Put what a checkpoint of the same run holds in the place of the present weights and curriculum.

        A scheduler that is not the run's, by a binding over its configuration, stays as it is before training; a
        `Notice` says so.

        Returns:
            The student's components that are as initialized, as those of another target are.

        Raises:
            UserError: if they are another model's, or of another curriculum that learns.
        """
        method = self.method
        untrained = load_weights(method, checkpoint).untrained
        try:
            method.curriculum.load_state_dict(checkpoint.values["curriculum"])
        except ValueError as error:
            warnings.warn(f"{error}, which stands as before training", Notice, stacklevel=2)
        if method.image_curriculum is not None and {"images.scores", "images.shown"} <= set(checkpoint.names()):
            scores_I, shown_I = checkpoint.tensor("images.scores"), checkpoint.tensor("images.shown")
            method.image_curriculum.allocate(len(scores_I), self.device)
            method.image_curriculum.scores.copy_(scores_I)
            method.image_curriculum.shown.copy_(shown_I)
        if learned := self.learned_by_difficulty():
            saved = checkpoint.names()
            if any(f"curriculum.{name}" not in saved for name in learned):
                raise self.unlearned(checkpoint.path)
            difficulty = method.curriculum.difficulty
            assert difficulty.module is not None
            state = difficulty.module.state_dict()
            for name, value in checkpoint.weights("curriculum", learned).items():
                if value.shape != state[name].shape:
                    raise UserError(
                        f"{checkpoint.path}: what {type(difficulty).__name__} has learned is for another model or size "
                        f"of images: {name} is {list(value.shape)} there, and {list(state[name].shape)} here"
                    )
                state[name] = value
            difficulty.module.load_state_dict(state)
        return untrained

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
        path: what names a trained model, as `find_model` takes it.
        configs: over what published weights tell, which is the model's sizes alone.
        bindings: gin bindings over the configuration.
        over: configs over the configuration, and under the bindings.
        weights: which weights will be asked for, "student" or "teacher".

    Raises:
        UserError: where there is no model, it does not fit its configuration, or has no such weights.
    """
    check_weights(weights)
    found, lines = find_model(path)
    if isinstance(found, Published):
        if weights == "teacher":
            raise UserError(f"--weights teacher: of {path} the student alone is read; choose student")
        return _load_published(found, [*configs, *over], bindings)
    if configs:
        raise UserError(f"{path} knows its configuration; change it by -b, and name configs for published files alone")
    found.require("step", "config", "manifest", "curriculum")
    make_importable(found.manifest.plugins)
    config = parse_text(f"{found.path.name}.gin", found.values["config"], over, bindings, checkpoint=found.path)
    loaded = _build(config, found.path, _run_of(path, found), step=found.values["step"], lines=lines)
    untrained = loaded.load(found)
    told = normalized_otherwise(loaded.source, found.said)
    loaded = replace(loaded, manifest=found.manifest, recorded=found.values["config"])
    return replace(loaded, lines=(*loaded.lines, *told), untrained=untrained)


def parse_text(
    name: str, text: str, configs: Sequence[str] = (), bindings: Sequence[str] = (), *, checkpoint: Path | None = None
) -> Config:
    """A configuration that is in no file, with others over it; see `parse_config`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_text(text, encoding="utf-8")
        return parse_config([str(file), *configs], bindings, checkpoint=checkpoint)


def _run_of(path: Path, checkpoint: Checkpoint) -> RunFolder | None:
    """The run that a path is, or that its checkpoint lies in; None for a checkpoint that was copied elsewhere."""
    for folder in (path, checkpoint.path.resolve().parent.parent):
        if (run := RunFolder(folder)).config.is_file():
            return run
    return None


def _load_published(found: Published, configs: Sequence[str], bindings: Sequence[str]) -> LoadedModel:
    """Published weights in a model of the sizes that they tell, where nothing else is configured."""
    config = parse_text(f"weights-{found.path.stem[:200]}.gin", published_config(found), configs, bindings)
    loaded = _build(config, found.path, None, step=0)
    if loaded.learned_by_difficulty():
        raise loaded.unlearned(found.path)
    lines, untrained = load_weights(loaded.method, found)
    loaded.method.start_teacher()
    lines += normalized_otherwise(loaded.source, found.said)
    return replace(loaded, lines=tuple(lines), untrained=untrained | {"moving average"})


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
