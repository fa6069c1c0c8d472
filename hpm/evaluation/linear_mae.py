"""MAE's linear protocol: a linear classifier trained on a frozen encoder's features of augmented images.

Shape suffixes: N images of a micro-batch, C channels, S side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from timm.optim import Lars
from torch import Tensor, nn

from curriculum.noise import hash_words
from curriculum.streams import Stream
from curriculum.validation import require_at_least, require_choice, require_in
from hpm.evaluation.augmentation import named_crop
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.features import pooled
from hpm.evaluation.supervised import SupervisedTraining, by_classes
from hpm.evaluation.supervised_protocol import SupervisedProtocol, TrainedClassifier, autocast
from hpm.metrics import DECLARED
from hpm.models.base import MaskedModel
from hpm.optim.schedule import Schedule

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


class LinearMAE(SupervisedProtocol):
    """Accuracy of a linear classifier on the frozen encoder, by MAE's protocol (arXiv 2111.06377, appendix A.1).

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
        test_images: at most so many test images, and as many validation images; None for all.
        baselines: whether to measure the random initialization too.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "linear-mae"
    prefix = "linear_mae"
    baseline = "initialization"
    metrics = DECLARED[protocol]

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
        schedule = LinearMAESchedule(
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            blr=blr,
            min_lr=min_lr,
            warmup_epochs=warmup_epochs,
        )
        require_choice("LinearMAE", OPTIMIZERS, optimizer=optimizer)
        require_at_least("LinearMAE", 0, weight_decay=weight_decay)
        require_in("LinearMAE", "[0, 1)", momentum=momentum)
        self.optimizer = optimizer
        self.momentum = momentum
        self.weight_decay = weight_decay
        super().__init__(
            schedule=schedule,
            crop=named_crop("LinearMAE", scale=scale, flip=flip),
            pool=pool,
            precision=precision,
            num_workers=num_workers,
            test_images=test_images,
            baselines=baselines,
        )

    def check_world_size(self, world_size: int) -> None:
        if self.schedule.micro_batch_size(world_size) < 2:
            among = f" of {world_size} processes" if world_size > 1 else ""
            raise ValueError(
                f"LinearMAE.batch_size = {self.schedule.batch_size} in LinearMAE.accumulate = "
                f"{self.schedule.accumulate} micro-batches{among} is one image in each, which cannot be standardized; "
                f"lower LinearMAE.accumulate{' or start fewer processes' if world_size > 1 else ''}"
            )

    def classifiers(self, context: EvaluationContext, precision: str) -> Iterator[TrainedClassifier]:
        """By the schedule."""
        for name, model in self.models(context):
            training = self._start(context, model, name=f"{self.protocol}-{name}", precision=precision)
            training.run()
            yield TrainedClassifier(name, partial(training.logits_with, training.trained.eval()))

    def _start(
        self, context: EvaluationContext, model: MaskedModel, *, name: str, precision: str
    ) -> SupervisedTraining:
        """A linear head on the frozen encoder's features."""
        seed = hash_words(context.seed, Stream.LINEAR_HEAD)
        head = build_head(model.encoder.num_features, context.source.num_classes, seed).to(context.device).train()
        linear: nn.Module = head[1]
        assert isinstance(linear, nn.Linear)

        @torch.no_grad()
        def features_of(images_NCSS: Tensor) -> Tensor:
            with autocast(precision, context.device):
                return pooled(model.encoder, images_NCSS, self.pool).float()

        return SupervisedTraining(
            head,
            build_optimizer(self.optimizer, linear, momentum=self.momentum, weight_decay=self.weight_decay),
            by_classes(
                lambda images_NCSS, labels_N: F.cross_entropy(head(features_of(images_NCSS)), labels_N), context
            ),
            self.loader(context, patch_size=model.patch_size),
            self.schedule,
            context,
            name=name,
            remedy=self.remedy_for(precision),
            logits_with=lambda trained, images_NCSS: trained(features_of(images_NCSS)),
        )
