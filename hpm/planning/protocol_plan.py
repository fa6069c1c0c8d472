"""The plan of a protocol that trains a network on an encoder: what fine-tuning for a dense task will cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from curriculum.sizes import pair
from hpm.config import Config
from hpm.errors import UserError
from hpm.evaluation import protocols
from hpm.evaluation.dense_protocol import DenseProtocol
from hpm.methods.method import Method
from hpm.planning.gpus import GPUS, require_machine, require_plannable
from hpm.planning.units import duration, units
from hpm.runtime.console import print_table

_CLASSES = 100  # assumed, for the data that tell how many there are may not be here


@dataclass(frozen=True)
class ProtocolPlan:
    """What fine-tuning by a protocol will cost.

    Args:
        protocol: its name.
        device: a key of `GPUS`.
        gpus: how many.
        precision: what they compute in.
        images: training images.
        epochs: passes over them.
        batch_size: images of a step, over all GPUs.
        steps: of the whole training.
        parameters: of the network.
        multiply_adds: of the forward pass of one image, by part.
        step_flops: operations of a step, two for each multiply-add, the backward pass being twice the forward.
        hours: of training one network; evaluation and waiting for data are not counted.
        mfu: share of the peak that is assumed to be reached.
        notes: what else a reader should know.
    """

    protocol: str
    device: str
    gpus: int
    precision: str
    images: int
    epochs: int
    batch_size: int
    steps: int
    parameters: int
    multiply_adds: dict[str, float]
    step_flops: float
    hours: float
    mfu: float
    notes: tuple[str, ...]


def plan_protocol(
    config: Config, protocol: str, *, gpus: int, device: str, images: int | None, mfu: float
) -> ProtocolPlan:
    """Plan the training of a protocol, without reading data.

    The model's weights are made, at random, and thrown away.

    Args:
        config: the configuration that was parsed last: a model's, and the protocol's over it.
        protocol: one that trains a network on annotated images.
        gpus: how many GPUs train together.
        device: a key of `GPUS`.
        images: of the training set.
        mfu: share of the GPU's peak that training reaches.

    Raises:
        UserError: for another protocol, or a value that cannot be.
    """
    known = {name: cls for name, cls in protocols().items() if issubclass(cls, DenseProtocol)}
    if protocol not in known:
        raise UserError(f"--protocol {protocol} cannot be planned; choose {' or '.join(known)}")
    if images is None:
        raise UserError(f"--images is needed with --protocol {protocol}: how many training images there are")
    machine = require_machine(device, gpus)
    require_plannable(mfu=mfu, images=images)
    method: Method = config.parameter("Trainer", "method")
    evaluation = config.build_part(known[protocol].__name__)
    model, schedule = method.student, evaluation.schedule
    config.check_bindings()
    try:
        steps = schedule.clock(images).total_steps
        schedule.micro_batch_size(gpus)
        network = evaluation.network(model, _CLASSES).to("meta").eval()
    except ValueError as error:
        raise UserError(str(error)) from error
    image = torch.empty(1, model.in_chans, *pair(model.img_size), device="meta")
    with torch.no_grad():
        work = {}
        for name, compute in evaluation.parts(network, image).items():
            with FlopCounterMode(display=False) as counter:
                compute()
            work[name] = counter.get_total_flops() / 2
    peaks = machine.gpu.peaks
    precision = "bf16" if "bf16" in peaks and evaluation.precision != "fp32" else "fp32"
    step_flops = 2 * 3 * schedule.batch_size * sum(work.values())
    peak = peaks[precision] * 1e12
    return ProtocolPlan(
        protocol=protocol,
        device=device,
        gpus=gpus,
        precision=precision,
        images=images,
        epochs=schedule.epochs,
        batch_size=schedule.batch_size,
        steps=steps,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=work,
        step_flops=step_flops,
        hours=steps * step_flops / (gpus * peak * mfu) / 3600,
        mfu=mfu,
        notes=(
            f"{_CLASSES} classes are assumed; others change the last layers alone",
            "memory is not estimated",
            "a baseline from scratch costs as much again",
        ),
    )


def show_protocol_plan(console: Console, plan: ProtocolPlan) -> None:
    """Print a plan."""
    table = Table(title=plan.protocol, title_justify="left", title_style="bold")
    table.add_column("part")
    table.add_column("multiply-adds of an image, forward", justify="right")
    for part, count in plan.multiply_adds.items():
        table.add_row(part, units(count))
    table.add_section()
    table.add_row(f"all, {units(plan.parameters).strip()} parameters", units(sum(plan.multiply_adds.values())))
    print_table(console, table)
    console.print(
        f"training: {plan.steps:,} steps, {plan.epochs:,} epochs of {plan.images:,} images in batches of "
        f"{plan.batch_size:,}; {units(plan.step_flops)}FLOP a step"
    )
    console.print(
        f"time:     {duration(plan.hours)} on {plan.gpus} {GPUS[plan.device].name}, {plan.gpus * plan.hours:,.3g} GPU "
        f"hours, if {plan.mfu:.0%} of the peak in {plan.precision} are reached: an assumption, see --mfu"
    )
    for note in plan.notes:
        console.print(f"note:     {note}", style="dim")
