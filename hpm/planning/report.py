"""A plan as a person reads it."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from curriculum.sizes import spell_size
from hpm.planning.gpus import GPUS, Gpu
from hpm.planning.plan import USABLE_MEMORY, Plan
from hpm.planning.units import duration, units
from hpm.runtime.console import print_table


def show_plan(console: Console, plan: Plan) -> None:
    """Print a plan."""
    gpu = GPUS[plan.device]
    print_table(console, _parts_table(plan))
    print_table(console, _memory_table(plan, gpu))
    masks = f" in {plan.masks_per_image} masks each," if plan.masks_per_image > 1 else ""
    lines = [
        f"training: {plan.steps:,} steps, {plan.epochs:,} epochs of {plan.images:,} images{masks} in batches of "
        f"{plan.batch_size:,}; {units(plan.step_flops)}FLOP a step",
        f"time:     {duration(plan.hours)} on {plan.gpus} {gpu.name}, {plan.gpus * plan.hours:,.3g} GPU "
        f"hours, with {plan.images_per_second:,.0f} images/s from the data, if {plan.mfu:.0%} of "
        f"{units(plan.peak)}FLOP/s in {plan.precision} are reached: an assumption, see --mfu",
    ]
    if len(plan.image_sizes) > 1:
        sizes = ", ".join(f"{share:.0%} at {spell_size(size)}" for size, share in plan.image_sizes)
        lines.insert(1, f"images:   {sizes} pixels; what they compute is the mean over the epochs")
    if plan.precision in gpu.measured:
        lines.append(
            f"peak:     measured on {gpu.name}: {gpu.measured[plan.precision]:.0f} TFLOP/s in {plan.precision}, of "
            "large matrix products alone"
        )
    if plan.relative_cost > 1:
        asked = f"asked in {plan.teacher_share:.0%} of the steps" if plan.multiply_adds["teacher"] else "never asked"
        lines.insert(
            1,
            f"teacher:  {asked} by the curriculum; the average step costs {plan.relative_cost:.2f} times one of "
            "encoder and reconstructor alone",
        )
    for line in lines:
        console.print(line)
    if not plan.fits:
        console.print(f"memory:   too much for the {gpu.name}; {_advice(plan)}", style="red")
    for note in plan.notes:
        console.print(f"note:     {note}", style="dim")


def _parts_table(plan: Plan) -> Table:
    table = Table(title=f"{plan.config}: {plan.curriculum}", title_justify="left", title_style="bold")
    table.add_column("part")
    table.add_column("parameters", justify="right")
    table.add_column("multiply-adds of an image, forward", justify="right")
    for part in ("encoder", "reconstructor", "loss predictor"):
        table.add_row(part, *_cells(plan, part))
    if "classifier" in plan.parameters:
        table.add_row("classifier", *_cells(plan, "classifier"))
    table.add_section()
    table.add_row("student", *_cells(plan, "encoder", "reconstructor", "loss predictor", "classifier"))
    table.add_row("  as published code computes it", "", units(plan.published_multiply_adds), style="dim")
    table.add_row("teacher", *_cells(plan, "teacher"))
    if plan.dense_share:
        label = f"dense prediction, in {plan.dense_share:.0%} of the steps"
        table.add_row(label, "", _cells(plan, "dense input", "dense prediction")[1])
    if plan.multiply_adds.get("pseudo-labels"):
        table.add_row("pseudo-labels, on average", "", _cells(plan, "pseudo-labels")[1])
    if plan.multiply_adds["target"]:
        table.add_row("network of the target", "", _cells(plan, "target")[1])
    return table


def _cells(plan: Plan, *parts: str) -> tuple[str, ...]:
    sums = (sum(values.get(part, 0) for part in parts) for values in (plan.parameters, plan.multiply_adds))
    return tuple(units(value) if value else "-" for value in sums)


def _memory_table(plan: Plan, gpu: Gpu) -> Table:
    table = Table(show_header=True)
    table.add_column(f"memory of a GPU, estimated, {plan.micro_batch:,} images at a time")
    table.add_column("", justify="right")
    for purpose, used in plan.memory.items():
        if used:
            table.add_row(purpose, f"{units(used)}B")
    table.add_section()
    table.add_row(f"of {gpu.memory:g} GB", f"{units(plan.total_memory)}B", style="green" if plan.fits else "red")
    return table


def _advice(plan: Plan) -> str:
    """The fewest micro-batches that fit, where any do."""
    if plan.whole_steps:
        return "-b 'Runtime.grad_checkpointing = True', more GPUs or a smaller Schedule.batch_size need less"
    fixed = plan.total_memory - plan.memory["activations"]
    now = plan.batch_size // (plan.gpus * plan.micro_batch)
    for parts in range(2, plan.micro_batch + 1):
        fits = fixed + plan.memory["activations"] / parts <= USABLE_MEMORY * plan.device_memory
        if fits and plan.micro_batch % (parts * plan.masks_per_image) == 0:
            return f"-b 'Schedule.accumulate = {now * parts}' or -b 'Runtime.grad_checkpointing = True' needs less"
    return "more GPUs and -b \"Runtime.sharding = 'fsdp'\" need less"
