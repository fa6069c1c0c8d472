"""A trained model from wherever it is: a run's folder, a checkpoint, or a published file."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from hpm.config import Config, parse_config
from hpm.errors import UserError
from hpm.evaluation import EvaluationContext
from hpm.models import pretrained as published
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.runs.checkpoint import Checkpoint, load_newest
from hpm.runs.run_folder import RunFolder
from hpm.runtime.devices import autocast_dtype, set_up
from hpm.training.trainer import Trainer

WEIGHTS = ("student", "teacher")


def inference_bindings(batch_size: int = 1) -> list[str]:
    """Bindings that ask for nothing which only training needs.

    Args:
        batch_size: as small as it may be, for a data set smaller than the run's batch would be refused.
    """
    return [
        "Monitoring.evaluations = []",
        "Monitoring.probes = []",
        "Monitoring.probe_every = 0",
        f"Schedule.batch_size = {batch_size}",
        "Schedule.accumulate = 1",
        "Runtime.compile = False",
        "Runtime.sharding = 'none'",
        "Runtime.residual_precision = 'fp32'",
        "Runtime.teacher_precision = 'same'",
        "Loading.gpu_decode = False",
        "Runtime.cuda_graphs = False",
        "Runtime.compile_mode = 'default'",
    ]


def check_weights(weights: str) -> None:
    """Refuse an unknown choice of weights.

    Raises:
        UserError: if it is none of `WEIGHTS`.
    """
    if weights not in WEIGHTS:
        raise UserError(f"--weights {weights} is unknown; choose {' or '.join(WEIGHTS)}")


@dataclass(frozen=True)
class Loaded:
    """A trained model, and everything that its configuration says.

    Args:
        path: the checkpoint or file.
        run: the folder of the run it belongs to, None for a file without one.
        step: steps taken, 0 where the file does not say.
        config: the configuration.
        trainer: built from it, with the weights in place.
        lines: what to tell the user.
    """

    path: Path
    run: RunFolder | None
    step: int
    config: Config
    trainer: Trainer
    lines: tuple[str, ...] = ()

    def context(self, weights: str = "student") -> EvaluationContext:
        """What evaluations look at.

        Args:
            weights: "student", or "teacher" for the moving average's in its place.
        """
        trainer, method = self.trainer, self.trainer.method
        if weights == "teacher" and not method.teacher.average:
            raise UserError(f"{self.path} holds no teacher, so its weights cannot be evaluated; choose the student's")
        return EvaluationContext(
            model=method.student if weights == "student" else method.teacher.model,
            initial=partial(method.initial_copy, trainer.seed),
            teacher=method.teacher,
            curriculum=method.curriculum,
            target=method.target,
            source=trainer.source,
            device=trainer.device,
            seed=trainer.seed,
        )


def load(path: Path, configs: Sequence[str] = (), bindings: Sequence[str] = (), *, over: Sequence[str] = ()) -> Loaded:
    """Load a model with the configuration that it was trained under.

    Args:
        path: a run's folder, whose newest whole checkpoint is taken; a checkpoint-* folder; or a published file.
        configs: for a published file, which says nothing of its configuration.
        bindings: gin bindings over the configuration.
        over: configs over the configuration, and under the bindings.

    Raises:
        UserError: where there is no model, or it does not fit its configuration.
    """
    if path.is_file():
        return _load_file(path, [*configs, *over], bindings)
    if configs:
        raise UserError(f"{path} knows its configuration; change it by -b, and name configs for published files alone")
    if (path / "config.gin").is_file():
        run: RunFolder | None = RunFolder(path)
        checkpoint, damaged = load_newest(RunFolder(path).checkpoints)
        if checkpoint is None:
            raise UserError(f"{path} holds no whole checkpoint. {' '.join(damaged)}".strip())
    else:
        checkpoint = Checkpoint(path)
        above = path.resolve().parents[1]
        run, damaged = RunFolder(above) if (above / "config.gin").is_file() else None, []
    config, trainer = _build_from_text(checkpoint.values["config"], checkpoint.path, over, bindings)
    method = trainer.method
    checkpoint.load_into(method.student, "student")
    method.start_teacher()
    if method.teacher.average:
        checkpoint.load_into(method.teacher.model, "teacher")
    if method.curriculum.trained is not None:
        trainer.prepare_curriculum()
        assert method.curriculum.trained.module is not None
        checkpoint.load_into(method.curriculum.trained.module, "curriculum")
    return Loaded(checkpoint.path, run, checkpoint.values["step"], config, trainer, tuple(damaged))


def _load_file(path: Path, configs: Sequence[str], bindings: Sequence[str]) -> Loaded:
    if not configs:
        raise UserError(f"{path} does not say which model it is of; name its config, e.g. recipes/hpm_vit_base_200")
    config = parse_config(configs, bindings)
    trainer = _prepared(config.build())
    method = trainer.method
    if method.curriculum.trained is not None:
        name = type(method.curriculum.trained).__name__
        raise UserError(
            f"{path} holds no network of {name}, which is trained beside a model; choose another curriculum"
        )
    if not isinstance(method.student, MaskedAutoencoder):
        raise UserError(
            f"{path} is a published file, and they are read into a MaskedAutoencoder; Method.model is a "
            f"{type(method.student).__name__}"
        )
    lines = published.load_published_into(method.student, path)
    method.start_teacher()
    return Loaded(path, None, 0, config, trainer, tuple(lines))


def _build_from_text(text: str, path: Path, over: Sequence[str], bindings: Sequence[str]) -> tuple[Config, Trainer]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{path.name}.gin")
        file.write_text(text)
        config = parse_config([str(file), *over], bindings)
        return config, _prepared(config.build())


def _prepared(trainer: Trainer) -> Trainer:
    """Weights initialized, on their device."""
    set_up(trainer.device, trainer.precision, deterministic=trainer.deterministic)
    with torch.no_grad():
        trainer.method.prepare(
            trainer.device,
            autocast=autocast_dtype(trainer.precision),
            seed=trainer.seed,
            mean=trainer.source.mean,
            std=trainer.source.std,
        )
    return trainer
