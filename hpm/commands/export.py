"""`hpm export`: a trained encoder for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpm.commands._options import Bindings, ModelPath, PublishedConfigs, Weights
from hpm.runtime.files import expanded


def command(
    model: ModelPath,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER|FILE",
            parser=expanded,
            help="A new folder for timm, else a new file.",
        ),
    ],
    configs: PublishedConfigs = None,
    to: Annotated[str, typer.Option("--format", help="timm, safetensors or onnx.")] = "timm",
    pool: Annotated[
        str | None, typer.Option(help="Features: the class token (the default), or avg of the patches' tokens.")
    ] = None,
    weights: Weights = "student",
    whole: Annotated[
        bool, typer.Option("--whole", help="For safetensors, the whole model rather than the encoder.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="For timm, upload the folder to this repository of the Hugging Face Hub."
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A repository that --push makes is seen by nobody else.")
    ] = False,
    binding: Bindings = None,
) -> None:
    """Write a trained encoder for timm, as plain weights, or for ONNX."""
    from hpm.inference.export import export
    from hpm.runtime.console import make_console
    from hpm.runtime.notices import notices_to

    console = make_console()
    with notices_to(console):
        export(
            model,
            out,
            console,
            to=to,
            configs=configs or [],
            bindings=binding or [],
            pool=pool,
            weights=weights,
            whole=whole,
            repository=push,
            private=private,
        )
