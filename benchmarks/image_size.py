"""A training step at several sizes of the images, as `Trainer.image_size` brings them, in one process. Prints JSON.

A step is everything that the trainer does for a batch that lies in memory: masks, student, losses, backward, AdamW, and
the moving average where there is one. The sizes take turns, so that what disturbs the machine disturbs all of them, and
what counts is the processor's time. Operations are those of `hpm plan`.

    python benchmarks/image_size.py [--config recipes/mae_vit_base_200] [--sizes 128 224] [--batch-size 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from machine import describe_machine

from curriculum import Batch
from hpm.config import Config, parse_config, register_configurables
from hpm.data import ImageSource, TensorSplit
from hpm.planning.plan import make_plan


class RandomImages(ImageSource):
    """Stands in for a data set: a step's time depends on the images' shape alone."""

    def __init__(self, *, img_size: int) -> None:
        super().__init__(img_size=img_size, in_chans=3, mean=[0.5] * 3, std=[0.25] * 3, validation_images=0)

    def read(self, split: str) -> TensorSplit:
        return TensorSplit(torch.zeros(64, 3, 8, 8, dtype=torch.uint8))


def configuration(options: argparse.Namespace, size: int) -> Config:
    """The config with crops of one size, and with nothing beside the steps."""
    bindings = [
        "Trainer.source = @RandomImages()",
        f"RandomImages.img_size = {max(options.sizes)}",
        f"Trainer.image_size = {size}",
        f"Schedule.batch_size = {options.batch_size}",
        "Runtime.device = 'cpu'",
        "Runtime.precision = 'fp32'",
        "Runtime.compile = False",
        "Loading.num_workers = 0",
        "Monitoring.evaluations = []",
        "Monitoring.probe_every = 0",
        "MLflowTracker.enabled = False",
        *options.binding,
    ]
    return parse_config([options.config], bindings)


def measure(options: argparse.Namespace) -> dict[int, list[dict[str, float]]]:
    """Seconds of each round's step at each size."""
    trainer = configuration(options, min(options.sizes)).build()
    step, clock, model = trainer.build_step(), trainer.clock, trainer.method.student
    found: dict[int, list[dict[str, float]]] = {size: [] for size in options.sizes}
    draw = torch.Generator().manual_seed(0)
    images = {size: torch.randn(options.batch_size, 3, size, size, generator=draw) for size in options.sizes}
    for number in range(options.rounds + 1):
        for size in options.sizes if number % 2 else reversed(options.sizes):
            wall, processor = time.perf_counter(), time.process_time()
            step([Batch(images[size], model.patch_size)], **trainer.step_arguments(clock.at(number)))
            took = {"processor": time.process_time() - processor, "wall": time.perf_counter() - wall}
            if number:  # the first round warms up
                found[size].append(took)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="recipes/mae_vit_base_200")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 224], help="the largest is the model's")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-b", "--binding", action="append", default=[], help="over the config")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    register_configurables([RandomImages])
    rounds = measure(options)
    flop = {size: make_plan(configuration(options, size), images=64).step_flops for size in options.sizes}
    whole, rows = max(options.sizes), {}
    for size, took in rounds.items():
        ratios = [own["processor"] / full["processor"] for own, full in zip(took, rounds[whole], strict=True)]
        rows[size] = {
            "processor_ms": 1e3 * statistics.median(one["processor"] for one in took),
            "wall_ms": 1e3 * statistics.median(one["wall"] for one in took),
            "gflop": flop[size] / 1e9,
            "to_the_largest": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            "to_the_largest_by_arithmetic": flop[size] / flop[whole],
        }
    print(
        json.dumps(
            {
                "benchmark": "image_size",
                "config": options.config,
                "bindings": options.binding,
                "batch_size": options.batch_size,
                "rounds": options.rounds,
                "sizes": rows,
                "machine": describe_machine("cpu"),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
