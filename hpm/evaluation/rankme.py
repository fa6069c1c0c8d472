"""RankMe: how many directions the features fill, without labels.

Shape suffixes: N images, D width.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from curriculum.validation import require_choice, require_in
from hpm.data import ImageSource
from hpm.errors import Notice
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.features import POOLS, extract, require_class_token
from hpm.evaluation.samples import sample_indices
from hpm.metrics import DECLARED
from hpm.models.base import MaskedModel

_SMALLEST = 1e-7  # added to every share, as in the paper


def effective_rank(features_ND: Tensor) -> float:
    """The exponential of the entropy of the singular values' shares (Garrido et al. 2023, arXiv 2210.02885, eq. 1).

    Args:
        features_ND: features, not all of them 0.

    Returns:
        1 where all lie on a line through 0, min(N, D) where they fill all directions alike.
    """
    values = torch.linalg.svdvals(features_ND.double())
    shares = values / values.sum() + _SMALLEST
    return float((-(shares * shares.log()).sum()).exp())


def warn_of_few_images(owner: str, bound: int, width: int) -> None:
    """Say that so few images bound a rank, where features are wider.

    Args:
        owner: the evaluation.
        bound: the highest rank that features of so many images can have.
        width: of the features.
    """
    if bound < width:
        text = f"{owner}: so few training images bound the rank by {bound}, and features are {width} wide"
        warnings.warn(text, Notice, stacklevel=2)


class RankMe(Evaluation):
    """The effective rank of the student's features of un-augmented training images: a curve that needs no labels.

    Published as a criterion for choosing among trainings of one method; a rank says nothing of features of another
    width, and a higher one need not be better between methods. The paper takes 25,600 images.

    Metrics: `rankme/pretrained` and, with `baselines`, `rankme/initialization`.

    Args:
        images: training images, at most, the same for every seed. Default 2048.
        pool: "mean" of the patch tokens, or the class "token". Default "mean".
        baselines: whether to measure the random initialization too. Default False.
        num_workers: processes that load images; 0 for none but this one. Default 0.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "rankme"
    metrics = DECLARED[protocol]
    seeded = False
    shared = True
    of_training_images = True
    scores_training_images = True

    def __init__(
        self, *, images: int = 2048, pool: str = "mean", baselines: bool = False, num_workers: int = 0
    ) -> None:
        require_in("RankMe", "[2, 1000000]", images=images)
        require_in("RankMe", "[0, 1024]", num_workers=num_workers)
        require_choice("RankMe", POOLS, pool=pool)
        self.images = images
        self.pool = pool
        self.baselines = baselines
        self.num_workers = num_workers

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_class_token("RankMe", model.encoder, self.pool)
        super().check(source, model)
        warn_of_few_images("RankMe", min(self.images, len(source.train())), model.encoder.num_features)

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        train = context.source.train()
        indices_N = sample_indices(self.images, len(train))
        models = {"pretrained": context.model} | ({"initialization": context.initial()} if self.baselines else {})
        metrics: dict[str, float] = {}
        for name, model in models.items():
            own_ND = extract(
                model.encoder,
                context.source,
                train,
                context.processes.share(indices_N),
                pool=self.pool,
                device=context.device,
                num_workers=self.num_workers,
                unreadable=context.unreadable,
            )
            features_ND = context.processes.collect(own_ND, len(indices_N))
            for found in context.processes.gather(context.unreadable.by_index):
                context.unreadable.add(found, train)
            if features_ND is not None:
                metrics[f"rankme/{name}"] = effective_rank(features_ND)
        return metrics
