"""Low-shot fine-tuning: what pre-training is worth where labels are few.

Representations of masked autoencoders show in fine-tuning first. The encoder is fine-tuned whole on a few labels,
from its pre-trained weights and from the initialization it had before: same labels, same order, same augmentation, each
until it has converged, at the learning rate that suits it.

Shape suffixes: N labelled images, K images of a split, Y classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum.validation import require_at_least, require_choice, require_in, require_positive
from hpm.data import ImageSource, Split
from hpm.evaluation.augmentation import named_crop
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.classifier import classifier
from hpm.evaluation.convergence import WarmupRates, compare_with_scratch, require_early_stopping, require_rates
from hpm.evaluation.early_stopping import EarlyStopping
from hpm.evaluation.features import POOLS, require_class_token
from hpm.evaluation.few_labels import FewLabels, draw_labels
from hpm.evaluation.linear import RawPixels
from hpm.evaluation.samples import labels_of, require_labels, sample_indices
from hpm.evaluation.supervised import SupervisedTraining, accuracies, by_classes
from hpm.metrics import DECLARED, half_interval, metric_on, split_of
from hpm.models.base import MaskedModel
from hpm.optim.param_groups import layer_groups
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.precision import full_float32

_CHOSEN = ("/lr", "/epochs")


class LowShot(Evaluation):
    """Fine-tuning on a few labels, pre-trained against from scratch, with raw pixels beside them.

    Both networks are trained at a constant learning rate, of which validation images choose one for each, until their
    accuracy on validation images has converged; see `compare_with_scratch`.

    Metrics, means over draws of the labels: accuracies `low_shot/pretrained`, `low_shot/scratch`,
    `low_shot/scratch_equal_compute` (the best from scratch within what pre-training and fine-tuning computed together)
    and `low_shot/raw_pixels` (logistic regression on the same labels); `low_shot/gain`, pre-trained minus
    scratch. Each draw's own as `low_shot/pretrained/draw0`; of several draws, half the width of the mean's 95 %
    interval (Student's t) as `low_shot/pretrained/interval`. What validation images chose in a draw is
    `low_shot/pretrained/lr/draw0` and `low_shot/pretrained/epochs/draw0`, of a single draw without `/draw0` too.

    Args:
        labels: labelled images of a draw, the same number of each class. Default 500, unless `fraction` is given.
        fraction: share of the labels instead, e.g. 0.01; of each class its share, rounded, but at least one image.
        draws: how many times labels are drawn; other seeds draw others.
        epochs: passes over them, at most; from scratch so many more than pre-training and fine-tuning computed, see
            `compare_with_scratch`.
        batch_size: images a step.
        lr: learning rate, or several to choose from.
        layer_decay: factor between the learning rates of neighboring layers, from pre-trained weights; from scratch
            none applies.
        weight_decay: AdamW's.
        warmup_epochs: epochs of linear warm-up.
        patience: how much longer training goes on without an improvement, relative to the epochs it took; see
            `EarlyStopping`.
        threshold: the least gain of accuracy on validation images that is an improvement, relative to the accuracy.
        min_epochs: epochs that a network is trained for at least, `epochs` allowing.
        trial_epochs: epochs after which the worse half of the learning rates is given up; see `train_until_converged`.
        smoothing: label smoothing.
        scale: area of the random crops, relative to the image.
        flip: probability of mirroring.
        test_images: at most so many test images, and as many validation images; None for all.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to train from scratch and on raw pixels too; without, there is only `low_shot/pretrained`.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "low-shot"
    metrics = DECLARED[protocol]
    seeds_argument = "draws"
    shared = True

    def __init__(
        self,
        *,
        labels: int | None = None,
        fraction: float | None = None,
        draws: int = 1,
        epochs: int = 400,
        batch_size: int = 50,
        lr: float | Sequence[float] = (5e-4, 1e-3, 2e-3),
        layer_decay: float = 0.75,
        weight_decay: float = 0.05,
        warmup_epochs: float = 5,
        patience: float = 0.5,
        threshold: float = 0.01,
        min_epochs: int = 100,
        trial_epochs: int = 20,
        smoothing: float = 0.1,
        scale: tuple[float, float] = (0.6, 1.0),
        flip: float = 0.0,
        test_images: int | None = 2000,
        pool: str = "mean",
        baselines: bool = True,
    ) -> None:
        if labels is not None and fraction is not None:
            raise ValueError(
                f"LowShot.labels = {labels} and LowShot.fraction = {fraction} say the same thing twice; set one to None"
            )
        labels = 500 if labels is None and fraction is None else labels
        require_in("LowShot", "(0, 1]", fraction=fraction)
        require_at_least("LowShot", 1, labels=labels)
        require_in("LowShot", "[1, 1000]", draws=draws)
        require_in("LowShot", "[1, 1000000]", epochs=epochs)
        require_at_least("LowShot", 1, batch_size=batch_size, test_images=test_images)
        self.lrs = require_rates("LowShot", lr=lr)
        require_positive("LowShot", layer_decay=layer_decay)
        require_early_stopping(
            "LowShot", patience=patience, threshold=threshold, min_epochs=min_epochs, trial_epochs=trial_epochs
        )
        require_at_least("LowShot", 0, weight_decay=weight_decay)
        require_in("LowShot", "[0, 1000000]", warmup_epochs=warmup_epochs)
        require_in("LowShot", "[0, 1)", smoothing=smoothing)
        require_choice("LowShot", POOLS, pool=pool)
        if labels is not None and batch_size > labels:
            raise ValueError(f"LowShot.batch_size = {batch_size} is more than LowShot.labels = {labels}")
        self.labels = labels
        self.fraction = fraction
        self.draws = draws
        self.batch_size = batch_size
        self.epochs = epochs
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.early_stopping = partial(
            EarlyStopping,
            patience=patience,
            threshold=threshold,
            warmup_epochs=warmup_epochs,
            min_epochs=min_epochs,
        )
        self.trial_epochs = trial_epochs
        self.smoothing = smoothing
        self.test_images = test_images
        self.pool = pool
        self.baselines = baselines
        self.crop = named_crop("LowShot", scale=scale, flip=flip)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)
        require_class_token("LowShot", model.encoder, self.pool)
        super().check(source, model)
        source.validation()
        counts_Y = torch.bincount(labels_of(source.train()), minlength=source.num_classes)
        scarcest = int(counts_Y.min())
        if self.labels is not None and not 1 <= self.labels // source.num_classes <= scarcest:
            raise ValueError(
                f"LowShot.labels = {self.labels} are {self.labels // source.num_classes} for each of "
                f"{source.num_classes} classes; there must be 1 to {scarcest}, so choose {source.num_classes} to "
                f"{source.num_classes * scarcest}"
            )
        drawn = sum(self._per_class(source))
        if self.batch_size > drawn:
            asked = f"LowShot.fraction = {self.fraction}" if self.labels is None else f"LowShot.labels = {self.labels}"
            raise ValueError(
                f"LowShot.batch_size = {self.batch_size} is more than the {drawn} images that {asked} gives "
                f"{source.num_classes} classes; choose less"
            )

    def _per_class(self, source: ImageSource) -> list[int]:
        """How many images of each class are labelled."""
        if self.labels is not None:
            return [self.labels // source.num_classes] * source.num_classes
        assert self.fraction is not None
        counts_Y = torch.bincount(labels_of(source.train()), minlength=source.num_classes)
        return [max(1, round(self.fraction * count)) for count in counts_Y.tolist()]

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, values in self._accuracies(context).items():
            by_draw = {f"{name}/draw{draw}": value for draw, value in enumerate(values)}
            metrics |= by_draw
            if name.endswith(_CHOSEN):
                if self.draws == 1:
                    metrics[name] = values[0]
                continue
            metrics[name] = sum(values) / self.draws
            images = len(sample_indices(self.test_images, len(context.source.get_split(split_of(name)))))
            context.scored_images.update({name: images * self.draws, **dict.fromkeys(by_draw, images)})
            if self.draws > 1:
                metrics[f"{name}/interval"] = half_interval(values)
        return metrics

    def measure_values(self, context: EvaluationContext) -> dict[str, list[float]]:
        """One value for each draw."""
        with full_float32():
            return self._accuracies(context)

    def _accuracies(self, context: EvaluationContext) -> dict[str, list[float]]:
        """By the metric's name, one for each draw. Processes take turns at the draws, each works alone on its own."""
        processes = context.processes
        alone = replace(context, processes=DistributedContext())
        own = {
            draw: self._measure_draw(alone, context.seed * self.draws + draw)
            for draw in range(processes.rank, self.draws, processes.world_size)
        }
        by_draw = {draw: values for theirs in processes.gather(own) for draw, values in theirs.items()}
        return {name: [by_draw[draw][name] for draw in range(self.draws)] for name in by_draw[0]}

    def _measure_draw(self, context: EvaluationContext, draw: int) -> dict[str, float]:
        """Metrics after training on the labels of one draw."""
        source = context.source
        train_N = draw_labels(labels_of(source.train()), self._per_class(source), source.num_classes, draw)
        rows = compare_with_scratch(
            partial(self._start, context, train_N, draw),
            self.lrs,
            context,
            owner="LowShot",
            trial_epochs=self.trial_epochs,
            most_epochs=self.epochs,
            labelled=len(train_N),
            scratch=self.baselines,
        )
        measured: dict[str, float] = {}
        for name, converged in rows.items():
            measured |= {f"low_shot/{name}/lr": converged.lr, f"low_shot/{name}/epochs": converged.epochs}
        pixels = (
            RawPixels(source, train_N, most=self.test_images, unreadable=context.unreadable) if self.baselines else None
        )
        for which, split in context.held_out.items():
            own = {name: self._accuracy(context, converged.logits_of, split) for name, converged in rows.items()}
            if pixels is not None:
                own["raw_pixels"] = pixels.accuracy(split)
                own["gain"] = own["pretrained"] - own["scratch"]
            measured |= {metric_on(which, f"low_shot/{name}"): value for name, value in own.items()}
        return measured

    def _start(
        self,
        context: EvaluationContext,
        train_N: Tensor,
        draw: int,
        model: MaskedModel,
        name: str,
        lr: float,
        *,
        most_epochs: int,
        budget: float | None,
    ) -> SupervisedTraining:
        vit = classifier(model, context.source.num_classes, pool=self.pool).train()
        layer_decay = self.layer_decay if name == "pretrained" else 1.0
        groups = layer_groups(vit, lr=1.0, layer_decay=layer_decay, weight_decay=self.weight_decay)
        labelled = FewLabels(
            source=context.source,
            train_N=train_N,
            crop=self.crop,
            batch_size=self.batch_size,
            patch_size=model.patch_size,
            seed=draw,
            device=context.device,
            unreadable=context.unreadable,
        )

        def loss_of(images_NCSS: Tensor, labels_N: Tensor) -> Tensor:
            return F.cross_entropy(vit(images_NCSS), labels_N, label_smoothing=self.smoothing)

        def accuracy_of(trained: nn.Module) -> float:
            return self._accuracy(context, trained, context.source.validation())

        return SupervisedTraining(
            vit,
            torch.optim.AdamW(groups, fused=True),
            by_classes(loss_of, context),
            labelled,
            WarmupRates(most_epochs, lr, self.warmup_epochs),
            context,
            name=f"low-shot-draw{draw}-{name}-lr{lr:g}",
            remedy="Lower LowShot.lr.",
            logits_with=lambda trained, images_NCSS: trained(images_NCSS),
            stopping=self.early_stopping(vit, accuracy_of, budget=budget),
        )

    def _accuracy(self, context: EvaluationContext, logits_of: Callable[[Tensor], Tensor], split: Split) -> float:
        return accuracies(logits_of, context, split, sample_indices(self.test_images, len(split)))[""]
