"""What the benchmarks of training steps compare: models, methods and settings, built the same way for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from curriculum import (
    Batch,
    Constant,
    Curriculum,
    DifficultyEstimator,
    HardestFirst,
    LossMemory,
    PartialReconstruction,
    PredictedLoss,
    Random,
    TrainingContext,
    TrueLoss,
    Uniform,
)
from curriculum.sizes import pair
from hpm.methods import operations, run_work
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.cross_mae import CrossMAE
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.vit import ViT
from hpm.optim.optimization import Optimization
from hpm.optim.schedule import Schedule
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.settings import Runtime
from hpm.targets import NormalizedPixels
from hpm.training.setup import build_training_step
from hpm.training.step import TrainingStep

_SMALL_DECODER: dict[str, Any] = {"decoder_embed_dim": 128, "decoder_depth": 2, "decoder_num_heads": 4}
SIZES: dict[str, dict[str, Any]] = {
    "toy": {
        **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
        **{"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 2},
    },
    "vit_tiny": {"embed_dim": 192, "depth": 4, "num_heads": 3, **_SMALL_DECODER},
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vit_huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}


@dataclass(frozen=True)
class Contestant:
    """A way to train.

    Args:
        alpha: None for MAE, which has neither loss predictor nor teacher; else the share of the mask that is hard.
        predictor: blocks of the loss predictor; None for as many as the reconstructor has.
        difficulty: makes the difficulty. A loss predictor and a moving average are there where it asks for them.
        dense: see `Method.dense_prediction_every`.
        cross: of an alpha of None: CrossMAE in the place of MAE.
        partly: of an alpha of None: a third of the masked patches is reconstructed.
        every: see `Curriculum.score_every`.
        compile: False, True or "blocks"; see `Runtime.compile`.
        mode: see `Runtime.compile_mode`.
        graphs: see `Runtime.cuda_graphs`.
        residual: see `Runtime.residual_precision`.
        teacher: see `Runtime.teacher_precision`.
        precision: see `Runtime.precision`.
        masks: see `Schedule.masks_per_image`.
    """

    alpha: float | None = 0.5
    cross: bool = False
    partly: bool = False
    predictor: int | None = None
    difficulty: Callable[[], DifficultyEstimator] = PredictedLoss
    dense: int = 0
    every: int = 1
    compile: bool | str = False
    mode: str = "default"
    graphs: bool = False
    residual: str = "fp32"
    teacher: str = "same"
    precision: str = "bf16"
    masks: int = 1


CONTESTANTS = {
    "mae": Contestant(alpha=None),
    "mae_partly": Contestant(alpha=None, partly=True),
    "cross_mae_all": Contestant(alpha=None, cross=True),
    "cross_mae": Contestant(alpha=None, cross=True, partly=True),
    "hpm_alpha_0": Contestant(alpha=0.0),
    "hpm_alpha_0.25": Contestant(alpha=0.25),
    "hpm_alpha_0.5": Contestant(),
    "predictor_depth_1": Contestant(predictor=1),
    "score_every_4": Contestant(every=4),
    "both": Contestant(predictor=1, every=4),
    "loss_memory": Contestant(difficulty=LossMemory),
    "probes_2": Contestant(difficulty=lambda: PredictedLoss(probes=2)),
    "probes_2_predictor_1": Contestant(difficulty=lambda: PredictedLoss(probes=2), predictor=1),
    "dense_4": Contestant(dense=4),
    "true_loss_2": Contestant(difficulty=lambda: TrueLoss(probes=2)),
    "mae_bf16_residual": Contestant(alpha=None, residual="bf16"),
    "bf16_residual": Contestant(residual="bf16"),
    "bf16_teacher": Contestant(teacher="bf16"),
    "bf16_teacher_and_residual": Contestant(residual="bf16", teacher="bf16"),
}


def build_method(contestant: Contestant, model: str, **curriculum: Any) -> Method:
    """The method of a contestant, on whatever device is the default; `curriculum` replaces parts of its curriculum."""
    size = SIZES[model]
    if contestant.alpha is None:
        parts: dict[str, Any] = {"scheduler": Constant(), "difficulty": Uniform(), "sampler": Random()}
        parts |= {"reconstruction": PartialReconstruction() if contestant.partly else None}
        student = _cross_mae(size) if contestant.cross else MaskedAutoencoder(**size, loss_predictor_depth=None)
        return Method(model=student, curriculum=Curriculum(**(parts | curriculum)), target=NormalizedPixels())
    difficulty = contestant.difficulty()
    depth = (contestant.predictor or size.get("decoder_depth", 8)) if "predicted_loss" in difficulty.needs else None
    parts = {"scheduler": Constant(value=contestant.alpha), "difficulty": difficulty, "sampler": HardestFirst()}
    return Method(
        model=MaskedAutoencoder(**size, loss_predictor_depth=depth),
        curriculum=Curriculum(**(parts | curriculum), score_every=contestant.every),
        target=NormalizedPixels(),
        dense_prediction_every=contestant.dense,
        ema_decay=HorizonDecay() if difficulty.needs else None,
    )


def _cross_mae(size: dict[str, Any]) -> CrossMAE:
    """CrossMAE of the encoder; its decoder has its own published depth of 12 where the size says nothing."""
    decoder = {name: value for name, value in size.items() if name.startswith("decoder_")}
    return CrossMAE(encoder=ViT(**{name: value for name, value in size.items() if name not in decoder}), **decoder)


def build_step(
    contestant: Contestant,
    model: str,
    *,
    device: torch.device,
    batch_size: int,
    deterministic: bool = False,
    processes: DistributedContext | None = None,
    grad_checkpointing: bool = False,
    **curriculum: Any,
) -> TrainingStep:
    """A contestant's optimizer step, put together as the trainer does it, from the weights of seed 0."""
    processes = processes or DistributedContext()
    runtime = Runtime(
        precision=contestant.precision,
        compile=contestant.compile,
        compile_mode=contestant.mode,
        cuda_graphs=contestant.graphs,
        residual_precision=contestant.residual,
        teacher_precision=contestant.teacher,
        grad_checkpointing=grad_checkpointing,
        deterministic=deterministic,
    )
    runtime.check(
        device_type=device.type, precision=contestant.precision, world_size=processes.world_size, accumulate=1
    )
    method = build_method(contestant, model, **curriculum)
    student = method.student
    return build_training_step(
        method,
        schedule=Schedule(batch_size=batch_size, masks_per_image=contestant.masks),
        optimization=Optimization(),
        runtime=runtime,
        context=TrainingContext(
            num_images=64 * batch_size,
            steps_per_epoch=64,
            in_chans=3,
            patch_size=student.patch_size,
            grid=student.grid,
            device=device,
            seed=0,
        ),
        precision=contestant.precision,
        processes=processes,
    )


