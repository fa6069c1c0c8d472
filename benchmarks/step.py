"""Time, throughput and memory of a training step: MAE, HPM and cheaper HPM, in turns. Prints JSON.

A step is everything the trainer does for a batch: masks, student, losses, backward, AdamW, moving average. MAE is the
same code without loss predictor and without teacher. All contestants live in one process and take turns, `--steps`
steps at a time, so that they share the memory of their activations and a clock that drifts meets all alike. One that
cannot run, or runs out of memory, is left out and named, and the exit code is 1 then. With `--out FILE` the results so
far are written after each round.

    python benchmarks/step.py [--model vit_base] [--batch-size 8] [--rounds 5] [--compile blocks] [--device cpu]
    torchrun --nproc-per-node 2 benchmarks/step.py ...      the batch is the sum over the processes
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from contestants import CONTESTANTS, SIZES, Contestant, build_step, flops_an_image, stepper
from machine import describe_machine, seconds_of, synchronize

from hpm.runtime.devices import choose_device, choose_precision
from hpm.runtime.distributed import DistributedContext

DEFAULT = ("mae", "hpm_alpha_0", "hpm_alpha_0.25", "hpm_alpha_0.5", "predictor_depth_1", "score_every_4", "both")


class Race:
    """Contestants in one process, taking turns.

    Args:
        contestants: by name; where "mae" or `baseline` is among them, ratios to it are reported.
        model: a key of `SIZES`.
        device: where.
        batch_size: images of a step, over all processes.
        steps: of a turn.
        more: arguments of `build_step`.

    Attributes:
        seconds: of a step, by contestant and turn.
        memory: bytes that a step needs beyond weights, moments and teachers; on CUDA, and without CUDA graphs.
        first_seconds: until the first four steps were done: building, compiling, warming up.
        failed: why a contestant is left out.
    """

    def __init__(
        self,
        contestants: dict[str, Contestant],
        model: str,
        *,
        device: torch.device,
        batch_size: int,
        steps: int = 4,
        **more: Any,
    ) -> None:
        self.contestants = contestants
        self.model = model
        self.device = device
        self.batch_size = batch_size
        self.steps = steps
        self.more = more
        self.seconds: dict[str, list[float]] = {}
        self.memory: dict[str, int] = {}
        self.first_seconds: dict[str, float] = {}
        self.failed: dict[str, str] = {}
        self._take: dict[str, Callable[[int], None]] = {}
        self._done: dict[str, int] = {}

    def run(self, rounds: int) -> Iterator[dict[str, Any]]:
        """Build all, then take turns; yields the rows so far after each round."""
        self.build()
        for _ in range(rounds):
            for name in list(self._take):
                self._attempt(name, self._turn)
            yield self.rows()

    def build(self) -> float:
        """Build and compile all contestants, and take four steps with each; the seconds that it took."""
        started = time.perf_counter()
        for name in self.contestants:
            self._attempt(name, self._build)
        return time.perf_counter() - started

    def _attempt(self, name: str, action: Callable[[str], None]) -> None:
        try:
            action(name)
        except Exception as error:
            if isinstance(error, torch.OutOfMemoryError):
                reason = "out of memory"
            else:
                reason = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            self.failed[name] = reason
            self._take.pop(name, None)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _build(self, name: str) -> None:
        started, cuda = time.perf_counter(), self.device.type == "cuda"
        step = build_step(
            self.contestants[name], self.model, device=self.device, batch_size=self.batch_size, **self.more
        )
        take = stepper(step)
        for number in range(2):  # the second finds the optimizer's moments made
            take(number)
        if cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        kept = torch.cuda.memory_allocated(self.device) if cuda else 0
        for number in range(2, 4):
            take(number)
        synchronize(str(self.device))
        if cuda and not self.contestants[name].graphs:  # whose memory is theirs from the start
            self.memory[name] = torch.cuda.max_memory_allocated(self.device) - kept
        self._take[name] = take
        self._done[name] = 4
        self.seconds[name] = []
        self.first_seconds[name] = time.perf_counter() - started

    def _turn(self, name: str) -> None:
        numbers = iter(range(self._done[name], self._done[name] + self.steps))
        seconds = seconds_of(lambda: self._take[name](next(numbers)), str(self.device), repeats=self.steps, warm_up=0)
        self.seconds[name].append(seconds)
        self._done[name] += self.steps

    def rows(self, *, baseline: str = "mae") -> dict[str, Any]:
        """What was measured so far, beside what arithmetic expects."""
        rows: dict[str, Any] = {}
        work = {name: flops_an_image(self.contestants[name], self.model) for name in self.seconds}
        for name, times in self.seconds.items():
            if not times:
                continue
            median = statistics.median(times)
            row: dict[str, Any] = {
                "ms": 1e3 * median,
                "ms_min": 1e3 * min(times),
                "ms_max": 1e3 * max(times),
                "images_per_second": self.batch_size / median,
                "tflops": work[name]["all"] * self.batch_size / median / 1e12,
                "gflop_an_image": {kind: value / 1e9 for kind, value in work[name].items()},
                "turns": len(times),
                "first_seconds": self.first_seconds[name],
            }
            if name in self.memory:
                row["step_bytes"] = self.memory[name]
            if baseline in self.seconds and name != baseline:
                ratios = [mine / theirs for mine, theirs in zip(times, self.seconds[baseline], strict=False)]
                row[f"ratio_to_{baseline}"] = statistics.median(ratios)
                row["ratio_by_arithmetic"] = work[name]["all"] / work[baseline]["all"]
            rows[name] = row
        return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="vit_base")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(DEFAULT))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of a turn; a multiple of 4 for score_every_4")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", choices=("no", "whole", "blocks"), default="no")
    parser.add_argument("--grad-checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", help="a file for the JSON, written after each round as well")
    options = parser.parse_args()
    for name in ("batch_size", "rounds", "steps", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    torch.set_num_threads(options.threads)
    processes = DistributedContext.from_environment()
    if options.batch_size % processes.world_size:
        parser.error("--batch-size must be a multiple of the processes")
    if options.out and not Path(options.out).absolute().parent.is_dir():
        parser.error(f"--out {options.out}: there is no folder {Path(options.out).parent}")
    try:
        device = choose_device(options.device, local_rank=processes.local_rank)
        precision = choose_precision(options.precision, device)
    except ValueError as error:
        parser.error(str(error).replace("Runtime.device =", "--device").replace("Runtime.precision =", "--precision"))
    choices: dict[str, bool | str] = {"no": False, "whole": True, "blocks": "blocks"}
    compile = choices[options.compile]
    race = Race(
        {name: replace(CONTESTANTS[name], precision=precision, compile=compile) for name in options.contestants},
        options.model,
        device=device,
        batch_size=options.batch_size,
        steps=options.steps,
        processes=processes,
        grad_checkpointing=options.grad_checkpointing,
    )
    head = {
        "benchmark": "step",
        **{name: value for name, value in vars(options).items() if name not in ("contestants", "out")},
        "precision": precision,
        "processes": processes.world_size,
        "machine": describe_machine(str(device)),
    }
    found: dict[str, Any] = {}
    for rows in race.run(options.rounds):
        found = {**head, "contestants": rows, "failed": race.failed}
        if options.out and processes.is_main:
            Path(options.out).write_text(json.dumps(found, indent=2) + "\n")
    if processes.is_main:
        print(json.dumps(found, indent=2))
    processes.disconnect()
    sys.exit(1 if race.failed else 0)


if __name__ == "__main__":
    main()
