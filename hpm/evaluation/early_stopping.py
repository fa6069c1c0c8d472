"""Early stopping: a training goes on until it has converged, and its best weights are kept.

Shape suffixes: N images, C channels, S side.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Validated more and more rarely, as the accuracy moves more and more slowly.
_GROWTH = 1.25
# A training of few labels may stay at chance for so long.
_LEAST_STEPS = 100
# The exponent of the average: about the last tenth of the steps so far counts.
_EXPONENT = 9


class WeightAverage:
    """An average of a module's weights over about the last tenth of the steps so far, however many these are.

    The power function average of Karras et al. 2024 (arXiv 2312.02696): after step t it moves to the weights by
    `1 - (1 - 1/t)^(exponent + 1)`. With a constant learning rate it stands at every moment for what a falling rate
    would end at: so nobody has to know beforehand how long a training is to be.

    Args:
        module: whose weights are averaged.

    Attributes:
        module: with the average for its weights, in evaluation mode.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = copy.deepcopy(module).eval()
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step; buffers are as they are now."""
        self.steps += 1
        share = 1 - (1 - 1 / self.steps) ** (_EXPONENT + 1)
        own: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(own, list(module.parameters()), share)
        for own_buffer, buffer in zip(self.module.buffers(), module.buffers(), strict=True):
            own_buffer.copy_(buffer)


class EarlyStopping:
    """Ends a training that has converged, and keeps the averaged weights that did best on validation images.

    It has converged when it has gone on for `patience` times as many epochs as it took to its last improvement, or to
    the end of its warm-up, and for 100 steps, without another. An improvement is measured from the accuracy at the last
    one, so that small gains add up to one; the best weights are kept whether or not they are an improvement. The
    accuracy is measured after the first epoch, whenever the epochs have grown by a quarter, and before anything is
    decided.

    Args:
        trained: the module that is trained.
        accuracy_of: of a module in its place, on validation images, in [0, 1].
        patience: see above, positive.
        threshold: the least gain that is an improvement, relative to the accuracy, as in PyTorch's
            `ReduceLROnPlateau`: at 0.01 from 50 to 50.5 %. In [0, 1). Relative, so that a training that begins near
            chance, where gains are small, is not taken for one that has ended.
        warmup_epochs: epochs of warm-up, fractions allowed.
        min_epochs: epochs before which it has not converged.
        budget: epochs that are used up in any case, and whose best weights are kept apart; None for none.

    Attributes:
        best_accuracy: the best so far.
        best_epoch: the epochs after which it was reached.
        epoch_within_budget: likewise, within the budget.
        converged: whether the training may end.
    """

    def __init__(
        self,
        trained: nn.Module,
        accuracy_of: Callable[[nn.Module], float],
        *,
        patience: float,
        threshold: float = 0.0,
        warmup_epochs: float = 0.0,
        min_epochs: int = 0,
        budget: float | None = None,
    ) -> None:
        self._trained = trained
        self._accuracy_of = accuracy_of
        self._patience = patience
        self._threshold = threshold
        self._warmup_epochs = warmup_epochs
        self._min_epochs = min_epochs
        self._budget = None if budget is None else max(1, math.floor(budget))
        self._average = WeightAverage(trained)
        self._next = 1
        self._improved_to = -1.0
        self._improved_epoch = 0
        self._improved_steps = 0
        self._best: dict[str, Tensor] = {}
        self._within_budget: dict[str, Tensor] = {}
        self.best_accuracy = -1.0
        self.best_epoch = 0
        self.epoch_within_budget = 0
        self.converged = False

    def after_step(self) -> None:
        """Take in the weights after an optimizer step."""
        self._average.update(self._trained)

    def after_epoch(self, epochs: int, *, last: bool = False) -> bool:
        """Measure, where it is time.

        Args:
            epochs: done so far.
            last: whether to measure anyway.

        Returns:
            Whether it was measured.
        """
        if epochs < self._next and not last:
            return False
        accuracy = self._accuracy_of(self._average.module)
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best_epoch = accuracy, epochs
            self._best = {name: value.clone() for name, value in self._average.module.state_dict().items()}
        if accuracy > self._improved_to * (1 + self._threshold):
            self._improved_to, self._improved_epoch, self._improved_steps = accuracy, epochs, self._average.steps
        if self._budget is not None and epochs <= self._budget:
            self._within_budget, self.epoch_within_budget = self._best, self.best_epoch
        decides = math.ceil((1 + self._patience) * max(self._improved_epoch, self._warmup_epochs))
        decides = max(decides, self._min_epochs)
        waited_steps = self._average.steps - self._improved_steps
        self.converged = epochs >= max(decides, self._budget or 0) and waited_steps >= _LEAST_STEPS
        looks = [max(epochs + 1, math.ceil(epochs * _GROWTH)), decides, self._budget or 0]
        self._next = min(look for look in looks if look > epochs)
        return True

    def best(self) -> nn.Module:
        """A module with the best weights, in evaluation mode."""
        return self._with(self._best)

    def best_within_budget(self) -> nn.Module | None:
        """A module with the best weights that the budget allows; None where there is no budget."""
        return self._with(self._within_budget) if self._budget is not None else None

    def _with(self, weights: Mapping[str, Tensor]) -> nn.Module:
        module = copy.deepcopy(self._average.module)
        module.load_state_dict(weights)
        return module.eval()

    def state_dict(self) -> dict[str, Any]:
        """What a training needs to go on after a kill: tensors and numbers."""
        return {
            "average": self._average.module.state_dict(),
            "steps": self._average.steps,
            "next": self._next,
            "best_accuracy": self.best_accuracy,
            "best_epoch": self.best_epoch,
            "improved": [self._improved_to, self._improved_epoch, self._improved_steps],
            "best": self._best,
            "epoch_within_budget": self.epoch_within_budget,
            "within_budget": self._within_budget,
            "converged": self.converged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._average.module.load_state_dict(state["average"])
        self._average.steps = state["steps"]
        self._next = state["next"]
        self.best_accuracy = state["best_accuracy"]
        self.best_epoch = state["best_epoch"]
        self._improved_to, self._improved_epoch, self._improved_steps = state["improved"]
        self._best = dict(state["best"])
        self.epoch_within_budget = state["epoch_within_budget"]
        self._within_budget = dict(state["within_budget"])
        self.converged = state["converged"]
