"""The sections of `benchmarks/gpu.py` in which whole training steps race: methods in turns, results after each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from contestants import CONTESTANTS, Contestant
from gpu_speed import Result
from step import Race

METHODS = ("mae", "loss_memory", "hpm_alpha_0", "hpm_alpha_0.5", "both")
LEVERS = ("mae_bf16_residual", "bf16_teacher", "bf16_residual", "bf16_teacher_and_residual")


class Plan(NamedTuple):
    """A race: images of a step, contestants, how they are compiled, and whether CUDA graphs replay them."""

    batch_size: int
    names: tuple[str, ...]
    compile: bool | str = "blocks"
    graphs: bool = True


def races(device: torch.device, tiny: bool, model: str, plans: list[Plan]) -> Iterator[Result]:
    """Several races, one after the other; a contestant that cannot run fails the section, but not the others."""
    found: Result = {"races": [], "failed": []}
    for batch_size, names, compile, graphs in plans:
        found["races"].append({})
        used, images = ("toy", 4) if tiny else (model, batch_size)
        settings: dict[str, Any] = {"compile": compile, "graphs": graphs and device.type == "cuda"}
        contestants = {name: replace(CONTESTANTS[name], **settings) for name in names}
        race = Race(contestants, used, device=device, batch_size=images)
        described = {"model": used, "batch_size": images, **settings, "failed_contestants": race.failed}
        for rows in race.run(2 if tiny else 5):
            found["races"][-1] = {**described, "rows": rows}
            yield found
        found["failed"] += [f"{name} at {batch_size}: {reason}" for name, reason in race.failed.items()]
        del race
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    yield found


def warm(device: torch.device, tiny: bool) -> Iterator[Result]:
    """Compile what the races need while the checks run, into the cache on disk that all processes share."""
    found: Result = {"seconds_by_contestant": {}, "failed": []}
    for model in ("vit_base",) if tiny else ("vit_base", "vit_large"):
        for name in ("mae", "hpm_alpha_0.5", "bf16_residual", "bf16_teacher"):
            contestant = replace(CONTESTANTS[name], compile="blocks")
            size = ("toy", 4) if tiny else (model, 256)
            run = Race({name: contestant}, size[0], device=device, batch_size=size[1])
            found["seconds_by_contestant"] |= {f"{model} {name}": run.build()}
            found["failed"] += [f"{model} {name}: {reason}" for reason in run.failed.values()]
            yield found


def vit_base(device: torch.device, tiny: bool) -> Iterator[Result]:
    """ViT-B/16 at 256 images, blocks compiled: two methods as the host launches them, then all as CUDA graphs."""
    few = Plan(256, ("mae", "hpm_alpha_0.5"), graphs=False)
    yield from races(device, tiny, "vit_base", [few, Plan(256, METHODS + LEVERS)])


def vit_base_small(device: torch.device, tiny: bool) -> Iterator[Result]:
    """ViT-B/16 at 64 images, a batch for which hosts are often too slow."""
    yield from races(device, tiny, "vit_base", [Plan(64, METHODS)])


def vit_base_eager(device: torch.device, tiny: bool) -> Iterator[Result]:
    """ViT-B/16 at 256 images, nothing compiled."""
    names = ("mae", "hpm_alpha_0.5")
    yield from races(device, tiny, "vit_base", [Plan(256, names, False), Plan(256, names, False, graphs=False)])


def vit_large(device: torch.device, tiny: bool) -> Iterator[Result]:
    """ViT-L/16 at 256 images, blocks compiled, as CUDA graphs."""
    names = ("mae", "loss_memory", "hpm_alpha_0.5", "bf16_teacher_and_residual")
    yield from races(device, tiny, "vit_large", [Plan(256, names)])


def compilation(device: torch.device, tiny: bool) -> Iterator[Result]:
    """Whole passes compiled, beside blocks and eager, in one race: what the minutes buy. Last, for it takes them."""
    found: Result = {"races": [], "failed": []}
    contestants = {
        "eager": Contestant(),
        "blocks": Contestant(compile="blocks"),
        "blocks, autotuned": Contestant(compile="blocks", mode="max-autotune-no-cudagraphs"),
        "passes": Contestant(compile=True),
    }
    plan = [["eager", "blocks"], ["blocks", "passes"], ["blocks", "blocks, autotuned"]]
    for names in plan[:1] if tiny else plan:
        torch._dynamo.reset()
        chosen = {name: contestants[name] for name in names}
        run = Race(chosen, "toy" if tiny else "vit_base", device=device, batch_size=4 if tiny else 256)
        found["races"].append({})
        for rows in run.run(2 if tiny else 5):
            found["races"][-1] = {"rows": rows, "failed_contestants": run.failed}
            yield found
        found["failed"] += [f"{name}: {reason}" for name, reason in run.failed.items()]
    yield found
