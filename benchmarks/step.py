"""Time and peak memory of one training step: MAE, HPM at alpha 0 and HPM at alpha 0.3, in alternation. Prints JSON.

A step is everything the trainer does for a batch: mask, student, losses, backward, AdamW, moving average. MAE is
the same code without loss predictor and without teacher. Every contestant runs in a process of its own, which takes
one step on request, so that each has its own peak memory.

    python benchmarks/step.py [--batch-size 8] [--rounds 5] [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

import torch
from machine import describe_machine, synchronize

from curriculum import Batch, Constant, Curriculum, HardestFirst, Noise, PredictedLoss, Random, Uniform
from hpm.clock import Clock
from hpm.devices import choose_autocast, peak_memory
from hpm.method import Method
from hpm.model import MaskedAutoencoder
from hpm.optim import build_adamw
from hpm.targets import Pixels

CONTESTANTS = {"mae": None, "hpm_alpha_0": 0.0, "hpm_alpha_0.3": 0.3}
# Multiply-adds of blocks, patch embedding and heads, ViT-B/16: student 9.78 G (MAE) or 15.06 G (HPM), teacher
# 22.92 G; backward is twice the forward.
BY_ARITHMETIC = {"mae": 1.0, "hpm_alpha_0": 15.06 / 9.78, "hpm_alpha_0.3": (3 * 15.06 + 22.92) / (3 * 9.78)}
SIZES = {
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16},
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "patch_size": 16},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 16},
}


def build(name: str, model: str, device: torch.device, precision: str) -> Method:
    """A contestant's method, ready to train."""
    alpha = CONTESTANTS[name]
    curriculum = (
        Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random())
        if alpha is None
        else Curriculum(scheduler=Constant(value=alpha), difficulty=PredictedLoss(), sampler=HardestFirst())
    )
    student = MaskedAutoencoder(**SIZES[model], loss_predictor_depth=None if alpha is None else 8)
    method = Method(model=student, curriculum=curriculum, target=Pixels())
    method.prepare(device, autocast=choose_autocast(precision, device), seed=0)
    if alpha is None:
        method.teacher = None  # type: ignore[assignment]  # MAE has none, and no memory for one
    return method


def contestant(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Take a step whenever asked, and answer with its time."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    method = build(name, options.model, device, options.precision)
    optimizer = build_adamw(method.student, lr=1e-4, weight_decay=0.05, betas=(0.9, 0.95))
    images = torch.randn(options.batch_size, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    batch = Batch(images, method.student.patch_size)
    step = 0
    while pipe.recv():
        synchronize(options.device)
        started = time.perf_counter()
        noise = Noise.for_batch(seed=0, step=step, batch_size=len(batch), device=device)
        method.losses(batch, 0.5, noise).total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if CONTESTANTS[name] is not None:
            method.teacher.update(method.student, method.teacher_decay(Clock(step, 100, 1)))
        synchronize(options.device)
        pipe.send((time.perf_counter() - started, peak_memory(device)))
        step += 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="vit_base")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    for name in CONTESTANTS:
        pipes[name], theirs = context.Pipe()
        context.Process(target=contestant, args=(name, options, theirs), daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    memory: dict[str, int] = {}
    for round_number in range(options.rounds + 1):  # the first round warms up
        for name, pipe in pipes.items():
            pipe.send(True)
            elapsed, memory[name] = pipe.recv()
            if round_number:
                seconds[name].append(elapsed)
    for pipe in pipes.values():
        pipe.send(False)
    ratios = {name: [t / mae for t, mae in zip(times, seconds["mae"], strict=True)] for name, times in seconds.items()}
    report = {
        "benchmark": "step", "model": options.model, "batch_size": options.batch_size, "rounds": options.rounds,
        "precision": str(choose_autocast(options.precision, torch.device(options.device)) or torch.float32),
        "seconds_median": {name: statistics.median(times) for name, times in seconds.items()},
        "ratio_to_mae": {
            name: {"median": statistics.median(r), "min": min(r), "max": max(r), "by_arithmetic": BY_ARITHMETIC[name]}
            for name, r in ratios.items()
        },
        "peak_memory_bytes": memory,
        "peak_memory_ratio_to_mae": {name: used / memory["mae"] for name, used in memory.items()},
        "machine": describe_machine(options.device),
    }  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
