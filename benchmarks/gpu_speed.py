"""The sections of `benchmarks/gpu.py` that time the machine itself, attention, and the parts of a step."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from contestants import Contestant, build_step, random_batch
from machine import describe_machine, seconds_of, synchronize
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from curriculum import Noise
from hpm.models.low_precision import LowPrecisionCopy
from hpm.runtime.cuda_graphs import record

Result = dict[str, Any]

NEEDED_BY_COMMANDS = ("gin", "typeguard", "typer", "rich", "mlflow", "optuna", "sqlalchemy", "timm", "torchvision")
# Tokens, width of a head, heads: the encoder on a quarter of the patches, the decoders, the teacher's encoder, ViT-H.
ATTENTION_SHAPES = ((50, 64, 12), (197, 32, 16), (197, 64, 12), (257, 80, 16))
BACKENDS = ("default", "CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION")


def machine(device: torch.device, tiny: bool) -> Iterator[Result]:
    """Versions, what is missing, clocks, and two ceilings: a matrix product, and a copy counted as read and written."""
    import hpm.training.loop
    import hpm.training.trainer  # noqa: F401  these must import without gin and what only commands and studies need

    found = describe_machine(str(device))
    found["missing"] = [name for name in NEEDED_BY_COMMANDS if importlib.util.find_spec(name) is None]
    if device.type == "cuda":
        found["cudnn"] = torch.backends.cudnn.version()
        asked = "driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
        query = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False)
        found["smi"] = dict(zip(asked.split(","), answer.stdout.strip().split(", "), strict=False))
    size = 256 if tiny else 8192
    torch.set_float32_matmul_precision("high")
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("tf32", torch.float32)):
        if device.type == "cuda" or name == "tf32":
            found[f"matmul_{name}_tflops"] = _product_tflops(size, dtype, device)
    source = torch.empty(2 ** (20 if tiny else 31), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy_tbps"] = 2 * source.numel() / seconds_of(lambda: target.copy_(source), str(device)) / 1e12
    yield found


def _product_tflops(size: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b, str(device)) / 1e12


def attention(device: torch.device, tiny: bool) -> Iterator[Result]:
    """Each attention kernel against float64, forward and backward, at the lengths that masking gives; and its time.

    On CUDA they are replayed as graphs: launched by the host, the shortest would show how long a launch takes.
    """
    found: Result = {"rows": {}, "failed": []}
    for tokens, width, heads in ATTENTION_SHAPES:
        qkv = torch.randn(2 if tiny else 256, tokens, 3, heads, width, device=device, dtype=torch.bfloat16)
        exact = _attend_both_ways(qkv[:2].double())
        for name in BACKENDS[:1] if tiny else BACKENDS:
            row = f"{tokens} x {width} {name}"
            try:
                with nullcontext() if name == "default" else sdpa_kernel(getattr(SDPBackend, name)):
                    found["rows"][row] = measured = _attention_row(qkv, exact, device, repeats=1 if tiny else 30)
                if not max(measured["errors"]) < 0.02:
                    found["failed"].append(f"{row}: {max(measured['errors']):.2g} off")
            except RuntimeError as error:
                found["rows"][row] = str(error).splitlines()[0][:100]
            yield found


def _attend(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _attend_both_ways(qkv: Tensor) -> list[Tensor]:
    """The output, and the gradient of its sum."""
    qkv = qkv.detach().requires_grad_()
    out = _attend(qkv)
    out.backward(torch.ones_like(out))
    assert qkv.grad is not None
    return [out.detach(), qkv.grad]


def _attention_row(qkv: Tensor, exact: list[Tensor], device: torch.device, *, repeats: int) -> dict[str, Any]:
    pairs = zip(_attend_both_ways(qkv), exact, strict=True)
    errors = [((mine[:2].double() - theirs).norm() / theirs.norm()).item() for mine, theirs in pairs]
    with torch.no_grad():
        alone = seconds_of(_recorded(lambda: _attend(qkv), device), str(device), repeats=repeats)
    both = seconds_of(_recorded(lambda: _attend_both_ways(qkv), device), str(device), repeats=repeats)
    return {"errors": errors, "forward_ms": 1e3 * alone, "both_ms": 1e3 * both}


def _recorded(action: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The action as a CUDA graph; itself where there is none."""
    if device.type != "cuda":
        return action
    graph, _ = record(action)
    return graph.replay


