"""MAE's linear protocol: a linear classifier trained on a frozen encoder's features of augmented images.

Shape suffixes: N images of a micro-batch, C channels, S side, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.optim import Lars
from torch import Tensor, nn

from curriculum.noise import hash_words
from curriculum.streams import Stream
from hpm.data import ImageSource
from hpm.errors import UserError
from hpm.evaluation.augmentation import AugmentingLoader
from hpm.evaluation.base import (
    Evaluation,
    EvaluationContext,
    require_counts,
    require_labels,
    require_shares,
    sample_indices,
)
from hpm.evaluation.features import check_pool, pooled
from hpm.evaluation.finetune import named_crop
from hpm.evaluation.supervised import accuracies, autocast, check_precision, train
from hpm.models.base import MaskedModel
from hpm.optim.schedule import Schedule
from hpm.runtime.devices import choose_precision

OPTIMIZERS = ("lars", "sgd")


def build_head(width: int, num_classes: int, seed: int) -> nn.Sequential:
    """MAE's: features standardized over the batch without learned scales, then a linear layer, weights N(0, 0.01^2)."""
    linear = nn.utils.skip_init(nn.Linear, width, num_classes)
    nn.init.trunc_normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(seed % 2**63))
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6), linear)


def build_optimizer(name: str, linear: nn.Linear, *, momentum: float, weight_decay: float) -> torch.optim.Optimizer:
    """LARS (You et al. 2017, arXiv 1708.03888), its trust ratio 0.001 on the weights alone, as MAE's; or SGD."""
    groups = [
        {"params": [linear.weight], "weight_decay": weight_decay},
        {"params": [linear.bias], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum)
    return Lars([groups[0] | {"always_adapt": True}, groups[1]], lr=0.0, momentum=momentum, trust_coeff=0.001)


class LinearMAESchedule(Schedule):
    """The schedule of `LinearMAE`, in whose name its errors speak."""

    owner = "LinearMAE"


class LinearMAE(Evaluation):
    """Test accuracy of a linear classifier on the frozen encoder, by MAE's protocol (arXiv 2111.06377, appendix A.1).

    The defaults are the published ones. Every epoch sees other crops, so every epoch runs the encoder; `Linear` is
    the cheap relative, which sees each image once.

    Metrics: `linear_mae/pretrained` and, beyond five classes, `linear_mae/pretrained_top5`; with `baselines` the same
    on the random initialization, `linear_mae/initialization`.

    Args:
        epochs: passes over the training images.
        batch_size: images of a step.
        accumulate: micro-batches into which a batch is cut; each is standardized by itself, as each GPU's share is in
            the published code.
        blr: base learning rate; the learning rate is `blr * batch_size / 256`.
        min_lr: learning rate at the end.
        warmup_epochs: epochs of linear warm-up.
        optimizer: "lars" (published), or "sgd" for small batches.
        momentum: the optimizer's.
        weight_decay: on the weights.
        scale: area of the random crops, relative to the image.
        flip: probability of mirroring.
        pool: the class "token" (published), or the "mean" of the patch tokens.
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16" or "fp32".
        num_workers: processes that load images; 0 for none but this one.
        test_images: at most so many; None for all.
        baselines: whether to measure the random initialization too.
    """

    shared = True

    def __init__(
        self,
        *,
        epochs: int = 90,
        batch_size: int = 16384,
        accumulate: int = 32,
        blr: float = 0.1,
        min_lr: float = 0.0,
        warmup_epochs: float = 10,
        optimizer: str = "lars",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        pool: str = "token",
        precision: str = "auto",
        num_workers: int = 0,
        test_images: int | None = None,
        baselines: bool = False,
    ) -> None:
        self.schedule = LinearMAESchedule(
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            blr=blr,
            min_lr=min_lr,
            warmup_epochs=warmup_epochs,
        )
        if batch_size // accumulate < 2:
            raise ValueError(
                f"LinearMAE.batch_size = {batch_size} in LinearMAE.accumulate = {accumulate} parts is one image in "
                "each, which cannot be standardized; lower accumulate"
            )
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"LinearMAE.optimizer = {optimizer!r} is unknown; choose {' or '.join(OPTIMIZERS)}")
        if weight_decay < 0:
            raise ValueError(f"LinearMAE.weight_decay = {weight_decay} must be at least 0")
        require_shares("LinearMAE", momentum=momentum)
        require_counts("LinearMAE", test_images=test_images)
        if num_workers < 0:
            raise ValueError(f"LinearMAE.num_workers = {num_workers} must be 0 or more")
        check_pool("LinearMAE", pool)
        check_precision("LinearMAE", precision)
        self.optimizer = optimizer
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.pool = pool
        self.precision = precision
        self.num_workers = num_workers
        self.test_images = test_images
        self.baselines = baselines
        self.crop = named_crop("LinearMAE", scale=scale, flip=flip)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)
        self.schedule.clock(len(source.train()))

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        if self.schedule.micro_batch_size(context.processes.world_size) < 2:
            raise UserError(
                f"LinearMAE.batch_size = {self.schedule.batch_size} gives {context.processes.world_size} processes one "
                "image each, which cannot be standardized; lower LinearMAE.accumulate or start fewer processes"
            )
        test_M = sample_indices(self.test_images, len(context.source.test()))
        models = {"pretrained": context.model} | ({"initialization": context.initial()} if self.baselines else {})
        metrics: dict[str, float] = {}
        for name, model in models.items():
            shares = self._shares(context, model, test_M, name=name)
            metrics |= {f"linear_mae/{name}{which}": share for which, share in shares.items()}
        return metrics

    def _shares(self, context: EvaluationContext, model: MaskedModel, test_M: Tensor, *, name: str) -> dict[str, float]:
        source = context.source
        schedule = self.schedule
        device = context.device
        precision = choose_precision(self.precision, device)
        head = (
            build_head(model.encoder.num_features, source.num_classes, hash_words(context.seed, Stream.LINEAR_HEAD))
            .to(device)
            .train()
        )
        linear: nn.Module = head[1]
        assert isinstance(linear, nn.Linear)
        optimizer = build_optimizer(self.optimizer, linear, momentum=self.momentum, weight_decay=self.weight_decay)

        @torch.no_grad()
        def features(images_NCSS: Tensor) -> Tensor:
            with autocast(precision, device):
                return pooled(model.encoder, images_NCSS, self.pool).float()

        loader = AugmentingLoader(
            source=source,
            transform=None,
            seed=context.seed,
            batch_size=schedule.batch_size,
            patch_size=model.patch_size,
            crop=self.crop,
            num_workers=self.num_workers,
            accumulate=schedule.accumulate,
            device=device,
            processes=context.processes,
        )
        train(
            head,
            optimizer,
            lambda images, labels: F.cross_entropy(head(features(images)), labels),
            loader,
            schedule,
            context,
            name=f"linear-mae-{name}",
        )
        head.eval()
        return accuracies(lambda images: head(features(images)), context, test_M, num_workers=self.num_workers)
