"""Time, throughput and peak memory of a training step: MAE, HPM and cheaper HPM, in alternation. Prints JSON.

A step is everything the trainer does for a batch: masks, student, losses, backward, AdamW, moving average. MAE is the
same code without loss predictor and without teacher. Every contestant is a process of its own, which takes `--steps`
steps on request, so that each has its own peak memory; on a CUDA device they share the memory that there is, so choose
a batch that leaves room for all, or name fewer `--contestants`. `--reference FOLDER` adds HPM at alpha 0.5 as an older
checkout of this project (0.1) computes it.

    python benchmarks/step.py [--model vit_base] [--batch-size 8] [--rounds 5] [--compile] [--device cpu]
    torchrun --nproc-per-node 2 benchmarks/step.py ...      the batch is the sum over the processes
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

CONTESTANTS: dict[str, dict[str, Any]] = {
    "mae": {"alpha": None},
    "hpm_alpha_0": {"alpha": 0.0},
    "hpm_alpha_0.25": {"alpha": 0.25},
    "hpm_alpha_0.5": {"alpha": 0.5},
    "predictor_depth_1": {"alpha": 0.5, "predictor": 1},
    "score_every_4": {"alpha": 0.5, "every": 4},
    "both": {"alpha": 0.5, "predictor": 1, "every": 4},
}
REFERENCE = "foundation"
SIZES: dict[str, dict[str, Any]] = {
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 16},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 16},
    "vit_huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}


def build(name: str, model: str, *, reference: bool = False) -> Any:
    """A contestant's method, on whatever device is the default."""
    from curriculum import Constant, Curriculum, HardestFirst, PredictedLoss, Random, Uniform
    from hpm.method import Method
    from hpm.model import MaskedAutoencoder
    from hpm.targets import Pixels
    from hpm.teacher import HorizonDecay

    what: dict[str, Any] = {"alpha": 0.5} if reference else CONTESTANTS[name]
    if what["alpha"] is None:
        curriculum = Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random())
        student = MaskedAutoencoder(**SIZES[model], loss_predictor_depth=None)
        return Method(model=student, curriculum=curriculum, target=Pixels())
    every: dict[str, Any] = {"score_every": what["every"]} if "every" in what else {}
    scheduler = Constant(value=what["alpha"])
    curriculum = Curriculum(scheduler=scheduler, difficulty=PredictedLoss(), sampler=HardestFirst(), **every)
    student = MaskedAutoencoder(**SIZES[model], loss_predictor_depth=what.get("predictor", 8))
    return Method(model=student, curriculum=curriculum, target=Pixels(), teacher_decay=HorizonDecay())


def stepper(name: str, options: argparse.Namespace) -> Any:
    """A function that takes the step of a number; under torchrun together with the other processes."""
    from dataclasses import replace

    import torch

    from curriculum import Batch, Noise
    from hpm.optim import build_adamw

    device = torch.device(options.device)
    method = build(name, options.model, reference=name == REFERENCE)
    student = method.student
    images = torch.randn(
        options.batch_size // options.processes, 3, 224, 224, generator=torch.Generator().manual_seed(0)
    ).to(device)
    batch = Batch(images, student.patch_size)
    if name == REFERENCE:
        method.prepare(device, autocast=torch.bfloat16 if options.precision == "bf16" else None, seed=0)
        optimizer = build_adamw(student, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))

        def old_step(step: int) -> None:
            noise = Noise.for_batch(seed=0, step=step, batch_size=len(batch), device=device)
            method.losses(batch, 0.5, noise).total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            method.teacher.update(student, 0.99)

        return old_step
    from hpm.devices import autocast_dtype, set_up
    from hpm.distributed import Processes
    from hpm.step import TrainingStep

    set_up(device, options.precision, deterministic=False)
    # A group of its own for each contestant: the number keeps their meetings apart.
    number = [*CONTESTANTS, REFERENCE].index(name)
    processes = replace(Processes.from_environment(), restarts=number)
    processes.connect(device)
    method.prepare(device, autocast=autocast_dtype(options.precision), seed=0)
    student.set_grad_checkpointing(options.grad_checkpointing)
    method.distribute(processes, sharding="none")
    if options.compile:
        method.compile()
    optimizer = build_adamw(student, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))
    train = TrainingStep(method, optimizer, processes=processes, seed=0, batch_size=options.batch_size)
    decay = None if method.teacher_decay is None else 0.99
    return lambda step: train([batch], step=step, progress=0.5, lr=1e-4, decay=decay)


