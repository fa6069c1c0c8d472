"""`hpm plan`: what a run will cost."""

from __future__ import annotations

from typing import Annotated

import typer

from hpm.commands._options import Bindings


def command(
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG...", help="Config files, or names of shipped ones.")],
    binding: Bindings = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs train together.")] = 1,
    device: Annotated[str, typer.Option(help="Which: h200, h100, a100, l40s, rtx4090 or v100.")] = "h100",
    images: Annotated[
        int | None, typer.Option(help="Training images; by default those of the config's data, or ImageNet-1K's.")
    ] = None,
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that is assumed to be reached.")] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will cost: parameters, operations, memory and hours. Builds no data and no weights."""
    from dataclasses import asdict

    from hpm.config import parse_config
    from hpm.planning.plan import make_plan
    from hpm.planning.report import show_plan
    from hpm.runtime.console import make_console
    from hpm.runtime.files import to_json

    plan = make_plan(parse_config(configs, binding or []), gpus=gpus, device=device, images=images, mfu=mfu)
    if as_json:
        typer.echo(to_json(asdict(plan), indent=2))
    else:
        show_plan(make_console(), plan)
