"""Full fine-tuning on all labels, as MAE publishes it: the figure that masked autoencoders are compared by.

Shape suffixes: N images of a micro-batch, C channels, S side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm.data.mixup import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from curriculum.validation import require_at_least, require_in, require_positive
from hpm.data import ImageSource
from hpm.errors import TrainingError
from hpm.evaluation.augmentation import named_crop, rand_augment
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.classifier import classifier
from hpm.evaluation.convergence import WarmupRates, compare_with_scratch, require_early_stopping, require_rates
from hpm.evaluation.early_stopping import EarlyStopping
from hpm.evaluation.supervised import LearningRates, SupervisedTraining, by_classes
from hpm.evaluation.supervised_protocol import SupervisedProtocol, TrainedClassifier, autocast
from hpm.metrics import DECLARED
from hpm.models.base import MaskedModel
from hpm.optim.param_groups import layer_groups
from hpm.optim.schedule import Schedule


class FineTuneSchedule(Schedule):
    """The schedule of `FineTune`, in whose name its errors speak."""

    owner = "FineTune"


class FineTune(SupervisedProtocol):
    """Accuracy after fine-tuning the whole encoder on all labels (MAE, arXiv 2111.06377, appendix A.1).

    The defaults are those published for ViT-B; `evaluation/finetune_vit_large` has ViT-L's. As there, a mean over
    patch tokens is normalized by a norm that starts anew.

    Metrics: `finetune/pretrained` and, beyond five classes, `finetune/pretrained_top5`; with `baselines` the same
    from the random initialization, `finetune/scratch`, and with `patience` `finetune/scratch_equal_compute`; see
    `compare_with_scratch`. The base learning rate and the epochs of each are `finetune/pretrained/blr` and
    `finetune/pretrained/epochs`, `finetune/scratch/blr` and so on.

    Args:
        epochs: passes over the training images.
        batch_size: images of a step; even where mixup or CutMix is used.
        accumulate: micro-batches into which a batch is cut, where memory is short.
        blr: base learning rate, or several, of which validation images choose one for each network; the learning rate
            is `blr * batch_size / 256`.
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
        test_images: at most so many test images, and as many validation images; None for all.
        baselines: whether to train from scratch too, by the same recipe.
        patience: None, the default, trains by the schedule, as published. A number trains at a constant learning rate
            until the accuracy on validation images has converged, `epochs` at most, from scratch so many more than
            pre-training and fine-tuning computed; see `EarlyStopping` and `compare_with_scratch`.
        threshold: with patience, the least gain of that accuracy that is an improvement, relative to the accuracy.
        min_epochs: with patience, epochs that a network is trained for at least, `epochs` allowing.
        trial_epochs: with patience, epochs after which the worse half of the learning rates is given up; see
            `train_until_converged`.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "finetune"
    prefix = "finetune"
    baseline = "scratch"
    metrics = DECLARED[protocol]

    def __init__(
        self,
        *,
        epochs: int = 100,
        batch_size: int = 1024,
        accumulate: int = 1,
        blr: float | Sequence[float] = 5e-4,
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
        patience: float | None = None,
        threshold: float = 0.005,
        min_epochs: int = 10,
        trial_epochs: int = 5,
    ) -> None:
        self.blrs = require_rates("FineTune", blr=blr)
        require_early_stopping(
            "FineTune", patience=patience, threshold=threshold, min_epochs=min_epochs, trial_epochs=trial_epochs
        )
        self.patience = patience
        self.early_stopping = partial(
            EarlyStopping, threshold=threshold, warmup_epochs=warmup_epochs, min_epochs=min_epochs
        )
        self.trial_epochs = trial_epochs
        schedule = FineTuneSchedule(
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            blr=self.blrs[0],
            min_lr=min_lr,
            warmup_epochs=warmup_epochs,
        )
        for other in self.blrs[1:]:
            replace(schedule, blr=other)  # refused here rather than when its turn comes
        require_at_least("FineTune", 0, weight_decay=weight_decay, mixup=mixup, cutmix=cutmix)
        require_in("FineTune", "(0, 1]", layer_decay=layer_decay)
        require_positive("FineTune", clip_grad=clip_grad)
        require_in("FineTune", "[0, 1)", drop_path=drop_path, smoothing=smoothing)
        require_in("FineTune", "[0, 1]", erasing=erasing)
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.clip_grad = clip_grad
        self.drop_path = drop_path
        self.mixup = mixup
        self.cutmix = cutmix
        self.smoothing = smoothing
        self.erasing = erasing
        self.rand_augment = rand_augment
        super().__init__(
            schedule=schedule,
            crop=named_crop("FineTune", scale=scale, flip=flip),
            pool=pool,
            precision=precision,
            num_workers=num_workers,
            test_images=test_images,
            baselines=baselines,
        )

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        super().check(source, model)
        self._transform(source)
        if self.patience is not None or len(self.blrs) > 1:
            source.validation()

    def check_world_size(self, world_size: int) -> None:
        size = self.schedule.micro_batch_size(world_size)
        if (self.mixup or self.cutmix) and size % 2:
            among = f" of {world_size} processes" if world_size > 1 else ""
            raise ValueError(
                f"FineTune.batch_size = {self.schedule.batch_size} in FineTune.accumulate = {self.schedule.accumulate} "
                f"micro-batches{among} has an odd number of images in each, which mixup and CutMix cannot pair; choose "
                "another, or set both to 0"
            )

    def _transform(self, source: ImageSource) -> Callable | None:
        if self.rand_augment is None:
            return None
        if source.in_chans not in (1, 3):
            raise ValueError(
                f"FineTune.rand_augment needs images of 1 or 3 channels, {type(source).__name__} has "
                f"{source.in_chans}; set it to None"
            )
        return rand_augment("FineTune", self.rand_augment, size=source.img_size, mean=source.mean)

    def classifiers(self, context: EvaluationContext, precision: str) -> Iterator[TrainedClassifier]:
        """By the schedule, or until they have converged; validation images choose the base learning rate."""
        start = partial(self._start, context, precision)
        if self.patience is None:
            for name, model in self.models(context):
                begin = partial(start, model, name, most_epochs=self.schedule.epochs, budget=None)
                yield self._best_by_schedule(context, name, begin)
            return
        rows = compare_with_scratch(
            start,
            self.blrs,
            context,
            owner="FineTune",
            trial_epochs=self.trial_epochs,
            most_epochs=self.schedule.epochs,
            labelled=len(context.source.train()),
            scratch=self.baselines,
        )
        for name, converged in rows.items():
            settings = {"blr": converged.lr, "epochs": converged.epochs}
            yield TrainedClassifier(name, converged.logits_of, settings, converged.network)

    def _best_by_schedule(
        self, context: EvaluationContext, name: str, start: Callable[[float], SupervisedTraining]
    ) -> TrainedClassifier:
        """The classifier of the base learning rate that does best on validation images, where there are several."""
        best = -1.0
        chosen: TrainedClassifier | None = None
        diverged: TrainingError | None = None
        for blr in self.blrs:
            training = start(blr)
            try:
                training.run()
            except TrainingError as error:
                diverged = error
                continue
            logits_of = partial(training.logits_with, training.trained.eval())
            accuracy = 0.0
            if len(self.blrs) > 1:
                accuracy = self.accuracies(context, context.source.validation(), logits_of)[""]
            if accuracy > best:
                settings = {"blr": blr, "epochs": self.schedule.epochs}
                best, chosen = accuracy, TrainedClassifier(name, logits_of, settings, training.trained)
        if chosen is None:
            assert diverged is not None
            raise diverged
        return chosen

    def _start(
        self,
        context: EvaluationContext,
        precision: str,
        model: MaskedModel,
        name: str,
        blr: float,
        *,
        most_epochs: int,
        budget: float | None,
    ) -> SupervisedTraining:
        """Train the whole encoder with a head, as timm's model."""
        num_classes, device = context.source.num_classes, context.device
        vit = classifier(model, num_classes, pool=self.pool, drop_path=self.drop_path).train()
        last_norm: Any = getattr(vit, "fc_norm", None)
        if isinstance(last_norm, nn.LayerNorm):
            last_norm.reset_parameters()
        # From scratch every layer has everything to learn; the published schedule decays all the same.
        decays = self.patience is None or name == "pretrained"
        layer_decay = self.layer_decay if decays else 1.0
        groups = layer_groups(vit, lr=1.0, layer_decay=layer_decay, weight_decay=self.weight_decay)
        erase = RandomErasing(self.erasing, mode="pixel", device=device)
        mix = None
        if self.mixup or self.cutmix:
            mix = Mixup(self.mixup, self.cutmix, label_smoothing=self.smoothing, num_classes=num_classes)
        criterion = LabelSmoothingCrossEntropy(self.smoothing) if mix is None else SoftTargetCrossEntropy()

        def logits_with(trained: nn.Module, images_NCSS: Tensor) -> Tensor:
            with autocast(precision, device):
                return trained(images_NCSS)

        def loss_of(images_NCSS: Tensor, labels_N: Tensor) -> Tensor:
            images_NCSS = erase(images_NCSS)
            targets = labels_N
            if mix is not None:
                images_NCSS, targets = mix(images_NCSS, labels_N)
            return criterion(logits_with(vit, images_NCSS).float(), targets)

        def accuracy_of(trained: nn.Module) -> float:
            return self.accuracies(context, context.source.validation(), partial(logits_with, trained))[""]

        schedule = replace(self.schedule, blr=blr)
        rates: LearningRates = schedule
        stopping = None
        if self.patience is not None:
            rates = WarmupRates(most_epochs, schedule.lr, schedule.warmup_epochs)
            stopping = self.early_stopping(vit, accuracy_of, patience=self.patience, budget=budget)
        return SupervisedTraining(
            vit,
            torch.optim.AdamW(groups, fused=True),
            by_classes(loss_of, context),
            self.loader(context, patch_size=model.patch_size, transform=self._transform(context.source)),
            rates,
            context,
            name=f"{self.protocol}-{name}" + (f"-blr{blr:g}" if len(self.blrs) > 1 else ""),
            remedy=self.remedy_for(precision),
            logits_with=logits_with,
            clip_grad=self.clip_grad,
            stopping=stopping,
        )