def contestant(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Take steps whenever asked, and answer with their mean time and the peak memory so far."""
    if name == REFERENCE:
        sys.path.insert(0, options.reference)
    import torch
    from machine import synchronize

    from hpm.devices import peak_memory

    torch.set_num_threads(options.threads)
    try:
        take, step = stepper(name, options), 0
        while pipe.recv():
            synchronize(options.device)
            started = time.perf_counter()
            for _ in range(options.steps):
                take(step)
                step += 1
            synchronize(options.device)
            pipe.send(((time.perf_counter() - started) / options.steps, peak_memory(torch.device(options.device))))
    except torch.OutOfMemoryError:
        pipe.send(None)


def by_arithmetic(name: str, model: str) -> dict[str, float]:
    """FLOPs of a step for one image: the student's, and all with the teacher's, two for each multiply-add."""
    import torch

    from hpm import cost

    with torch.device("meta"):
        method = build(name, model)
    parts, what = cost.multiply_adds(method), CONTESTANTS[name]
    student = 6 * (sum(parts.values()) - parts["teacher"])
    asked = 1 / what.get("every", 1) if what["alpha"] else 0
    return {"student": student, "all": student + 2 * parts["teacher"] * asked}


def measure(options: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Seconds of a step by contestant and round, and peak memory in bytes; without those that ran out of memory."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for name in [*options.contestants, *([REFERENCE] if options.reference else [])]:
        pipes[name], theirs = context.Pipe()
        context.Process(target=contestant, args=(name, options, theirs), daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    memory: dict[str, int] = {}
    for round_number in range(options.rounds + 1):  # the first round warms up, and compiles
        for name in list(seconds):
            pipes[name].send(True)
            answer = pipes[name].recv()
            if answer is None:
                del seconds[name]
            elif round_number:
                seconds[name].append(answer[0])
                memory[name] = answer[1]
    for name in seconds:
        pipes[name].send(False)
    return seconds, memory


def report(options: argparse.Namespace) -> dict[str, Any]:
    """Everything measured, beside what arithmetic expects."""
    from machine import describe_machine

    from hpm.gpus import GPUS

    seconds, memory = measure(options)
    peak = None if options.gpu is None else options.processes * GPUS[options.gpu].peaks[options.precision] * 1e12
    counted = {name: by_arithmetic(name, options.model) for name in seconds if name != REFERENCE}
    rows: dict[str, Any] = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        row: dict[str, Any] = {
            "seconds": {"median": median, "min": min(times), "max": max(times)},
            "images_per_second": options.batch_size / median, "peak_memory_bytes": memory[name],
        }  # fmt: skip
        for other in ("mae", REFERENCE):
            if other in seconds and other != name:
                ratios = [mine / theirs for mine, theirs in zip(times, seconds[other], strict=True)]
                row[f"ratio_to_{other}"] = {
                    "median": statistics.median(ratios), "min": min(ratios), "max": max(ratios),
                    "memory": memory[name] / memory[other],
                }  # fmt: skip
        if name in counted:
            row["flops_an_image"] = counted[name]
            if "mae" in counted:
                row["ratio_to_mae_by_arithmetic"] = counted[name]["all"] / counted["mae"]["all"]
            if peak is not None:
                row["mfu"] = {k: v * options.batch_size / median / peak for k, v in counted[name].items()}
        rows[name] = row
    return {
        "benchmark": "step", **{k: v for k, v in vars(options).items() if k not in ("contestants", "reference")},
        "peak_flops": peak, "contestants": rows, "out_of_memory": sorted(set(options.contestants) - set(rows)),
        "machine": describe_machine(options.device),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    import torch

    from hpm.devices import choose_precision
    from hpm.gpus import GPUS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="vit_base")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of a round; a multiple of 4 for score_every_4")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--grad-checkpointing", action="store_true")
    parser.add_argument("--reference", help="a checkout of version 0.1, measured as well")
    parser.add_argument("--gpu", choices=GPUS, help="whose data sheet's peak the model FLOPs utilization refers to")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.processes = int(os.environ.get("WORLD_SIZE", "1"))
    if options.batch_size % options.processes or (options.reference and options.processes > 1):
        parser.error("--batch-size must be a multiple of the processes, and --reference is measured in one")
    if options.device == "cuda":
        options.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    options.precision = choose_precision(options.precision, torch.device(options.device))
    measured = report(options)
    if os.environ.get("RANK", "0") == "0":
        print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
