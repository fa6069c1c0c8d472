"""What fine-tuning on all labels and linear probing by training have in common as evaluations.

Shape suffixes: N images of a micro-batch, C channels, S side.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from curriculum.sizes import Size
from curriculum.validation import require_at_least, require_choice, require_in, require_positive
from hpm.data import ImageSource, RandomResizedCrop, Split
from hpm.evaluation.augmentation import AugmentingLoader
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.features import POOLS, require_class_token
from hpm.evaluation.samples import require_labels, sample_indices
from hpm.evaluation.supervised import accuracies
from hpm.evaluation.trained_encoders import keep_encoder
from hpm.metrics import metric_on
from hpm.models.base import MaskedModel
from hpm.optim.schedule import Schedule
from hpm.runtime.devices import choose_precision

PRECISIONS = ("auto", "bf16", "fp32")

Logits = Callable[[Tensor], Tensor]
"""Gives logits [N, classes] of normalized images [N, C, S, S]."""


class TrainedClassifier(NamedTuple):
    """A classifier that was trained.

    Args:
        name: what its metrics are called.
        logits_of: gives its logits.
        settings: what it was trained with, by name.
        encoder: timm's model of the encoder, where it was trained too. Default None.
    """

    name: str
    logits_of: Logits
    settings: Mapping[str, float] = {}
    encoder: nn.Module | None = None


class SupervisedProtocol(Evaluation):
    """Accuracy of a classifier that is trained on all labels, from the student and from its initialization.

    Args:
        schedule: how long and how fast; its `owner` is the evaluation's name.
        crop: augmentation.
        pool: "mean" of the patch tokens, or the class "token".
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16" or "fp32".
        num_workers: processes that load and augment images; 0 for none but this one.
        test_images: at most so many test images, and as many validation images; None for all.
        baselines: whether to train from the random initialization too.

    Attributes:
        prefix: what the metrics' names begin with.
        baseline: what the random initialization is called in them.

    Raises:
        ValueError: naming the setting at fault.
    """

    shared = True
    prefix: ClassVar[str]
    baseline: ClassVar[str]

    def __init__(
        self,
        *,
        schedule: Schedule,
        crop: RandomResizedCrop,
        pool: str,
        precision: str,
        num_workers: int,
        test_images: int | None,
        baselines: bool,
    ) -> None:
        owner = type(self).__name__
        require_positive(owner, blr=schedule.blr)
        require_choice(owner, POOLS, pool=pool)
        require_choice(owner, PRECISIONS, precision=precision)
        require_in(owner, "[0, 1024]", num_workers=num_workers)
        require_at_least(owner, 1, test_images=test_images)
        self.schedule = schedule
        self.crop = crop
        self.pool = pool
        self.precision = precision
        self.num_workers = num_workers
        self.test_images = test_images
        self.baselines = baselines
        self.check_world_size(1)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_labels(self, source)
        require_class_token(type(self).__name__, model.encoder, self.pool)
        super().check(source, model)
        self.schedule.clock(len(source.train()))

    def check_world_size(self, world_size: int) -> None:
        self.schedule.micro_batch_size(world_size)

    @abstractmethod
    def classifiers(self, context: EvaluationContext, precision: str) -> Iterator[TrainedClassifier]:
        """Train classifiers, and leave the models as they are.

        Args:
            context: what is evaluated.
            precision: "bf16" or "fp32".
        """

    def models(self, context: EvaluationContext) -> Iterator[tuple[str, MaskedModel]]:
        """What is judged: the model and, with `baselines`, its initialization."""
        yield "pretrained", context.model
        if self.baselines:
            yield self.baseline, context.initial()

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        metrics: dict[str, float] = {}
        precision = choose_precision(self.precision, context.device)
        for name, logits_of, settings, encoder in self.classifiers(context, precision):
            if encoder is not None:
                keep_encoder(context, f"{self.protocol}-{name}", encoder)
            metrics |= {f"{self.prefix}/{name}/{setting}": value for setting, value in settings.items()}
            for split_name, split in context.held_out.items():
                for which, share in self.accuracies(context, split, logits_of).items():
                    metric = metric_on(split_name, f"{self.prefix}/{name}{which}")
                    metrics[metric] = share
                    context.scored_images[metric] = len(sample_indices(self.test_images, len(split)))
        return metrics

    def accuracies(self, context: EvaluationContext, split: Split, logits_of: Logits) -> dict[str, float]:
        """A classifier's accuracies on a split; see `hpm.evaluation.supervised.accuracies`."""
        indices_M = sample_indices(self.test_images, len(split))
        return accuracies(logits_of, context, split, indices_M, num_workers=self.num_workers)

    def loader(self, context: EvaluationContext, *, patch_size: Size, transform: Any = None) -> AugmentingLoader:
        """The training images.

        Args:
            context: gives them, the seed, the device and the processes that share them.
            patch_size: the model's, in pixels.
            transform: of a Pillow image, see `rand_augment`; None for crops alone.
        """
        return AugmentingLoader(
            source=context.source,
            transform=transform,
            seed=context.seed,
            batch_size=self.schedule.batch_size,
            patch_size=patch_size,
            crop=self.crop,
            num_workers=self.num_workers,
            accumulate=self.schedule.accumulate,
            device=context.device,
            processes=context.processes,
            unreadable=context.unreadable,
        )

    def remedy_for(self, precision: str) -> str:
        """What to change where the loss is not finite; `precision` is the one computed in, "bf16" or "fp32"."""
        owner = type(self).__name__
        in_fp32 = "" if precision == "fp32" else f", or set {owner}.precision = 'fp32'"
        return f"Lower {owner}.blr{in_fp32}."


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes; `precision` is "bf16" or "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
