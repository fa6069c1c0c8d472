"""What fine-tuning on all labels and linear probing by training have in common as evaluations.

Shape suffixes: N images of a micro-batch, C channels, S side.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from curriculum.validation import require_at_least, require_choice, require_positive
from hpm.data import ImageSource, RandomResizedCrop
from hpm.evaluation.augmentation import AugmentingLoader
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.features import POOLS, require_class_token
from hpm.evaluation.metrics import Metric, Unit
from hpm.evaluation.samples import require_labels, sample_indices
from hpm.evaluation.supervised import accuracies
from hpm.models.base import MaskedModel
from hpm.optim.schedule import Schedule
from hpm.runtime.devices import choose_precision

PRECISIONS = ("auto", "bf16", "fp32")


def supervised_metrics(prefix: str, baseline: str) -> tuple[Metric, ...]:
    """The accuracies that a `SupervisedProtocol` gives.

    Args:
        prefix: what their names begin with.
        baseline: what the random initialization's are called.
    """
    return tuple(
        Metric(f"{prefix}/{name}{top}", Unit.ACCURACY) for name in ("pretrained", baseline) for top in ("", "_top5")
    )


class SupervisedProtocol(Evaluation):
    """Test accuracy of a classifier that is trained on all labels, from the student and from its initialization.

    Args:
        schedule: how long and how fast; its `owner` is the evaluation's name.
        crop: augmentation.
        pool: "mean" of the patch tokens, or the class "token".
        precision: "auto" is bf16 where a CUDA device has it, else fp32; "bf16" or "fp32".
        num_workers: processes that load and augment images; 0 for none but this one.
        test_images: at most so many; None for all.
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
        require_at_least(owner, 0, num_workers=num_workers)
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
    def train_classifier(
        self, context: EvaluationContext, model: MaskedModel, *, name: str, precision: str
    ) -> Callable[[Tensor], Tensor]:
        """Train a classifier and leave the model as it is.

        Args:
            context: what is evaluated.
            model: from whose weights to start.
            name: of this training, for what is saved and reported.
            precision: "bf16" or "fp32".

        Returns:
            The classifier: logits [N, classes] of normalized images [N, C, S, S].
        """

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        precision = choose_precision(self.precision, context.device)
        test_M = sample_indices(self.test_images, len(context.source.test()))
        models = {"pretrained": context.model} | ({self.baseline: context.initial()} if self.baselines else {})
        metrics: dict[str, float] = {}
        for name, model in models.items():
            logits_of = self.train_classifier(context, model, name=f"{self.protocol}-{name}", precision=precision)
            shares = accuracies(logits_of, context, test_M, num_workers=self.num_workers)
            own = {f"{self.prefix}/{name}{which}": share for which, share in shares.items()}
            metrics |= own
            context.scored_images.update(dict.fromkeys(own, len(test_M)))
        return metrics

    def loader(self, context: EvaluationContext, *, patch_size: int, transform: Any = None) -> AugmentingLoader:
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
        )

    @property
    def remedy(self) -> str:
        """What to change where the loss is not finite."""
        owner = type(self).__name__
        return f"Lower {owner}.blr, or set {owner}.precision = 'fp32'."


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes; `precision` is "bf16" or "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
