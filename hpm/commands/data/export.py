"""`hpm data export`: the images of a config's data set, and what is known of them, in files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpm.commands._completion import complete_config
from hpm.commands._options import Bindings
from hpm.runtime.files import expanded


def command(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG...",
            autocompletion=complete_config,
            help="What bind Trainer.source, e.g. data/stamp_scenes.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", parser=expanded, help="A new folder.")],
    to: Annotated[
        str,
        typer.Option(
            "--format",
            help="coco, objects with masks in COCO's JSON; segmentation, a mask of classes for each image; or folder, "
            "a folder of images for each class.",
        ),
    ] = "coco",
    binding: Bindings = None,
) -> None:
    """Write a data set's images as PNG, as evaluations see them, with their annotations.

    CocoDetection, SegmentationFolder and ImageFolder read what is written.
    """
    from hpm.runtime.console import loading, make_console
    from hpm.runtime.notices import notices_to

    with loading():
        from hpm.inference.data_export import export_data

    console = make_console()
    with notices_to(console):
        export_data(configs, out, console, to=to, bindings=binding or [])
