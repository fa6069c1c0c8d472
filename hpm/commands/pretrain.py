"""`hpm pretrain`: train a model, or go on with a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpm.commands._options import Bindings
from hpm.errors import UserError
from hpm.runtime.files import expanded


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
    from hpm.interface.pretraining import pretrain, try_out
    from hpm.runtime.console import make_console
    from hpm.runtime.distributed import DistributedContext

    processes = DistributedContext.from_environment()
    console = make_console(quiet=not processes.is_main)
    if dry_run:
        if resume or processes.restarts:
            raise UserError("--dry-run writes nothing and does not go with --resume")
        try_out(console, configs or [], binding or [], output=output, init_from=init_from)
    else:
        pretrain(
            console,
            configs or [],
            binding or [],
            output=output,
            resume=resume,
            init_from=init_from,
            other_images=other_images,
            processes=processes,
        )
    processes.disconnect()
