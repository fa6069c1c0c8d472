"""Models and curricula whose share of attainable hardness is known, or read patch by patch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from curriculum import (
    Batch,
    Constant,
    Curriculum,
    DifficultyEstimator,
    HardestFirst,
    Mask,
    Noise,
    Sampler,
    Stream,
)
from curriculum.noise import hash_words
from curriculum.teacher import Teacher
from hpm.evaluation import EvaluationContext
from hpm.methods.teacher import EMATeacher
from hpm.targets import Pixels

SHARE = "curriculum/hardness_share"
MASK = f"{SHARE}_mask"
OBJECT_MASKED = "curriculum/object_masked"


def under(
    context: EvaluationContext, difficulty: DifficultyEstimator, sampler: Sampler | None = None, **settings: Any
) -> EvaluationContext:
    """The same model under another curriculum, reconstructing raw pixels, whose losses differ from patch to patch."""
    settings = {"scheduler": Constant(value=0.0), "sampler": sampler or HardestFirst()} | settings
    curriculum = Curriculum(difficulty=difficulty, **settings)
    return replace(context, curriculum=curriculum, target=Pixels(), teacher=EMATeacher(context.model, Pixels()))


class Inner(DifficultyEstimator):
    """Calls the four patches in the middle of 4 x 4 hard."""

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        scores_NL = torch.zeros(len(batch), batch.num_patches)
        scores_NL[:, [5, 6, 9, 10]] = 1.0
        return scores_NL


class Left(DifficultyEstimator):
    """Calls the left half of 4 x 4 patches hard."""

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        return (torch.arange(batch.num_patches) % 4 < 2).float().expand(len(batch), -1)


def in_run(
    context: EvaluationContext, box: tuple[float, ...] = (0.0, 0.0, 16.0, 16.0), *, flip: bool = False
) -> EvaluationContext:
    """The same, with the first training images as those that a run trains on, said to be these crops of them."""

    def batches(count: int) -> list[Batch]:
        indices = torch.arange(count)
        images = context.source.load(context.source.train(), indices)
        boxes = torch.tensor(box).expand(count, -1)
        whole = Batch(images, 4, indices, boxes, torch.full((count,), flip))
        parts = [slice(0, count // 3), slice(count // 3, count)][not count // 3 :]  # none of no image
        return [
            Batch(**{name: x[part] if isinstance(x, Tensor) else x for name, x in vars(whole).items()})
            for part in parts
        ]

    return replace(context, training_batches=batches)


@torch.no_grad()
def read_losses(context: EvaluationContext, batch: Batch, half: int, masks: int, visible: int = 4) -> Tensor:
    """Mean losses [N, L], each patch's squared errors from passes of single images under the masks one by one."""
    noise = Noise(hash_words(context.seed, Stream.HARDNESS_TRUTH, half), 3, torch.arange(len(batch)))
    order = noise.fold(Stream.DISJOINT_PROBES).bits(16).argsort(dim=1)
    losses = torch.zeros(len(batch), 16)
    for image in range(len(batch)):
        hidden: list[list[float]] = [[] for _ in range(16)]
        for probe in range(masks):
            first = probe * 16 // masks
            seen = sorted(int(order[image, (first + place) % 16]) for place in range(visible))
            masked = sorted(set(range(16)) - set(seen))
            pixels = batch.images[image : image + 1]
            found = context.model(pixels, Mask(torch.tensor([seen]), torch.tensor([masked]))).reconstruction_NMP[0]
            for patch, values in zip(masked, found, strict=True):
                top, left = 4 * (patch // 4), 4 * (patch % 4)
                target = pixels[0, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
                hidden[patch].append(float((values - target).square().mean()))
        losses[image] = torch.tensor([sum(values) / len(values) for values in hidden])
    return losses
