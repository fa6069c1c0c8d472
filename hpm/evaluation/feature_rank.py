"""What effective ranks of features have in common as evaluations: training images, and no labels.

Shape suffixes: N images.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from curriculum.validation import require_choice, require_in
from hpm.data import ImageSource
from hpm.errors import Notice
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.chosen_images import ChosenImages, features_of_models
from hpm.evaluation.features import POOLS, require_class_token
from hpm.evaluation.samples import sample_indices
from hpm.models.base import MaskedModel

_SMALLEST = 1e-7  # added to every share, as in the papers


def effective_number(values: Tensor) -> float:
    """The exponential of the entropy of the values' shares: how many there would be if all were alike.

    Args:
        values: not negative, and not all of them 0.
    """
    shares = values / values.sum() + _SMALLEST
    return float((-(shares * shares.log()).sum()).exp())


class FeatureRank(Evaluation):
    """The effective rank of features of un-augmented training images, the same for every seed.

    Metrics: `PROTOCOL/pretrained` and, with `baselines`, `PROTOCOL/initialization`.

    Args:
        images: training images, at most.
        pool: "mean" of the patch tokens, or the class "token".
        baselines: whether to measure the random initialization too.
        num_workers: processes that load images; 0 for none but this one.

    Raises:
        ValueError: naming the setting at fault.
    """

    seeded = False
    shared = True
    of_training_images = True
    scores_training_images = True
    centered: ClassVar[bool] = False
    """Whether the mean is taken off, so that N images have a rank of N - 1 at most."""

    def __init__(self, *, images: int, pool: str, baselines: bool, num_workers: int) -> None:
        owner = type(self).__name__
        require_in(owner, "[2, 1000000]", images=images)
        require_in(owner, "[0, 1024]", num_workers=num_workers)
        require_choice(owner, POOLS, pool=pool)
        self.images = images
        self.pool = pool
        self.baselines = baselines
        self.num_workers = num_workers

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        owner, width = type(self).__name__, model.encoder.num_features
        require_class_token(owner, model.encoder, self.pool)
        super().check(source, model)
        bound = min(self.images, len(source.train())) - self.centered
        if bound < width:
            text = f"{owner}: so few training images bound the rank by {bound}, and features are {width} wide"
            warnings.warn(text, Notice, stacklevel=2)

    @abstractmethod
    def features(self, context: EvaluationContext, model: MaskedModel, images: ChosenImages) -> Tensor:
        """Features of a model, [N, ...] on the CPU."""

    @abstractmethod
    def rank(self, features: Tensor) -> float:
        """Of the features of all images."""

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        train = context.source.train()
        chosen = {"train": ChosenImages(train, sample_indices(self.images, len(train)), context.unreadable)}
        found = features_of_models(
            context, chosen, lambda model, images: self.features(context, model, images), initialization=self.baselines
        )
        return {f"{self.protocol}/{name}": self.rank(features["train"]) for name, features in found}
