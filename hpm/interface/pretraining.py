"""Pre-training from configs to its end: what `hpm pretrain` and `hpm.train` share."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from hpm.config import Config, find_config, make_importable, parse_config, require_packages, resume_changes
from hpm.errors import Interrupted, UserError
from hpm.runs.checkpoint import kept_config, list_checkpoints, manifest_of
from hpm.runs.checkpoint_writer import LATEST
from hpm.runs.run_folder import RunFolder
from hpm.runs.title import header_of, run_title
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.files import check_folder
from hpm.runtime.notices import notices_to
from hpm.tracking.redact import redact_text
from hpm.training.dry_run import dry_run
from hpm.training.summary import describe, show_summary
from hpm.training.trainer import Trainer


def pretrain(
    console: Console,
    configs: Sequence[str],
    bindings: Sequence[str] = (),
    *,
    output: Path | None = None,
    resume: bool = False,
    init_from: Path | None = None,
    other_images: bool = False,
    processes: DistributedContext | None = None,
) -> RunFolder:
    """Pre-train a model, or go on with a run.

    Args:
        console: where a person reads.
        configs: config files, or names of shipped ones; later ones override. With `resume` they may be left out.
        bindings: gin bindings over them.
        output: the run's folder. Default a new one, runs/CONFIG-DATE-TIME.
        resume: go on with the run in `output`; start it where there is none yet.
        init_from: what names the trained model to start from, as `find_model` takes it. Default random weights.
        other_images: go on, with `resume`, though the images have changed since.
        processes: all that were started. Default this one alone.

    Returns:
        The run's folder.

    Raises:
        UserError: for a mistake in the configuration, the data or the folder.
        TrainingError: if the run cannot go on; checkpoints are kept.
        Interrupted: after a signal; everything is saved.
    """
    processes = DistributedContext() if processes is None else processes
    if processes.restarts and output is None:
        raise UserError(
            "under torchrun --max-restarts, a run needs --output: processes that are started again resume from it"
        )
    resume = resume or processes.restarts > 0
    if resume and output is None:
        raise UserError("--resume needs --output, the run's folder")
    if other_images and not resume:
        raise UserError("--other-images goes with --resume: it lets a run go on though its images have changed")
    check_folder("--output" if output else "the folder of runs", output or Path("runs"))
    plugins: dict[str, str] = {}
    found_none = False  # with `resume`: no run that would go on
    with notices_to(console):
        if output is not None and resume and (not configs or RunFolder(output).config.is_file()):
            folder = RunFolder(output)
            folder.saved_config()  # a clear error where there is no run
            folder.check_places()
            configs = configs or [str(folder.config)]
            manifest = manifest_of(folder)
            plugins = dict(manifest.plugins)
            require_packages(manifest.packages, folder.path)
            origin = _origin(init_from, manifest.init_from)
            init_from = None if list_checkpoints(folder.checkpoints) else origin
        else:
            resume, found_none = False, resume
        config, trainer = _build(console, configs, bindings, plugins, init_from)
        return _pretrain(
            console,
            config,
            trainer,
            configs,
            output,
            command=_command(configs, bindings, output, init_from),
            resume=resume,
            found_none=found_none,
            other_images=other_images,
        )


def try_out(
    console: Console,
    configs: Sequence[str],
    bindings: Sequence[str] = (),
    *,
    output: Path | None = None,
    init_from: Path | None = None,
) -> None:
    """Build everything that a run needs, take two steps, and write nothing.

    Args:
        console: where a person reads.
        configs: as `pretrain` takes them, and so are all that follow.
        bindings: gin bindings over them.
        output: where the run would be.
        init_from: what it would start from.

    Raises:
        UserError: for a mistake in the configuration, the data or the folder.
        TrainingError: for a loss that is not finite.
    """
    if output is not None:
        check_folder("--output", output)
        RunFolder(output).require_new()
    with notices_to(console):
        _, trainer = _build(console, configs, bindings, {}, init_from)
        console.print(describe(trainer))
        _announce_compilation(console, trainer)
        dry_run(trainer, console)
        console.print("dry run: everything builds and runs; nothing was written")


def _origin(given: Path | None, recorded: str | None) -> Path | None:
    """What a resumed run was started from, and starts from again without a checkpoint: that which a run had then.

    Raises:
        UserError: if another start is given.
    """
    before = None if recorded is None else Path(recorded)
    if given is not None:
        start = given.resolve()
        # A run, or its link to the newest checkpoint, may have newer checkpoints since.
        link = before is not None and given.parent.resolve() == before.parent and given.name == LATEST
        if before is None or not (link or before in (start, RunFolder(start).checkpoints / before.name)):
            told = "random weights" if before is None else f"--init-from {before}"
            raise UserError(
                f"--resume repeats the run, which was started from {told}, and --init-from {given} is another start; "
                "leave it out, or choose another --output"
            )
    return before


def _build(
    console: Console,
    configs: Sequence[str],
    bindings: Sequence[str],
    plugins: dict[str, str],
    init_from: Path | None,
) -> tuple[Config, Trainer]:
    with console.status("starting ..."):
        make_importable(plugins)
        config = parse_config(configs, bindings)
        trainer: Trainer = config.build()
        trainer.source.prepare()  # before there is a folder, and before signals are told to wait
        trainer.method.target.load()
        lines = [] if init_from is None else trainer.start_from(init_from)
    for line in lines:
        console.print(line)
    return config, trainer


def _announce_compilation(console: Console, trainer: Trainer) -> None:
    if compiled := trainer.runtime.compile:
        console.print(f"the first step compiles the model, seconds to minutes long (Runtime.compile = {compiled!r})")


def _pretrain(
    console: Console,
    config: Config,
    trainer: Trainer,
    configs: Sequence[str],
    output: Path | None,
    *,
    command: str,
    resume: bool,
    found_none: bool,
    other_images: bool,
) -> RunFolder:
    trainer.processes.connect(trainer.device)
    (name, path) = trainer.processes.gather(_name_and_folder(config, configs, output))[0]
    folder = RunFolder(path)
    if resume:
        trainer.processes.main_only(lambda: _reopen(console, folder, config))
        name = manifest_of(folder, told=False).name
    else:
        trainer.processes.main_only(
            lambda: folder.create(
                config.text(),
                config.operative_text(),
                replace(
                    trainer.manifest(name, config.plugins()),
                    packages=config.packages(),
                    description=redact_text(header_of(find_config(configs[0]))),
                    command=command,
                ),
                found_none=found_none,
            )
        )
    _run(console, config, trainer, folder, name=name, resume=resume, other_images=other_images)
    return folder


def _command(configs: Sequence[str], bindings: Sequence[str], output: Path | None, init_from: Path | None) -> str:
    """The command that starts such a run, without secrets."""
    words = ["hpm", "pretrain", *configs]
    for text in bindings:
        words += ["-b", text]
    for option, path in (("--output", output), ("--init-from", init_from)):
        words += [] if path is None else [option, str(path)]
    return redact_text(shlex.join(words))


def _name_and_folder(config: Config, configs: Sequence[str], output: Path | None) -> tuple[str, Path]:
    """A run is called what its folder is called, where that has a name of its own; else after what differs: its
    configs, and what is bound over them.
    """
    if output is not None:
        return output.resolve().name, output
    path = Path("runs") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    others = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))  # started in the same second
    name = redact_text(run_title([find_config(one).stem for one in configs], config.values_on_command_line()))
    return name, path if not path.exists() else next(other for other in others if not other.exists())


def _reopen(console: Console, folder: RunFolder, config: Config) -> None:
    """A resumed run repeats the uninterrupted one: what would make it another is refused."""
    trained_under, checkpoint = kept_config(folder.checkpoints) or (folder.saved_config(), None)
    if altered := resume_changes(trained_under, folder.saved_config())[0]:
        raise UserError(
            f"{folder.config} was altered since {checkpoint} was written, and --resume repeats the run exactly:\n"
            + "\n".join(f"  {line}" for line in altered[:5])
            + "\nundo that, or start a new run with --init-from"
        )
    refused, rounding = resume_changes(folder.saved_config(), config.text())
    if refused:
        raise UserError(
            f"--resume repeats the run exactly, but its configuration differs from {folder.config}:\n"
            + "\n".join(f"  {line}" for line in refused[:5])
            + "\nresume without naming a config to use the saved one, or start a new run with --init-from"
        )
    for line in rounding:
        console.print(f"resuming with {line}: the same run up to rounding", style="yellow")
    folder.next_config = config.text()


def _run(
    console: Console,
    config: Config,
    trainer: Trainer,
    folder: RunFolder,
    *,
    name: str,
    resume: bool,
    other_images: bool,
) -> None:
    summary = _final_figures(console, folder) if resume else None
    if summary is not None:
        console.print(f"the run in {folder.path} is complete")
        if not trainer.tracker.has_all_of(folder.path):
            trainer.replay(folder, name=name, parameters=config.parameters())
            summary = {**summary, "tracking": trainer.tracker.where}  # which may be another place than before
        show_summary(console, folder, summary, curriculum=trainer.method.curriculum.component_names())
        return
    console.print(describe(trainer))
    console.print(f"run folder: {folder.path}")
    _announce_compilation(console, trainer)
    try:
        summary = trainer.fit(
            folder, console, name=name, parameters=config.parameters(), resume=resume, other_images=other_images
        )
    except Interrupted as error:
        trainer.processes.disconnect()
        raise Interrupted(f"{error}; go on with hpm pretrain --resume --output {folder.path}") from error
    if trainer.processes.is_main:
        show_summary(console, folder, summary, curriculum=trainer.method.curriculum.component_names())


def _final_figures(console: Console, folder: RunFolder) -> dict[str, Any] | None:
    """The summary of a run that is complete; None of one that is not, or whose summary is to be made anew."""
    if not folder.summary.is_file():
        return None
    try:
        return folder.read_summary(shown=True)
    except UserError as error:
        if not list_checkpoints(folder.checkpoints):
            raise UserError(f"{error}, and there is no checkpoint to evaluate once more; start a new run") from error
        console.print(f"{error}; the run goes on from its newest checkpoint and is evaluated once more", style="yellow")
        return None
