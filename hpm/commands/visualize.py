"""`hpm visualize`: pictures of a model and of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpm.commands._options import Bindings, ModelPath, PublishedConfigs
from hpm.runtime.files import expanded


def command(
    model: ModelPath,
    configs: PublishedConfigs = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            parser=expanded,
            help="A folder of images, of any size; by default the run's first validation images.",
        ),
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many images; 6 by default.")] = None,
    strip: Annotated[bool, typer.Option("--strip", help="The same images through the run's checkpoints.")] = False,
    timeline: Annotated[bool, typer.Option("--timeline", help="The curriculum and the losses over the run.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            parser=expanded,
            help="By default sheet, strip or timeline.png in the run.",
        ),
    ] = None,
    binding: Bindings = None,
) -> None:
    """Draw what is hard for a model, what its curriculum masks and what it makes of that; or how it got there."""
    from hpm.errors import UserError
    from hpm.runtime.console import loading, make_console
    from hpm.runtime.notices import notices_to

    with loading():
        from hpm.inference.visualize import visualize

    if strip and timeline:
        raise UserError("--strip and --timeline are two pictures; ask for one of them")
    given = {"CONFIG": configs, "-b": binding, "--images": images, "--count": count}
    without_effect = [name for name, value in given.items() if value is not None and value != []]
    if timeline and without_effect:
        raise UserError(
            f"--timeline draws what the run wrote down, and {', '.join(without_effect)} would change nothing of that; "
            "leave it out"
        )
    console, kind = make_console(), "strip" if strip else "timeline" if timeline else "sheet"
    with notices_to(console):
        visualize(
            model,
            console,
            kind=kind,
            configs=configs or [],
            bindings=binding or [],
            images=images,
            count=6 if count is None else count,
            out=out,
        )
