"""What semi-supervised training computes for a batch, and the metrics that are made of it.

Shape suffix: N images.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

MEASURED = 5
"""Numbers that `SupervisionLosses.measured` gives."""


@dataclass(frozen=True)
class PseudoLabels:
    """What the teacher's classifier says of the full images of a batch.

    Args:
        classes_N: int64, the likeliest class.
        surprise_N: minus the logarithm of its probability, float32.
        predicted_N: mean predicted loss of the patches; None where it was not asked.
    """

    classes_N: Tensor
    surprise_N: Tensor
    predicted_N: Tensor | None


@dataclass(frozen=True)
class SupervisionLosses:
    """What labels and pseudo-labels teach in a micro-batch, on the device.

    Args:
        total: what is minimized beside the other losses; carries the gradient.
        supervised: cross-entropy of the labeled images, without its weight.
        pseudo: of the images whose pseudo-labels are taken, likewise.
        unlabeled: share of the batch's images that are not labeled.
        taken: share whose pseudo-labels are taken.
        right: share whose pseudo-labels are taken and right.
    """

    total: Tensor
    supervised: Tensor
    pseudo: Tensor
    unlabeled: Tensor
    taken: Tensor
    right: Tensor

    def detach(self) -> SupervisionLosses:
        """The same without the graph behind them."""
        return SupervisionLosses(*(getattr(self, field.name).detach() for field in fields(self)))

    def measured(self) -> Tensor:
        """Float32 [5]: all but the total, in their order; see `training_metrics`."""
        return torch.stack([getattr(self, field.name).detach().float() for field in fields(self)[1:]])


def training_metrics(measured_5: list[float], *, pseudo: bool) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of an interval, from the mean of what its steps measured.

    Args:
        measured_5: as `SupervisionLosses.measured` gives it.
        pseudo: whether there are pseudo-labels.

    Returns:
        What schedulers can be told: "supervised_loss", "pseudo_label_loss" and "pseudo_labels_taken", a share of the
        images without a label; and what hidden labels say, of which nobody learns: "pseudo_label_accuracy", the share
        of the taken pseudo-labels that are right, where any was taken.
    """
    supervised, loss, unlabeled, taken, right = measured_5
    told = {"supervised_loss": supervised}
    if not pseudo:
        return told, {}
    told |= {"pseudo_label_loss": loss, "pseudo_labels_taken": taken / unlabeled if unlabeled else 0.0}
    return told, {"pseudo_label_accuracy": right / taken} if taken else {}
