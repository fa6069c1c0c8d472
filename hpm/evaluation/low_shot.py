"""Low-shot fine-tuning: what pre-training is worth where labels are few.

Representations of masked autoencoders show in fine-tuning first. The encoder is fine-tuned whole on a few labels,
once from its pre-trained weights and once from the initialization it had before: same labels, same order, same
augmentation, same schedule.

Shape suffixes: N labelled images, M test images, Y classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from curriculum.validation import require_at_least, require_choice, require_in, require_positive
from hpm.data import ImageSource
from hpm.evaluation.augmentation import named_crop
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.classifier import classifier
from hpm.evaluation.features import POOLS, raw_pixels, require_class_token
from hpm.evaluation.few_labels import FewLabels, RelativeRates, draw_labels
from hpm.evaluation.intervals import half_interval
from hpm.evaluation.metrics import Metric, Unit
from hpm.evaluation.samples import labels_of, require_labels, sample_indices
from hpm.evaluation.supervised import accuracies, train
from hpm.models.base import MaskedModel
from hpm.optim.param_groups import layer_groups
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.precision import full_float32

_COMPARED = ("pretrained", "scratch", "raw_pixels")


class LowShot(Evaluation):
    """Fine-tuning on a few labels, pre-trained against from scratch, with raw pixels beside them.

    Metrics: test accuracies `low_shot/pretrained`, `low_shot/scratch` and `low_shot/raw_pixels` (logistic regression
    on the same labels), means over draws of the labels; and `low_shot/gain`, pre-trained minus scratch. Each draw's
    own as `low_shot/pretrained/draw0`; of several draws, half the width of the mean's 95 % interval (Student's t) as
    `low_shot/pretrained/interval`.

    Args:
        labels: labelled images of a draw, the same number of each class. Default 500, unless `fraction` is given.
        fraction: share of the labels instead, e.g. 0.01; of each class its share, rounded, but at least one image.
        draws: how many times labels are drawn.
        epochs: passes over them.
        batch_size: images a step.
        lr: peak learning rate from pre-trained weights.
        scratch_lr: peak learning rate from scratch, where no layer decay applies.
        layer_decay: factor between the learning rates of neighboring layers, from pre-trained weights.
        weight_decay: AdamW's.
        warmup: share of the steps spent warming up.
        smoothing: label smoothing.
        scale: area of the random crops, relative to the image.
        flip: probability of mirroring.
        test_images: at most so many; None for all.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to train from scratch and on raw pixels too; without, there is only `low_shot/pretrained`.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "low-shot"
    metrics = (
        *(Metric(f"low_shot/{name}", Unit.ACCURACY) for name in _COMPARED),
        *(Metric(f"low_shot/{name}/draw*", Unit.ACCURACY) for name in _COMPARED),
        Metric("low_shot/gain", Unit.POINTS),
        Metric("low_shot/gain/draw*", Unit.POINTS),
        Metric("low_shot/*/interval", Unit.POINTS, higher_is_better=None),
    )
    seeded = False  # draws are numbered: runs are compared on the same labels
    seeds_argument = "draws"
    shared = True

    def __init__(
        self,
        *,
        labels: int | None = None,
        fraction: float | None = None,
        draws: int = 2,
        epochs: int = 40,
        batch_size: int = 50,
        lr: float = 2e-3,
        scratch_lr: float = 1e-3,
        layer_decay: float = 0.75,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
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
        require_at_least("LowShot", 1, labels=labels, draws=draws, epochs=epochs)
        require_at_least("LowShot", 1, batch_size=batch_size, test_images=test_images)
        require_positive("LowShot", lr=lr, scratch_lr=scratch_lr, layer_decay=layer_decay)
        require_at_least("LowShot", 0, weight_decay=weight_decay)
        require_in("LowShot", "[0, 1)", warmup=warmup, smoothing=smoothing)
        require_choice("LowShot", POOLS, pool=pool)
        if labels is not None and batch_size > labels:
            raise ValueError(f"LowShot.batch_size = {batch_size} is more than LowShot.labels = {labels}")
        self.labels = labels
        self.fraction = fraction
        self.draws = draws
        self.batch_size = batch_size
        self.lr = lr
        self.scratch_lr = scratch_lr
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.rates = RelativeRates(epochs, warmup)
        self.smoothing = smoothing
        self.test_images = test_images
        self.pool = pool
        self.baselines = baselines
        self.crop = named_crop("LowShot", scale=scale, flip=flip)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)
        require_class_token("LowShot", model.encoder, self.pool)
        super().check(source, model)
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
            metrics[name] = sum(values) / self.draws
            by_draw = {f"{name}/draw{draw}": value for draw, value in enumerate(values)}
            metrics |= by_draw
            images = len(sample_indices(self.test_images, len(context.source.test())))
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
        alone = replace(context, processes=DistributedContext(), folder=None, report=None)
        scratch = context.initial() if self.baselines else None
        own = {
            draw: self._measure_draw(alone, scratch, draw)
            for draw in range(processes.rank, self.draws, processes.world_size)
        }
        by_draw = {draw: values for theirs in processes.gather(own) for draw, values in theirs.items()}
        return {f"low_shot/{name}": [by_draw[draw][name] for draw in range(self.draws)] for name in by_draw[0]}

    def _measure_draw(self, context: EvaluationContext, scratch: MaskedModel | None, draw: int) -> dict[str, float]:
        """Test accuracies after training on the labels of one draw."""
        source = context.source
        test_M = sample_indices(self.test_images, len(source.test()))
        train_N = draw_labels(labels_of(source.train()), self._per_class(source), source.num_classes, draw)

        def accuracy_from(model: MaskedModel, lr: float, layer_decay: float) -> float:
            vit = self._fine_tuned(context, model, train_N, lr=lr, layer_decay=layer_decay, draw=draw)
            return accuracies(vit, context, test_M)[""]

        measured = {"pretrained": accuracy_from(context.model, self.lr, self.layer_decay)}
        if scratch is not None:
            measured["scratch"] = accuracy_from(scratch, self.scratch_lr, 1.0)
            measured["raw_pixels"] = self._accuracy_of_raw_pixels(source, train_N, test_M)
            measured["gain"] = measured["pretrained"] - measured["scratch"]
        return measured

    def _fine_tuned(
        self,
        context: EvaluationContext,
        model: MaskedModel,
        train_N: Tensor,
        *,
        lr: float,
        layer_decay: float,
        draw: int,
    ) -> nn.Module:
        vit = classifier(model, context.source.num_classes, pool=self.pool).train()
        groups = layer_groups(vit, lr=lr, layer_decay=layer_decay, weight_decay=self.weight_decay)
        labelled = FewLabels(
            source=context.source,
            train_N=train_N,
            crop=self.crop,
            batch_size=self.batch_size,
            patch_size=model.patch_size,
            seed=draw,
            device=context.device,
        )
        train(
            vit,
            torch.optim.AdamW(groups, fused=True),
            lambda images_NCSS, labels_N: F.cross_entropy(vit(images_NCSS), labels_N, label_smoothing=self.smoothing),
            labelled,
            self.rates,
            context,
            name=f"low-shot draw {draw}",
            remedy="Lower LowShot.lr and LowShot.scratch_lr.",
        )
        return vit.eval()

    def _accuracy_of_raw_pixels(self, source: ImageSource, train_N: Tensor, test_M: Tensor) -> float:
        train, test = source.train(), source.test()
        regression = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
        regression.fit(raw_pixels(source, train, train_N).numpy(), labels_of(train)[train_N].numpy())
        return float(regression.score(raw_pixels(source, test, test_M).numpy(), labels_of(test)[test_M].numpy()))
