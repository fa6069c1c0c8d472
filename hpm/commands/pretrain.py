"""`hpm pretrain`: train a model, or go on with a run."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpm.commands._options import Bindings
from hpm.errors import Interrupted, UserError
from hpm.runtime.files import expanded

if TYPE_CHECKING:
    from rich.console import Console

    from hpm.config import Config
    from hpm.runs.run_folder import RunFolder
    from hpm.training.trainer import Trainer


def command(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG...", help="Config files, or names of shipped ones; later ones override."),
    ] = None,
    binding: Bindings = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=expanded,
            help="The run's folder; by default a new one, runs/CONFIG-DATE-TIME.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output; start it where there is none yet.")
    ] = False,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            parser=expanded,
            help="Start from weights: of a run, a checkpoint, a published file or folder.",
        ),
    ] = None,
    other_images: Annotated[
        bool, typer.Option("--other-images", help="Go on, with --resume, though the images have changed since.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build everything, run two steps, write nothing.")] = False,
) -> None:
    """Pre-train a model; on several devices or machines with `torchrun ... -m hpm pretrain ...`.

    SIGTERM, SIGUSR1, SIGHUP and Ctrl-C save a checkpoint and stop; a second Ctrl-C stops at once.

    Exit codes: 0 done; 2 a mistake in the input; 3 the run cannot go on, e.g. losses are not finite; 75 stopped by a
    signal, --resume goes on.
    """
    from hpm.runs.checkpoint import list_checkpoints, manifest_of
    from hpm.runs.run_folder import RunFolder
    from hpm.runtime.console import make_console
    from hpm.runtime.distributed import DistributedContext
    from hpm.runtime.files import check_folder
    from hpm.runtime.notices import notices_to

    processes = DistributedContext.from_environment()
    if processes.restarts and output is None:
        raise UserError(
            "under torchrun --max-restarts, a run needs --output: processes that are started again resume from it"
        )
    resume = resume or processes.restarts > 0
    if resume and (output is None or dry_run):
        raise UserError("--resume needs --output, the run's folder, and does not go with --dry-run")
    if other_images and not resume:
        raise UserError("--other-images goes with --resume: it lets a run go on though its images have changed")
    if output is not None or not dry_run:
        check_folder("--output" if output else "the folder of runs", output or Path("runs"))
    if output is not None and dry_run:
        RunFolder(output).require_new()
    plugins: dict[str, str] = {}
    found_none = False  # with --resume: no run that would go on
    console = make_console(quiet=not processes.is_main)
    with notices_to(console):
        if output is not None and resume and (not configs or RunFolder(output).config.is_file()):
            folder = RunFolder(output)
            folder.saved_config()  # a clear error where there is no run
            folder.check_places()
            configs = configs or [str(folder.config)]
            manifest = manifest_of(folder)
            plugins = dict(manifest.plugins)
            origin = _origin(init_from, manifest.init_from)
            init_from = None if list_checkpoints(folder.checkpoints) else origin
        else:
            resume, found_none = False, resume
        config, trainer = _build(console, configs or [], binding or [], plugins, init_from)
        if dry_run:
            _dry_run(console, trainer)
        else:
            _pretrain(
                console,
                config,
                trainer,
                configs or [],
                output,
                resume=resume,
                found_none=found_none,
                other_images=other_images,
            )
    processes.disconnect()


def _origin(given: Path | None, recorded: str | None) -> Path | None:
    """What a resumed run was started from, and starts from again without a checkpoint: that which a run had then.

    Raises:
        UserError: if another start is given.
    """
    from hpm.runs.checkpoint_writer import LATEST
    from hpm.runs.run_folder import RunFolder

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
    console: Console, configs: list[str], bindings: list[str], plugins: dict[str, str], init_from: Path | None
) -> tuple[Config, Trainer]:
    from hpm.config import make_importable, parse_config

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


def _dry_run(console: Console, trainer: Trainer) -> None:
    from hpm.training.dry_run import dry_run
    from hpm.training.summary import describe

    console.print(describe(trainer))
    _announce_compilation(console, trainer)
    dry_run(trainer, console)
    console.print("dry run: everything builds and runs; nothing was written")


def _announce_compilation(console: Console, trainer: Trainer) -> None:
    if compiled := trainer.runtime.compile:
        console.print(f"the first step compiles the model, seconds to minutes long (Runtime.compile = {compiled!r})")


def _pretrain(
    console: Console,
    config: Config,
    trainer: Trainer,
    configs: list[str],
    output: Path | None,
    *,
    resume: bool,
    found_none: bool,
    other_images: bool,
) -> None:
    from hpm.runs.checkpoint import manifest_of
    from hpm.runs.run_folder import RunFolder

    trainer.processes.connect(trainer.device)
    (name, path) = trainer.processes.gather(_name_and_folder(config, configs, output))[0]
    folder = RunFolder(path)
    if resume:
        trainer.processes.main_only(lambda: _reopen(console, folder, config))
        name = manifest_of(folder, told=False).name
    else:
        description, command = _origin_texts(configs)
        manifest = replace(trainer.manifest(name, config.plugins()), description=description, command=command)
        trainer.processes.main_only(
            lambda: folder.create(config.text(), config.operative_text(), manifest, found_none=found_none)
        )
    _run(console, config, trainer, folder, name=name, resume=resume, other_images=other_images)


def _name_and_folder(config: Config, configs: list[str], output: Path | None) -> tuple[str, Path]:
    """A run is called what its folder is called, where that has a name of its own; else after what differs: its
    configs, and what is bound over them.
    """
    from hpm.config import find_config
    from hpm.runs.title import run_title
    from hpm.tracking.redact import redact_text

    if output is not None:
        return output.resolve().name, output
    name = redact_text(run_title([find_config(one).stem for one in configs], config.values_on_command_line()))
    return name, Path("runs") / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"


def _origin_texts(configs: list[str]) -> tuple[str, str]:
    """What the run's first config says of itself, and the command, as the manifest keeps them."""
    from hpm.config import find_config
    from hpm.runs.title import header_of
    from hpm.tracking.redact import redact_text

    return redact_text(header_of(find_config(configs[0]))), redact_text(shlex.join(["hpm", *sys.argv[1:]]))


def _reopen(console: Console, folder: RunFolder, config: Config) -> None:
    """A resumed run repeats the uninterrupted one: what would make it another is refused."""
    from hpm.config import resume_changes
    from hpm.runs.checkpoint import kept_config

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
    from hpm.training.summary import describe, show_summary

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
    from hpm.runs.checkpoint import list_checkpoints

    if not folder.summary.is_file():
        return None
    try:
        return folder.read_summary(shown=True)
    except UserError as error:
        if not list_checkpoints(folder.checkpoints):
            raise UserError(f"{error}, and there is no checkpoint to evaluate once more; start a new run") from error
        console.print(f"{error}; the run goes on from its newest checkpoint and is evaluated once more", style="yellow")
        return None
