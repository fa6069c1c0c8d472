"""Trains under every shipped curriculum for some steps, in one process or under torchrun, and prints what happened.

Usage: every_curriculum.py TINY.gin STEPS
"""

import json
import sys

import torch

from hpm.config import configs_folder, parse_config

# Sixteen patches are few, and twenty steps short.
SMALL = {
    "amt": ["Cached.start = 1", "Cached.every = 2"],
    "capi": ["PartialReconstruction.share = 0.3"],
    "coma": ["Schedule.epochs = 1", "Schedule.warmup_epochs = 0.5"],  # of twice the steps
    "semmae": ["Parts.parts = 3", "Quotas.parts = 3"],
}
SHORT = ["Schedule.epochs = 2", "Monitoring.evaluations = []", "Monitoring.log_every = 10", "Checkpointing.every = 10"]


def curricula() -> list[str]:
    """The names of the shipped ones."""
    return sorted(path.stem for path in (configs_folder() / "curricula").glob("*.gin"))


def bindings(name: str) -> list[str]:
    """What makes a curriculum fit a tiny run."""
    text = (configs_folder() / "curricula" / f"{name}.gin").read_text()
    unused = [] if "PARTS" not in text else ["PARTS = 3"]
    return [*SHORT, *unused, *([] if unused else SMALL.get(name, []))]


def train(tiny: str, name: str, steps: int) -> tuple[list[float], list[int]]:
    """Losses of each step, and a number for the masks of each row of the global batch."""
    trainer = parse_config([tiny, f"curricula/{name}"], bindings(name)).build()
    step, clock = trainer.build_step(), trainer.clock
    losses, drawn = [], []
    for number in range(steps):
        epoch, place = divmod(number, clock.steps_per_epoch)
        if place == 0:
            batches = trainer.loader.epoch(epoch)
        here = type(clock)(number, clock.steps_per_epoch, clock.epochs)
        measured = step(next(batches), **trainer.step_arguments(here))[-1]
        masks = (measured.mask.masked * torch.arange(1, measured.mask.num_masked + 1)).sum(dim=1).tolist()
        processes = trainer.processes
        drawn += [mask for theirs in processes.gather(masks) for mask in theirs]
        losses.append(float(processes.sum(measured.total)) / processes.world_size)
    return losses, drawn


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: train(sys.argv[1], name, int(sys.argv[2])) for name in curricula()}
    from hpm.runtime.distributed import DistributedContext

    if DistributedContext.from_environment().is_main:
        print(json.dumps(found))
    DistributedContext.from_environment().disconnect()