def parts(device: torch.device, tiny: bool) -> Iterator[Result]:
    """What the parts of a step of HPM at alpha 0.5 take, launched by the host and on the device alone; its kernels."""
    size = 4 if tiny else 256
    step = build_step(Contestant(compile="blocks"), "toy" if tiny else "vit_base", device=device, batch_size=size)
    method, batch = step.method, random_batch(step)
    noise = Noise.for_batch(seed=0, step=0, batch_size=size, device=device)
    step([batch], step=0, progress=0.5, lr=1e-4, decay=0.99)

    def backward() -> None:
        method.losses(batch, 0.5, noise).total.backward()
        step.optimizer.zero_grad(set_to_none=True)

    scores_NL = method.teacher.predicted_loss(batch.images)
    draw = {"alpha": 0.5, "num_masked": 3 * scores_NL.shape[1] // 4, "grid": method.student.grid, "noise": noise}
    actions = {
        "teacher's scores": lambda: method.teacher.predicted_loss(batch.images),
        "drawing masks": lambda: method.curriculum.sampler(scores_NL, **draw),  # type: ignore[arg-type]
        "losses, with scores and masks": lambda: method.losses(batch, 0.5, noise),
        "losses and backward": backward,
        "moving average": lambda: method.teacher.update(method.student, 0.99),
        "whole step": lambda: step([batch], step=1, progress=0.5, lr=1e-4, decay=0.99),
    }
    found: Result = {"ms": {}}
    for name, action in actions.items():
        found["ms"][name] = 1e3 * seconds_of(action, str(device), repeats=2 if tiny else 5)
    method.losses(batch, 0.5, noise).total.backward()
    gradients = [p.grad for p in method.student.parameters()]

    def update() -> None:
        for parameter, gradient in zip(method.student.parameters(), gradients, strict=True):
            parameter.grad = gradient
        step._update(torch.zeros(3, device=device), 1e-4)

    actions["norm, AdamW"] = update
    found["ms"]["norm, AdamW"] = 1e3 * seconds_of(update, str(device), repeats=2 if tiny else 5)
    yield found
    # After the timings, for a profiler that has run may slow them.
    kernels = {name: _kernels(action, device) for name, action in actions.items()}
    found["device_ms"] = {name: sum(row["ms"] for row in rows) for name, rows in kernels.items()}
    found["kinds_ms"] = _by_kind(kernels["whole step"])
    found["kernels"] = kernels["whole step"][:40]
    yield found


def _kernels(action: Any, device: torch.device) -> list[dict[str, Any]]:
    """Every kernel of an action: milliseconds, number of calls and name, longest first."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.type == "cuda"
    kinds = [ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with profile(activities=kinds) as watched:
        for _ in range(2):
            action()
        synchronize(str(device))
    attribute = "self_device_time_total" if cuda else "self_cpu_time_total"
    rows = [
        {"ms": getattr(event, attribute) / 2e3, "calls": event.count / 2, "name": event.key[:160]}
        for event in watched.key_averages()
    ]
    return sorted(rows, key=lambda row: -float(row["ms"]))


_KINDS = {
    "attention": ("flash", "fmha", "sdpa", "cudnn_generated", "attention"),
    "matrix products": ("gemm", "nvjet", "xmma", "cutlass", "wgrad", "dgrad", "matmul", "addmm", "aten::mm"),
    "copies and fills": ("memcpy", "memset"),
}


def _by_kind(kernels: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds by kind of kernel; what none of the names fits is bound by memory."""
    sums = dict.fromkeys((*_KINDS, "others, bound by memory"), 0.0)
    for row in kernels:
        name = row["name"].lower()
        kind = next((kind for kind, words in _KINDS.items() if any(word in name for word in words)), None)
        sums[kind or "others, bound by memory"] += row["ms"]
    return sums


def teacher(device: torch.device, tiny: bool) -> Iterator[Result]:
    """The teacher's pass alone in each precision: its time, and how well it orders patches as float32 does."""
    size = 4 if tiny else 256
    step = build_step(Contestant(compile="blocks"), "toy" if tiny else "vit_base", device=device, batch_size=size)
    batch = random_batch(step)
    for number in range(4):  # an initialization orders little
        step([batch], step=number, progress=0.5, lr=1e-3, decay=0.5)
    model, images = step.method.teacher.model, batch.images
    with torch.no_grad():
        exact_NL = torch.cat([model.predict_loss(rows) for rows in images.split(32)])
    found: Result = {"rows": {}, "failed": []}
    for name in ("autocast", "bf16"):
        low = name == "bf16"
        try:
            scoring = LowPrecisionCopy(model).follow(1) if low else model
            for block in scoring.blocks():
                block.compile(dynamic=False)

            def score(scoring: Any = scoring, low: bool = low) -> Tensor:
                with torch.no_grad(), nullcontext() if low else torch.autocast(device.type, dtype=torch.bfloat16):
                    return scoring.predict_loss(images.bfloat16() if low else images).float()

            scores_NL = score()
            ms = 1e3 * seconds_of(score, str(device), repeats=3 if tiny else 10)
            found["rows"][name] = {"ms": ms, **_agreement(scores_NL, exact_NL)}
        except Exception as error:
            found["rows"][name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            found["failed"].append(f"{name}: {found['rows'][name]}")
        yield found


def _agreement(scores_NL: Tensor, exact_NL: Tensor) -> dict[str, float]:
    """Mean Spearman correlation over images, and the share of the hardest three eighths that both name."""

    def ranks(x: Tensor) -> Tensor:
        return x.argsort(1).argsort(1).double()

    a = ranks(scores_NL)
    b = ranks(exact_NL)
    count = scores_NL.shape[1]
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    spearman = ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean().item()
    hard = 3 * count // 8
    chosen = [
        torch.zeros_like(x, dtype=torch.bool).scatter_(1, x.topk(hard, 1).indices, True) for x in (scores_NL, exact_NL)
    ]
    return {"spearman": spearman, "hardest_in_common": ((chosen[0] & chosen[1]).sum() / (hard * len(scores_NL))).item()}
