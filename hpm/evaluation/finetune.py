"""Full fine-tuning on all labels, as MAE publishes it: the figure that masked autoencoders are compared by.

Shape suffixes: N images of a micro-batch, C channels, S side, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from hpm.data import ImageSource, RandomResizedCrop
from hpm.errors import UserError
from hpm.evaluation.augmentation import AugmentingLoader, rand_augment
from hpm.evaluation.base import (
    Evaluation,
    EvaluationContext,
    require_counts,
    require_labels,
    require_shares,
    sample_indices,
)
from hpm.evaluation.classifier import classifier
from hpm.evaluation.features import check_pool
from hpm.evaluation.low_shot import layer_groups
from hpm.evaluation.supervised import accuracies, autocast, check_precision, train
from hpm.models.base import MaskedModel
from hpm.optim.schedule import Schedule
from hpm.runtime.devices import choose_precision
from hpm.runtime.distributed import DistributedContext


class FineTuneSchedule(Schedule):
    """The schedule of `FineTune`, in whose name its errors speak."""

    owner = "FineTune"


class FineTune(Evaluation):
    """Test accuracy after fine-tuning the whole encoder on all labels (MAE, arXiv 2111.06377, appendix A.1).

    The defaults are those published for ViT-B; `evaluation/finetune_vit_large` has ViT-L's. As there, a mean over
    patch tokens is normalized by a norm that starts anew.

    Metrics: `finetune/pretrained` and, beyond five classes, `finetune/pretrained_top5`; with `baselines` the same
    from the random initialization, `finetune/scratch`.

    Args:
        epochs: passes over the training images.
        batch_size: images of a step; even where mixup or CutMix is used.
        accumulate: micro-batches into which a batch is cut, where memory is short.
        blr: base learning rate; the learning rate is `blr * batch_size / 256`.
        min_lr: learning rate at the end.
        warmup_epochs: epochs of linear warm-up.
        layer_decay: factor between the learning rates of neighboring layers.
        weight_decay: AdamW's, on weights alone.
        clip_grad: largest norm of the gradient; None for no limit.
        drop_path: stochastic depth of the last block; it rises linearly from 0 at the first.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; a batch gets one or the other.
        smoothing: label smoothing.
        erasing: probability of erasing a rectangle of an image.
        rand_augment: timm's RandAugment, e.g. "rand-m9-mstd0.5-inc1"; None for none.
        scale: area of the random crops, relative to the image.
        flip: probability of mirroring.
        pool: "mean" of the patch tokens (published), or the class "token".
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16" or "fp32".
        num_workers: processes that load and augment images; 0 for none but this one.
        test_images: at most so many; None for all.
        baselines: whether to train from scratch too, by the same recipe.
    """

    shared = True

    def __init__(
        self,
        *,
        epochs: int = 100,
        batch_size: int = 1024,
        accumulate: int = 1,
        blr: float = 5e-4,
        min_lr: float = 1e-6,
        warmup_epochs: float = 5,
        layer_decay: float = 0.65,
        weight_decay: float = 0.05,
        clip_grad: float | None = None,
        drop_path: float = 0.1,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        smoothing: float = 0.1,
        erasing: float = 0.25,
        rand_augment: str | None = "rand-m9-mstd0.5-inc1",
        scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        pool: str = "mean",
        precision: str = "auto",
        num_workers: int = 0,
        test_images: int | None = None,
        baselines: bool = False,
    ) -> None:
        self.schedule = FineTuneSchedule(
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            blr=blr,
            min_lr=min_lr,
            warmup_epochs=warmup_epochs,
        )
        for name, value in (("weight_decay", weight_decay), ("mixup", mixup), ("cutmix", cutmix)):
            if value < 0:
                raise ValueError(f"FineTune.{name} = {value} must be at least 0")
        if not 0 < layer_decay <= 1:
            raise ValueError(f"FineTune.layer_decay = {layer_decay} must lie in (0, 1]; 1 for none")
        if clip_grad is not None and clip_grad <= 0:
            raise ValueError(f"FineTune.clip_grad = {clip_grad} must be positive; None for no limit")
        require_shares("FineTune", drop_path=drop_path, smoothing=smoothing)
        if not 0 <= erasing <= 1:
            raise ValueError(f"FineTune.erasing = {erasing} must be a probability, 0 to 1")
        require_counts("FineTune", test_images=test_images)
        if num_workers < 0:
            raise ValueError(f"FineTune.num_workers = {num_workers} must be 0 or more")
        check_pool("FineTune", pool)
        check_precision("FineTune", precision)
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.clip_grad = clip_grad
        self.drop_path = drop_path
        self.mixup = mixup
        self.cutmix = cutmix
        self.smoothing = smoothing
        self.erasing = erasing
        self.rand_augment = rand_augment
        self.pool = pool
        self.precision = precision
        self.num_workers = num_workers
        self.test_images = test_images
        self.baselines = baselines
        self.crop = named_crop("FineTune", scale=scale, flip=flip)
        self._require_pairs(DistributedContext())

    def _require_pairs(self, processes: DistributedContext) -> None:
        size = self.schedule.micro_batch_size(processes.world_size)
        if (self.mixup or self.cutmix) and size % 2:
            among = f" of {processes.world_size} processes" if processes.world_size > 1 else ""
            raise ValueError(
                f"FineTune.batch_size = {self.schedule.batch_size} in FineTune.accumulate = {self.schedule.accumulate} "
                f"parts{among} has an odd number of images in each, which mixup and CutMix cannot pair; choose "
                "another, or set both to 0"
            )

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)
        self.schedule.clock(len(source.train()))
        self._transform(source)

    def _transform(self, source: ImageSource) -> Callable | None:
        if self.rand_augment is None:
            return None
        if source.in_chans not in (1, 3):
            raise ValueError(
                f"FineTune.rand_augment needs images of 1 or 3 channels, {type(source).__name__} has "
                f"{source.in_chans}; set it to None"
            )
        return rand_augment("FineTune", self.rand_augment, size=source.img_size, mean=source.mean)

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        try:
            self._require_pairs(context.processes)
        except ValueError as error:  # that of the processes is no matter of the config alone
            raise UserError(str(error)) from None
        precision = choose_precision(self.precision, context.device)
        test_M = sample_indices(self.test_images, len(context.source.test()))
        models = {"pretrained": context.model} | ({"scratch": context.initial()} if self.baselines else {})
        metrics: dict[str, float] = {}
        for name, model in models.items():
            vit = self._trained(context, model, name=name, precision=precision).eval()
            with autocast(precision, context.device):
                shares = accuracies(vit, context, test_M, num_workers=self.num_workers)
            metrics |= {f"finetune/{name}{which}": share for which, share in shares.items()}
        return metrics

    def _trained(self, context: EvaluationContext, model: MaskedModel, *, name: str, precision: str) -> nn.Module:
        source = context.source
        schedule = self.schedule
        device = context.device
        vit = classifier(model, source.num_classes, pool=self.pool, drop_path=self.drop_path).train()
        last_norm: Any = getattr(vit, "fc_norm", None)
        if isinstance(last_norm, nn.LayerNorm):
            last_norm.reset_parameters()
        groups = layer_groups(vit, lr=1.0, layer_decay=self.layer_decay, weight_decay=self.weight_decay)
        optimizer = torch.optim.AdamW([group | {"scale": group["peak"]} for group in groups], fused=True)
        loader = AugmentingLoader(
            source=source,
            transform=self._transform(source),
            seed=context.seed,
            batch_size=schedule.batch_size,
            patch_size=model.patch_size,
            crop=self.crop,
            num_workers=self.num_workers,
            accumulate=schedule.accumulate,
            device=device,
            processes=context.processes,
        )
        erase = RandomErasing(self.erasing, mode="pixel", device=device)
        mix = None
        if self.mixup or self.cutmix:
            mix = Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=source.num_classes)
        criterion = LabelSmoothingCrossEntropy(self.smoothing) if mix is None else SoftTargetCrossEntropy()

        def loss_of(images_NCSS: Tensor, labels_N: Tensor) -> Tensor:
            images_NCSS = erase(images_NCSS)
            targets = labels_N
            if mix is not None:
                images_NCSS, targets = mix(images_NCSS, labels_N)
            with autocast(precision, device):
                logits_NC = vit(images_NCSS)
            return criterion(logits_NC.float(), targets)

        train(vit, optimizer, loss_of, loader, schedule, context, name=f"finetune-{name}", clip_grad=self.clip_grad)
        return vit


def named_crop(owner: str, *, scale: tuple[float, float], flip: float) -> RandomResizedCrop:
    """A crop whose errors name the evaluation: a run has another RandomResizedCrop.

    Raises:
        ValueError: naming the owner's argument.
    """
    try:
        return RandomResizedCrop(scale=scale, flip=flip)
    except ValueError as error:
        raise ValueError(str(error).replace("RandomResizedCrop", owner)) from None
