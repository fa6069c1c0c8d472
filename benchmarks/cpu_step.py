"""A training step of the small configs on one thread of a CPU, against an older checkout. Prints JSON.

A step is everything that the trainer does for a batch that lies in memory: masks, student, losses, backward, AdamW,
moving average. The configs are the shipped ones on random images, in the middle of their run, where the teacher is
asked. Both checkouts run their own copy of this program, in processes that take turns; what counts is their processor
time, which others on the machine disturb less than the time that passes. `--reference FOLDER` is the other checkout;
without it this one is measured alone.

    python benchmarks/cpu_step.py [--reference FOLDER] [--rounds 20] [--steps 10] [-b BINDING]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

IMAGES: dict[str, dict[str, int]] = {
    "quickstart": {"img_size": 20, "in_chans": 3},
    "fashion_mnist": {"img_size": 28, "in_chans": 1},
}
QUIET = [
    "Trainer.source = @RandomImages()",
    "Runtime.device = 'cpu'",
    "Runtime.precision = 'fp32'",
    "Monitoring.evaluations = []",
    "Monitoring.probes = []",
    "Monitoring.probe_every = 0",
    "MLflowTracker.enabled = False",
]
HERE = Path(__file__).resolve().parents[1]
_WARM_UP = 5


def build(config: str, bindings: list[str]) -> Any:
    """The trainer of a config, on random images."""
    import torch

    from hpm.config import parse_config, register_configurables
    from hpm.data import ImageSource, TensorSplit

    class RandomImages(ImageSource):
        """Stands in for a data set: a step's time depends on the images' shape alone."""

        def __init__(self, *, img_size: int, in_chans: int) -> None:
            mean, std = [0.5] * in_chans, [0.25] * in_chans
            super().__init__(img_size=img_size, in_chans=in_chans, mean=mean, std=std, validation_images=0)
            images_KCHW = torch.empty(10_000, in_chans, img_size, img_size, dtype=torch.uint8, device="cpu")
            self._split = TensorSplit(images_KCHW.random_(0, 256, generator=torch.Generator("cpu").manual_seed(0)))

        def read(self, split: str) -> TensorSplit:
            return self._split

    register_configurables([RandomImages])
    shape = [f"RandomImages.{name} = {value}" for name, value in IMAGES[config].items()]
    return parse_config([config], [*QUIET, *shape, *bindings]).build()


def child(config: str, bindings: list[str], threads: int) -> None:
    """Take as many steps as a line of the standard input says, and answer with their time and the last loss."""
    import torch

    from hpm.optim.clock import Clock

    torch.set_num_threads(threads)
    trainer = build(config, bindings)
    step, clock = trainer.build_step(), trainer.clock
    batches, number = next(trainer.loader.epoch(0)), clock.total_steps // 2
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            losses = step(batches, **trainer.step_arguments(Clock(number, clock.steps_per_epoch, clock.epochs)))
            number += 1
        took = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(json.dumps(took | {"loss": losses[-1].total.item()}), flush=True)


def flops(config: str, bindings: list[str]) -> float:
    """Floating-point operations of a step by arithmetic, two for each multiply-add."""
    import torch

    from hpm.methods import operations

    with torch.device("meta"):
        trainer = build(config, bindings)
    parts = operations.multiply_adds(trainer.method)
    return (6 * (sum(parts.values()) - parts["teacher"]) + 2 * parts["teacher"]) * trainer.schedule.batch_size


class Contestant:
    """A checkout in a process of its own.

    Args:
        folder: the checkout.
        config: what it trains.
        options: of the command line.
    """

    def __init__(self, folder: Path, config: str, options: argparse.Namespace) -> None:
        bindings = [word for binding in options.binding for word in ("-b", binding)]
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(folder / "benchmarks" / Path(__file__).name),
                "--child",
                config,
                "--threads",
                str(options.threads),
                *bindings,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": str(options.threads)},
        )

    def take(self, steps: int) -> dict[str, float]:
        """Seconds of `steps` steps and the last one's loss."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"a contestant ended with status {self.process.wait()}")
        return json.loads(answer)

    def end(self) -> None:
        """Wait until it has."""
        self.process.communicate()


def compare(config: str, options: argparse.Namespace) -> dict[str, Any]:
    """Both checkouts in turns, one first in one round and last in the next."""
    folders = {"ours": HERE} | ({"reference": options.reference} if options.reference else {})
    contestants = {name: Contestant(folder, config, options) for name, folder in folders.items()}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name in list(contestants) if number % 2 else reversed(contestants):
            took = contestants[name].take(options.steps if number else _WARM_UP)
            if number:
                rounds[name].append(took)
    for contestant in contestants.values():
        contestant.end()
    work = flops(config, options.binding)
    report: dict[str, Any] = {"gflop_of_a_step": work / 1e9}
    for name, answers in rounds.items():
        processor, wall = (
            statistics.median(answer[kind] / options.steps for answer in answers) for kind in ("processor", "wall")
        )
        report[name] = {"processor_ms": 1e3 * processor, "wall_ms": 1e3 * wall}
        if name == "ours":  # the other checkout may compute more, or less
            report[name]["gflop_per_second"] = work / processor / 1e9
    if options.reference:
        pairs = list(zip(rounds["ours"], rounds["reference"], strict=True))
        ratios = [mine["processor"] / theirs["processor"] for mine, theirs in pairs]
        report["ratio"] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        report["largest_difference_of_a_loss"] = max(abs(mine["loss"] - theirs["loss"]) for mine, theirs in pairs)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="another checkout of this project, measured as well")
    parser.add_argument("--configs", nargs="+", choices=IMAGES, default=list(IMAGES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-b", "--binding", action="append", default=[], help="over the configs, e.g. 'Ramp.end = 0.0'")
    parser.add_argument("--child", choices=IMAGES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("rounds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if options.reference and not Path(options.reference, "hpm", "__init__.py").is_file():
        parser.error(f"--reference {options.reference} holds no checkout of this project: hpm/__init__.py is missing")
    if options.child:
        child(options.child, options.binding, options.threads)
        return
    rows = {config: compare(config, options) for config in options.configs}
    import torch
    from machine import describe_machine

    torch.set_num_threads(options.threads)
    print(
        json.dumps(
            {
                "benchmark": "cpu_step",
                "rounds": options.rounds,
                "steps": options.steps,
                "bindings": options.binding,
                "configs": rows,
                "machine": describe_machine("cpu"),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
