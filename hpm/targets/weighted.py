"""Several targets at once.

Shape suffixes: N images, C channels, H and W pixels, M masked, P values of a patch, over all targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from curriculum import Mask, Scheduler
from curriculum.schedulers import Scalar, require_time_alone, values_of
from curriculum.sizes import Size
from curriculum.validation import require_instance
from hpm.models.base import MaskedModel
from hpm.targets.base import Target, TargetTeacher


class WeightedTargets(Target):
    """Several targets, each with a weight that may move: pixels and momentum features as in BootMAE (arXiv 2207.07116).

    The head gives the values of all, one target after the other, and a patch's loss is the weighted sum of theirs. The
    model `BootMAE` has a decoder for each of two.

    Args:
        targets: at least two.
        weights: as many, numbers or schedulers, at least 0; published for BootMAE: 1, and a ramp from 0 to 1 over the
            first quarter of the training.
    """

    def __init__(self, *, targets: Sequence[Target], weights: Sequence[Scalar]) -> None:
        if len(targets) < 2 or len(weights) != len(targets):
            raise ValueError(
                f"WeightedTargets.targets and WeightedTargets.weights must be two or more and as many: got "
                f"{len(targets)} and {len(weights)}"
            )
        for place, (target, weight) in enumerate(zip(targets, weights, strict=True)):
            require_instance("WeightedTargets", Target, **{f"targets[{place}]": target})
            if target.stateful:
                raise ValueError(
                    f"WeightedTargets.targets[{place}] = {type(target).__name__} keeps what it learns from step to "
                    "step; it can be Method.target itself alone"
                )
            require_time_alone(f"WeightedTargets.weights[{place}]", weight)
            if min(values_of(weight)) < 0:
                raise ValueError(f"WeightedTargets.weights[{place}] must not be negative")
        if max(max(values_of(weight)) for weight in weights) <= 0:
            raise ValueError("WeightedTargets.weights are all 0, so that nothing would be learned; let one be positive")
        self.targets = tuple(targets)
        self.weights = tuple(weights)
        self.needs = tuple(dict.fromkeys(need for target in targets for need in target.needs))
        self.whole_image = any(target.whole_image for target in targets)
        self.fewest_masked = max(target.fewest_masked for target in targets)
        self._sizes: tuple[int, ...] = ()
        self._now = torch.ones(len(targets))
        self.advance(1.0)  # what a finished model is judged by

    @property
    def kind(self) -> str:
        return f"{type(self).__name__} of {' and '.join(target.kind for target in self.targets)}"

    def outputs(self, model: MaskedModel) -> int:
        return sum(self.parts(model))

    def parts(self, model: MaskedModel) -> tuple[int, ...]:
        self._sizes = tuple(target.outputs(model) for target in self.targets)
        return self._sizes

    def __call__(
        self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: TargetTeacher | None = None
    ) -> Tensor:
        values = [target(images_NCHW, mask, patch_size, teacher) for target in self.targets]
        dtype = torch.promote_types(torch.float32, values[0].dtype)
        if self.whole_image:  # zeros in the places of patches that only other targets look at
            most = max(value.shape[1] for value in values)
            values = [F.pad(value, (0, 0, 0, most - value.shape[1])) for value in values]
        return torch.cat([value.to(dtype) for value in values], dim=-1)

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        losses = [
            target.loss(prediction, value) for target, prediction, value in self._parts(prediction_NMP, target_NMP)
        ]
        return (torch.stack(losses, dim=-1) * self._now.to(losses[0].dtype)).sum(dim=-1)

    def similarities(self, prediction_NMP: Tensor, target_NMP: Tensor, mask: Mask) -> Tensor | None:
        """Of the first target that compares patches."""
        for target, prediction, value in self._parts(prediction_NMP, target_NMP):
            similarity_NML = target.similarities(prediction, value, mask)
            if similarity_NML is not None:
                return similarity_NML
        return None

    def _parts(self, prediction_NMP: Tensor, target_NMP: Tensor) -> list[tuple[Target, Tensor, Tensor]]:
        """Each target, with its prediction and its values: those of all patches where it asks for them."""
        masked = prediction_NMP.shape[1]
        predictions, values = prediction_NMP.split(self._sizes, -1), target_NMP.split(self._sizes, -1)
        return [
            (target, prediction, value if target.whole_image else value[:, :masked])
            for target, prediction, value in zip(self.targets, predictions, values, strict=True)
        ]

    def restore(self, prediction_NMP: Tensor, images_NCHW: Tensor, mask: Mask, patch_size: Size) -> Tensor | None:
        """By the first target that shows anything."""
        for target, prediction in zip(self.targets, prediction_NMP.split(self._sizes, -1), strict=True):
            pixels = target.restore(prediction, images_NCHW, mask, patch_size)
            if pixels is not None:
                return pixels
        return None

    @property
    def num_parameters(self) -> int:
        return sum(target.num_parameters for target in self.targets)

    def load(self) -> None:
        for target in self.targets:
            target.load()

    def frozen_weights(self) -> Mapping[str, Tensor]:
        return {
            f"{place}.{name}": value
            for place, target in enumerate(self.targets)
            for name, value in target.frozen_weights().items()
        }

    def prepare(
        self,
        device: torch.device,
        *,
        autocast: torch.dtype | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        self._now = self._now.to(device)
        for target in self.targets:
            target.prepare(device, autocast=autocast, mean=mean, std=std)

    def advance(self, progress: float) -> None:
        # Changed in place: a compiled graph reads it as data.
        for place, weight in enumerate(self.weights):
            self._now[place] = weight(progress) if isinstance(weight, Scheduler) else weight
        for target in self.targets:
            target.advance(progress)
