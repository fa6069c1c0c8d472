"""The section of `benchmarks/gpu.py` that times the published step of HPM beside ours, in turns.

The published code comes from a checkout of its repository (`--published FOLDER`), under a license of its own: nothing
of it is here. It needs three things that newer libraries no longer have: a timm `Block` that takes `qk_scale`,
`numpy.float`, and, for one import that the step does not use, `einops`.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import Contestant, build_step, stepper
from gpu_speed import Result
from machine import synchronize

SIZES = (32, 256, 64)


def published(device: torch.device, tiny: bool, checkout: Path | None) -> Iterator[Result]:
    """Published HPM, fp16 with its scaler and unfused attention as it was run, against ours with blocks compiled."""
    if checkout is None:
        yield {"skipped": "no checkout of the published code was given; see --published"}
        return
    theirs = Published(_load(checkout), device, tiny)
    graphs = device.type == "cuda"
    found: Result = {"rows": {}, "failed": []}
    for size in (4,) if tiny else SIZES:
        torch._dynamo.reset()
        takes: dict[str, Callable[[int], None]] = {}
        for name in ("published", "ours"):
            try:
                contestant = Contestant(compile="blocks", graphs=graphs)
                model = "toy" if tiny else "vit_base"
                takes[name] = (
                    theirs.stepper(size)
                    if name == "published"
                    else stepper(build_step(contestant, model, device=device, batch_size=size))
                )
                for number in range(3):
                    takes[name](number)
            except Exception as error:
                takes.pop(name, None)
                found["failed"].append(f"{name} at {size}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
        found["rows"][str(size)] = _in_turns(takes, device, rounds=2 if tiny else 5)
        takes.clear()
        gc.collect()
        if graphs:
            torch.cuda.empty_cache()
        yield found


def _in_turns(takes: dict[str, Callable[[int], None]], device: torch.device, *, rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    for turn in range(rounds):
        for name, take in takes.items():
            synchronize(str(device))
            started = time.perf_counter()
            for number in range(3):
                take(3 + 3 * turn + number)
            synchronize(str(device))
            seconds[name].append((time.perf_counter() - started) / 3)
    rows: dict[str, Any] = {}
    for name, times in seconds.items():
        rows[name] = {"ms": 1e3 * float(np.median(times))}
        if "published" in seconds and name != "published":
            ratios = [theirs / mine for mine, theirs in zip(times, seconds["published"], strict=True)]
            rows[name]["times_faster"] = float(np.median(ratios))
    return rows


def _load(checkout: Path) -> Any:
    """The published models, with what newer libraries dropped put back for them."""
    import timm.models.vision_transformer as vision_transformer

    block = vision_transformer.Block

    def old_block(*arguments: Any, qk_scale: None = None, **named: Any) -> Any:
        made = block(*arguments, **named)
        made.attn.fused_attn = False  # timm had no fused attention then
        return made

    vision_transformer.Block = old_block
    if not hasattr(np, "float"):
        setattr(np, "float", float)  # noqa: B010, NumPy's stubs know that it is gone
    if importlib.util.find_spec("einops") is None:
        sys.modules["einops"] = types.ModuleType("einops")
        setattr(sys.modules["einops"], "rearrange", None)  # noqa: B010
    sys.path.insert(0, str(checkout))
    models = importlib.import_module("models_mae_learn_loss")
    vision_transformer.Block = block
    return models


class Published:
    """The published models, and what their loop does for a batch in its last epoch, where half of the mask is hard.

    Args:
        models: the published module.
        device: where.
        tiny: as small as it can be, rather than a ViT-B/16.
    """

    def __init__(self, models: Any, device: torch.device, tiny: bool) -> None:
        small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        small |= {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 2}
        torch.manual_seed(0)
        with device:
            make = (lambda: models.MaskedAutoencoderViT(**small)) if tiny else models.mae_vit_base_patch16_dec512d8b
            self.model = make()
            self.average = make().eval().requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        decayed = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")
        self.device = device
        self.side = 32 if tiny else 224

    def stepper(self, size: int) -> Callable[[int], None]:
        """A function that takes the step of a number, always on the same images."""
        images = torch.randn(size, 3, self.side, self.side, device=self.device)
        return lambda number: self._step(images)

    def _step(self, images: torch.Tensor) -> None:
        cuda = self.device.type == "cuda"
        with torch.autocast("cuda", dtype=torch.float16) if cuda else nullcontext():
            mean, learned = self._losses(images)
        mean.item()
        self.scaler.scale(mean + learned).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for mine, theirs in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                mine.copy_(0.9999 * mine + (1 - 0.9999) * theirs)
        synchronize(str(self.device))  # as its loop does after every step

    def _losses(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patches = self.average.patch_embed.num_patches
        with torch.no_grad():
            nothing = torch.zeros(len(images), patches, dtype=torch.bool, device=self.device)
            scored = self.average(images, mask=nothing)
        mask = self.average.generate_mask(scored["loss_pred"], mask_ratio=0.75, guide=True, epoch=199, total_epoch=200)
        mask = mask.flatten(1).to(torch.bool)
        outputs = self.model(images, mask=mask)
        masked = outputs["mask_num"]
        losses = self.model.forward_loss(images, outputs["pix_pred"][:, -masked:], outputs["mask"])
        learned = self.model.forward_learning_loss(
            outputs["loss_pred"][:, -masked:], mask, losses["matrix"].detach(), relative=True
        )
        learned.item()
        return losses["mean"], learned
