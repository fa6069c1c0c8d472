"""What `import hpm` offers: train, load and evaluate."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from hpm.errors import UserError
from hpm.inference import evaluate as evaluation
from hpm.inference.loading import load_model
from hpm.interface.isolation import isolated
from hpm.interface.model import Model
from hpm.interface.pretraining import pretrain
from hpm.interface.run import Run
from hpm.runtime.console import make_console
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.files import expanded
from hpm.runtime.notices import notices_to

AnyPath = str | os.PathLike[str]


def train(
    *configs: AnyPath,
    bindings: Sequence[str] = (),
    output: AnyPath | None = None,
    resume: bool = False,
    init_from: AnyPath | None = None,
    other_images: bool = False,
    quiet: bool = False,
) -> Run:
    """Pre-train a model, as `hpm pretrain` does.

    A call is isolated from those before it, and from what the program has set in gin and torch: on a CPU it gives the
    same bits as a process of its own. Under `torchrun` every process calls it.

    Args:
        *configs: config files, or names of shipped ones such as "quickstart"; later ones override earlier ones.
        bindings: gin bindings over them, as `-b` takes them: "Ramp.end = 0.7", "Ramp.shape = 'cosine'".
        output: the run's folder. Default a new one in the current folder, runs/CONFIG-DATE-TIME.
        resume: go on with the run in `output`, which then needs no configs; start it where there is none yet.
        init_from: start from these weights: a run, a checkpoint, a published file. Default random weights.
        other_images: with `resume`, go on though the images have changed since.
        quiet: print nothing.

    Returns:
        The run, trained to its end.

    Raises:
        UserError: for a mistake in the configuration, the data or the folder; it names what is at fault.
        TrainingError: if training cannot go on, e.g. because losses are not finite. Checkpoints are kept.
        Interrupted: after Ctrl-C or SIGTERM; everything is saved, and `resume` goes on.
    """
    processes = DistributedContext.from_environment()
    with isolated(compiled=True), _console(quiet) as console:
        folder = pretrain(
            console,
            _names(configs),
            _bindings(bindings),
            output=None if output is None else _path("output", output),
            resume=resume,
            init_from=None if init_from is None else _path("init_from", init_from),
            other_images=other_images,
            processes=processes,
        )
        processes.barrier()  # what the main process writes last is there for all
        processes.disconnect()
    return Run(folder.path.resolve())


def load(
    model: AnyPath | Run,
    *configs: AnyPath,
    bindings: Sequence[str] = (),
    weights: str = "student",
) -> Model:
    """Load a trained model with the curriculum that it was trained under.

    Args:
        model: a run, its folder, one of its checkpoints, or a published MAE or HPM file.
        *configs: for a published file, over what it tells of the model: its data, say.
        bindings: gin bindings over the configuration.
        weights: "student", the default, or "teacher" for its moving average.

    Raises:
        UserError: where there is no model, it does not fit its configuration, or has no such weights.
    """
    with isolated(), _console(quiet=False) as console:
        loaded = load_model(_path("model", model), _names(configs), _bindings(bindings), weights=weights)
        loaded.config.check_bindings()
        for line in loaded.lines:
            console.print(line)
        return Model(loaded, weights)


def evaluate(
    model: AnyPath | Run,
    *protocols: str,
    configs: Sequence[AnyPath] = (),
    bindings: Sequence[str] = (),
    weights: str = "student",
    seeds: int | None = None,
    keep: bool = False,
    quiet: bool = False,
) -> dict[str, dict[str, Any]]:
    """Evaluate a trained model, as `hpm evaluate` does, which keeps the results beside it.

    Args:
        model: as `load` takes it.
        *protocols: names such as "knn", "linear", "finetune". Default "knn" and "linear".
        configs: the protocols'; for a published file, of its data too.
        bindings: gin bindings over all.
        weights: "student", the default, or "teacher" for its moving average.
        seeds: how many seeds a protocol is repeated with. Default what the configuration says.
        keep: write the encoders that the protocols train, as folders for timm beside the results.
        quiet: print nothing.

    Returns:
        By protocol what evaluation-PROTOCOL.json keeps of it: "metrics" has by name the "mean", the "values" of all
        seeds and, of several, half the width of the mean's 95 % "interval"; shares are from 0 to 1. Under torchrun the
        main process has it, and the others nothing.

    Raises:
        UserError: for an unknown protocol, a model that cannot be loaded, or data that cannot serve.
    """
    processes = DistributedContext.from_environment()
    with isolated(compiled=True), _console(quiet) as console:
        entries = evaluation.evaluate(
            _path("model", model),
            console,
            protocols=protocols or ("knn", "linear"),
            configs=_names(configs),
            bindings=_bindings(bindings),
            weights=weights,
            seeds=seeds,
            keep=keep,
            processes=processes,
        )
        processes.disconnect()
    return {entry["protocol"]: entry for entry in entries}


@contextmanager
def _console(quiet: bool) -> Iterator[Console]:
    """Where a person reads, notices among the rest; the main process prints."""
    main = DistributedContext.from_environment().is_main
    console = make_console(quiet=quiet or not main, file=sys.stdout)
    with notices_to(console):
        yield console


def _names(configs: Sequence[AnyPath]) -> list[str]:
    return [str(_path("configs", config)) if not isinstance(config, str) else config for config in configs]


def _bindings(bindings: Sequence[str]) -> list[str]:
    """A single one that somebody gave without a list is one, not its letters."""
    found = [bindings] if isinstance(bindings, str) else bindings
    if not isinstance(found, list | tuple) or not all(isinstance(binding, str) for binding in found):
        raise UserError(f'bindings must be a list of texts, such as ["Ramp.end = 0.7"], and {bindings!r} is not')
    return list(found)


def _path(name: str, path: AnyPath) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{name} must be a path or a name, and {path!r} is a {type(path).__name__}")
    return expanded(os.fspath(path))
