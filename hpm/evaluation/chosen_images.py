"""The images that a frozen probe looks at, and their features, which the context's processes compute together.

Shape suffixes: N images of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from hpm.data import VALIDATION, Split, UnreadableImages
from hpm.evaluation.base import EvaluationContext
from hpm.evaluation.features import extract
from hpm.evaluation.samples import sample_indices
from hpm.models.base import MaskedModel


class ChosenImages(NamedTuple):
    """Images of a split; others stand in for those that cannot be read, where there is a place to note these.

    Args:
        split: of the images.
        indices_N: int64 [N], which of them.
        unreadable: the place; None where each must be readable, as where they are scored.
    """

    split: Split
    indices_N: Tensor
    unreadable: UnreadableImages | None

    def read_indices(self) -> Tensor:
        """Int64 [N], the images that were read, stand-ins among them; once all were."""
        return self.indices_N if self.unreadable is None else self.unreadable.stand_ins(self.indices_N, self.split)


def choose_images(
    context: EvaluationContext, *, train_images: int | None, test_images: int | None, chooses: bool
) -> dict[str, ChosenImages]:
    """The images of "train" and of every held-out split that is scored or chosen by, by the split's name.

    Args:
        context: has them.
        train_images: at most so many training images, the same for every seed; None for all.
        test_images: likewise, of each other split.
        chooses: whether validation images are needed to choose a setting, scored or not.
    """
    splits = {VALIDATION: context.source.validation()} if chooses else {}
    train = context.source.train()
    chosen = {"train": ChosenImages(train, sample_indices(train_images, len(train)), context.unreadable)}
    for name, split in (splits | context.held_out).items():
        chosen[name] = ChosenImages(split, sample_indices(test_images, len(split)), None)
    return chosen


def features_of(
    context: EvaluationContext, model: MaskedModel, images: ChosenImages, *, pool: str, num_workers: int
) -> Tensor:
    """The encoder's features of the images, as evaluation shows them: float32 [N, D] on the CPU.

    Args:
        context: its source and device.
        model: whose encoder it is.
        images: which.
        pool: "mean" of the patch tokens, or the class "token".
        num_workers: processes that load images; 0 for none but this one.
    """
    return extract(
        model.encoder,
        context.source,
        images.split,
        images.indices_N,
        pool=pool,
        device=context.device,
        num_workers=num_workers,
        unreadable=images.unreadable,
    )


def features_of_models(
    context: EvaluationContext,
    chosen: Mapping[str, ChosenImages],
    of_model: Callable[[MaskedModel, ChosenImages], Tensor],
    *,
    initialization: bool,
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Name, and features of each split's chosen images, of the model and of its initialization.

    The context's processes share the work, and the features come together in the main one: the others have nothing to
    judge, and are given nothing.

    Args:
        context: the models and processes.
        chosen: by the splits' names.
        of_model: features of a model, [N, ...] on the CPU; given this process's share of the images.
        initialization: whether to take the random initialization too.
    """
    processes = context.processes
    models = {"pretrained": context.model} | ({"initialization": context.initial()} if initialization else {})
    for name, model in models.items():
        features = {}
        for which, images in chosen.items():
            own = of_model(model, images._replace(indices_N=processes.share(images.indices_N)))
            features[which] = processes.collect(own, len(images.indices_N))
            if images.unreadable is not None:
                for found in processes.gather(images.unreadable.by_index):
                    images.unreadable.add(found, images.split)
        together = {which: of_split for which, of_split in features.items() if of_split is not None}
        if len(together) == len(features):
            yield name, together