def random_batch(step: TrainingStep, number: int = 0) -> Batch:
    """This process's images of the step of a number, normal random ones, on the step's device."""
    student, rows = step.method.student, step.batch_size // step.processes.world_size
    device = student.mask_token.device
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(rows, student.in_chans, *pair(student.img_size), generator=generator)
    return Batch(
        images.to(device),
        student.patch_size,
        torch.arange(rows, device=device),
        torch.ones(rows, 4, device=device),
        torch.zeros(rows, dtype=torch.bool, device=device),
    )


def stepper(step: TrainingStep) -> Callable[[int], None]:
    """A function that takes the step of a number, always on the same images."""
    batch, decay = random_batch(step), None if step.method.ema_decay is None else 0.99

    def take(number: int) -> None:
        step([batch], step=number, progress=0.5, lr=1e-4, decay=decay)

    return take


def flops_an_image(contestant: Contestant, model: str) -> dict[str, float]:
    """FLOPs of a step for one image: the student's, and all with the teacher's, two for each multiply-add."""
    with torch.device("meta"):
        parts = operations.multiply_adds(build_method(contestant, model))
    asked = 1 / contestant.every if contestant.alpha else 0
    densely = 1 / contestant.dense if contestant.dense else 0
    return {
        "student": 2 * run_work.average_step(parts, 0, 0),
        "all": 2 * run_work.average_step(parts, asked, densely),
    }
