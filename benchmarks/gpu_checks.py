"""The sections of `benchmarks/gpu.py` that check: what a GPU must compute, and must not do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from contestants import Contestant, build_step, random_batch
from machine import synchronize

import curriculum
from curriculum import Batch, Noise
from hpm.runs.checkpoint import load_newest
from hpm.runs.checkpoint_writer import CheckpointWriter
from hpm.runtime.distributed import DistributedContext
from hpm.training import state
from hpm.training.step import TrainingStep

Result = dict[str, Any]

# Samplers whose masks are made of integers, and must be the CPU's to the bit; in others a rounding may move a patch.
EXACT = (
    *("Random", "HardestFirst", "Pool", "Bonus", "Hint", "Cells", "Stratified", "Blockwise", "MultiBlock"),
    "Complementary",
    "InverseBlock",
)
ROUNDED = ("Weighted", "FilteredNoise")
DIFFICULTIES = (
    *("PredictedLoss", "TrueLoss", "LossSpread", "Attention", "FeatureNorm", "Disagreement"),
    *("MainCluster", "EdgeDensity", "PixelVariance", "PixelEntropy", "ADIOS", "CLMAE"),
)


def parity(device: torch.device, tiny: bool) -> Iterator[Result]:
    """What the CPU computes: masks to the bit, losses and gradients to rounding."""
    found: Result = {"masks": {}, "gradients": {}, "failed": []}
    scores_NL = torch.rand(8, 196, generator=torch.Generator().manual_seed(0))
    for name in (*EXACT, *ROUNDED):
        masks = []
        for where in (torch.device("cpu"), device):
            noise = Noise.for_batch(seed=1, step=2, batch_size=8, device=where)
            sampler = getattr(curriculum, name)()
            mask = sampler(scores_NL.to(where), alpha=0.5, num_masked=147, grid=(14, 14), noise=noise)
            masks.append(mask.to_bool().cpu())
        same = (masks[0] == masks[1]).float().mean().item()
        found["masks"][name] = same
        if same < (1.0 if name in EXACT else 0.98):
            found["failed"].append(f"masks of {name}: {same:.4f} alike")
    yield found
    exact_loss, exact = _gradient(torch.device("cpu"), "fp32", tiny)
    limits = {"fp32": 1e-4, "tf32": 5e-3, "bf16": 5e-2}
    for precision, limit in limits.items():
        if device.type == "cpu" and precision == "tf32":
            continue
        loss, gradient = _gradient(device, precision, tiny)
        error = ((gradient - exact).norm() / exact.norm()).item()
        found["gradients"][precision] = {"loss": abs(loss - exact_loss) / exact_loss, "gradient": error}
        if not error < limit:
            found["failed"].append(f"gradient in {precision}: {error:.2g} off")
        yield found


def _gradient(device: torch.device, precision: str, tiny: bool) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a first step; at alpha 0, where no rounding moves a mask."""
    contestant = Contestant(alpha=0.0, precision=precision)
    step = build_step(contestant, "toy" if tiny else "vit_tiny", device=device, batch_size=8)
    batch = random_batch(step, 5)
    noise = Noise.for_batch(seed=0, step=0, batch_size=8, device=device)
    total = step.method.losses(batch, 0.0, noise).total
    total.backward()
    gradients = [p.grad for p in step.method.student.parameters() if p.grad is not None]
    return total.item(), torch.cat([gradient.flatten().cpu().double() for gradient in gradients])


def no_sync(device: torch.device, tiny: bool) -> Iterator[Result]:
    """No step of any curriculum waits for the device: CUDA itself says so."""
    cases: dict[str, tuple[Contestant, dict[str, Any]]] = {
        name: (Contestant(), {"difficulty": getattr(curriculum, name)()}) for name in DIFFICULTIES
    }
    cases |= {
        name: (Contestant(), {"sampler": getattr(curriculum, name)()})
        for name in (*EXACT, *ROUNDED)
        if name not in ("Random", "HardestFirst", "Complementary")
    }
    cases["Complementary"] = (Contestant(masks=2), {"sampler": curriculum.Complementary(masks=2)})
    cached = curriculum.Cached(estimator=curriculum.PredictedLoss(), every=2, period="step")
    cases["Cached"] = (Contestant(), {"difficulty": cached})
    tree = {"difficulty": curriculum.Hierarchy(), "sampler": curriculum.Quotas(parts=8)}
    cases["Hierarchy"] = (Contestant(), tree)
    cases["bf16 teacher and residual"] = (Contestant(teacher="bf16", residual="bf16"), {})
    if device.type == "cuda":
        cases["fp16"] = (Contestant(precision="fp16"), {})
        cases["CUDA graphs"] = (Contestant(graphs=True), {})
        cases["CUDA graphs in fp16"] = (Contestant(graphs=True, precision="fp16"), {})
    found: Result = {"cases": 0, "failed": []}
    for name, (contestant, parts) in cases.items():
        try:
            step = build_step(contestant, "toy" if tiny else "vit_tiny", device=device, batch_size=16, **parts)
            batch = random_batch(step)  # before, since copying it to the device waits
            _steps(step, range(2), batch)
            synchronize(str(device))
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            _steps(step, range(2, 5), batch)
        except Exception as error:
            found["failed"].append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        found["cases"] += 1
        yield found


def _steps(step: TrainingStep, numbers: range, batch: Batch | None = None) -> None:
    """Steps on one batch, or each on its own."""
    for number in numbers:
        images = random_batch(step, number) if batch is None else batch
        step([images], step=number, progress=0.5, lr=1e-4, decay=0.99)


