"""`hpm plan`: what a run will cost."""

from __future__ import annotations

from typing import Annotated

import typer

from hpm.commands._completion import complete_config
from hpm.commands._options import Bindings


def command(
    configs: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG...", autocompletion=complete_config, help="Config files, or names of shipped ones."
        ),
    ],
    binding: Bindings = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs train together.")] = 1,
    device: Annotated[str, typer.Option(help="Which: h200, h100, a100, l40s, rtx4090 or v100.")] = "h100",
    images: Annotated[
        int | None, typer.Option(help="Training images; by default those of the config's data, or ImageNet-1K's.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="Plan the training of this protocol instead: segmentation-finetune or detection."),
    ] = None,
    mfu: Annotated[float, typer.Option(help="Share of the GPU's peak that is assumed to be reached.")] = 0.3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a run will cost: parameters, operations, memory and hours. Builds no data and no weights.

    With --protocol, say what fine-tuning for a dense task will cost; that makes the network's weights, and no data.
    """
    from dataclasses import asdict

    from hpm.runtime.console import loading, make_console
    from hpm.runtime.files import to_json

    with loading():
        from hpm.config import parse_config
        from hpm.planning.plan import Plan, make_plan
        from hpm.planning.protocol_plan import ProtocolPlan, plan_protocol, show_protocol_plan
        from hpm.planning.report import show_plan

        config = parse_config(configs, binding or [])
    console = make_console(quiet=as_json)
    made: Plan | ProtocolPlan
    if protocol is None:
        made = plan = make_plan(config, gpus=gpus, device=device, images=images, mfu=mfu)
        show_plan(console, plan)
    else:
        made = cost = plan_protocol(config, protocol, gpus=gpus, device=device, images=images, mfu=mfu)
        show_protocol_plan(console, cost)
    if as_json:
        typer.echo(to_json(asdict(made), indent=2))