def fp16(device: torch.device, tiny: bool) -> Iterator[Result]:
    """An overflow skips the step, halves the scale, is counted, and leaves weights and moments as they were."""
    if device.type == "cpu":
        yield {"skipped": "fp16 is for GPUs"}
        return
    step = build_step(Contestant(precision="fp16"), "toy" if tiny else "vit_tiny", device=device, batch_size=16)
    assert step.scaler is not None
    number = 0
    while step.tally.sums[4] < 2:  # the first steps find the scale
        _steps(step, range(number, number + 1))
        number += 1
    before = [tensor.clone() for tensor in state.tensors_of(step).values() if tensor is not step.tally.sums]
    scale, skipped = step.scaler.get_scale(), step.tally.sums[5].item()
    hook = step.method.student.mask_token.register_hook(lambda gradient: gradient * float("inf"))
    step([random_batch(step, 50)], step=number, progress=0.5, lr=1e-4, decay=None)
    hook.remove()
    after = [tensor for tensor in state.tensors_of(step).values() if tensor is not step.tally.sums]
    failed = []
    if not all(torch.equal(a, b) for a, b in zip(before, after, strict=True)):
        failed.append("a skipped step changed weights or moments")
    if step.scaler.get_scale() != scale / 2:
        failed.append("the scale was not halved")
    if step.tally.sums[5].item() != skipped + 1:
        failed.append("the skipped step was not counted")
    yield {"first_scale": scale, "failed": failed}


def resume(device: torch.device, tiny: bool) -> Iterator[Result]:
    """`deterministic`: six steps equal three, a checkpoint and three more, to the bit; and so do two runs."""
    cases = {"bf16 teacher and residual": Contestant(teacher="bf16", residual="bf16")}
    if device.type == "cuda":
        cases["CUDA graphs"] = Contestant(graphs=True)
        cases["fp16"] = Contestant(precision="fp16")
    cases |= {"bf16": Contestant(), "blocks compiled": Contestant(compile="blocks")}
    if device.type == "cuda":
        cases["blocks compiled, CUDA graphs"] = Contestant(compile="blocks", graphs=True)
        cases["passes compiled"] = Contestant(compile=True)
    samplers = {"Blockwise": curriculum.Blockwise(), "MultiBlock": curriculum.MultiBlock()}
    found: Result = {"cases": 0, "failed": []}
    for name, contestant, parts in [
        *((name, Contestant(), {"sampler": sampler}) for name, sampler in samplers.items()),
        *((name, contestant, {}) for name, contestant in cases.items()),
    ]:
        try:
            odd = _differences(contestant, device, tiny, parts)
        except Exception as error:
            odd = [f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"]
        if odd:
            found["failed"].append(f"{name}: {len(odd)} differ, {odd[0]}")
        found["cases"] += 1
        yield found
    torch.use_deterministic_algorithms(False)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one type hold the same bytes; what is not known, NaN, equals itself then."""
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))


def _differences(contestant: Contestant, device: torch.device, tiny: bool, parts: dict[str, Any]) -> list[str]:
    """The tensors in which a resumed run and an uninterrupted one differ."""

    def start() -> TrainingStep:
        torch._dynamo.reset()
        model = "toy" if tiny else "vit_tiny"
        return build_step(contestant, model, device=device, batch_size=16, deterministic=True, **parts)

    with tempfile.TemporaryDirectory() as folder:
        once = start()
        _steps(once, range(3))
        writer = CheckpointWriter(Path(folder), DistributedContext(), keep=2, keep_every=0, sharded=False)
        writer.save(3, state.tensors_of(once), {"step": 3, **state.values_of(once)})
        writer.wait()
        _steps(once, range(3, 6))
        again = start()
        checkpoint, _ = load_newest(Path(folder))
        assert checkpoint is not None
        state.restore(again, checkpoint)
        _steps(again, range(3, 6))
    theirs = state.tensors_of(again)
    return [name for name, tensor in state.tensors_of(once).items() if not same_bits(tensor, theirs[name])]


def recompiles(device: torch.device, tiny: bool) -> Iterator[Result]:
    """Alpha over its whole range compiles nothing after the first two steps; and compiled is eager, to rounding."""
    from torch._dynamo.utils import counters

    found: Result = {"graphs": {}, "failed": []}
    model, sums = "toy" if tiny else "vit_tiny", {}
    contestants = {"eager": Contestant(), "blocks": Contestant(compile="blocks")}
    if device.type == "cuda":
        contestants["CUDA graphs"] = Contestant(graphs=True)
    contestants["passes"] = Contestant(compile=True)
    for name, contestant in contestants.items():
        torch._dynamo.reset()
        counters.clear()
        step = build_step(
            contestant, model, device=device, batch_size=16, scheduler=curriculum.Ramp(start=0.0, end=1.0)
        )
        batch = random_batch(step)

        def take(number: int, progress: float, step: TrainingStep = step, batch: Batch = batch) -> None:
            step([batch], step=number, progress=progress, lr=1e-4, decay=0.99)

        take(0, 0.0)
        take(1, 0.5)
        found["graphs"][name] = counters["stats"]["unique_graphs"]
        breaks = [reason.splitlines()[0] for reason in counters["graph_break"]]
        found["failed"] += [f"{name}: graph break, {reason}" for reason in breaks]
        try:
            with torch.compiler.set_stance("fail_on_recompile" if contestant.compile else "default"):
                for number in range(2, 30):
                    take(number, (number + 1) / 30)
        except RuntimeError as error:
            found["failed"].append(f"{name}: {str(error).splitlines()[0][:120]}")
        sums[name] = step.tally.sums[:3]
        if not torch.allclose(sums[name], sums["eager"], rtol=2e-2):
            found["failed"].append(f"{name} differs from eager: {sums[name].tolist()} {sums['eager'].tolist()}")
        yield found
