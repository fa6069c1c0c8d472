"""How often images are shown in an epoch, by their difficulty.

Shape suffixes: I images of the training split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from curriculum.schedulers import Scalar
from curriculum.schedulers.scheduled import Scheduled, values_of
from curriculum.validation import require_in

_LIMIT = 3.0  # standard deviations beyond which an image counts as no harder


class ImageSelection(Scheduled, ABC):
    """Turns the scores of all images into weights: how often each is shown, relative to others.

    Attributes:
        module: what it keeps from epoch to epoch, as buffers; None where it keeps nothing.
        compares_losses: whether scores must be 0 or more and the easiest come first.
    """

    module: nn.Module | None = None
    compares_losses: bool = False

    @abstractmethod
    def weigh(self, scores_I: Tensor) -> Tensor:
        """Weigh all images; called once before each epoch in which some are scored, on a part `at` its progress.

        Args:
            scores_I: float32 [I], the images to be shown first having the lowest; NaN for an image that is not scored.

        Returns:
            Float64 [I], 0 or more and one of them above; an image that is not scored has a weight, so that it becomes
            known.
        """


class ImageShare(ImageSelection):
    """Shows a share of the images, those of the lowest scores, all equally often: curriculum learning by a pacing
    function (Bengio et al. 2009; Wu et al. 2021, arXiv 2012.03107, whose pacing functions are the shapes of `Ramp`).

    Args:
        share: of the images that are scored, in (0, 1]; at least one image is shown. A number or a scheduler.
    """

    def __init__(self, *, share: Scalar) -> None:
        for value in values_of(share):
            require_in("ImageShare", "(0, 1]", share=value)
        self.share = share

    def weigh(self, scores_I: Tensor) -> Tensor:
        assert isinstance(self.share, int | float)
        known_I = ~scores_I.isnan()
        shown = (known_I.sum().double() * self.share).ceil()
        rank_I = scores_I.nan_to_num(torch.inf).argsort(stable=True).argsort(stable=True)
        return ((rank_I < shown) | ~known_I).double()


class ImageWeights(ImageSelection):
    """Shows all images, those of low scores more often: weights exp(-beta * z), z being the standardized score.

    So does the temperature of the prototype curriculum (Lin et al. 2024, arXiv 2411.10685), 1 / beta here: at beta = 0
    every image is shown once. Scores are standardized over the images, and limited to 3 standard deviations, so that
    beta means the same for every difficulty and no single image fills an epoch: at beta = 1 an image two standard
    deviations easier than another is shown 7.4 times as often.

    Args:
        beta: inverse temperature, 0 to 10, a number or a scheduler.
    """

    def __init__(self, *, beta: Scalar) -> None:
        for value in values_of(beta):
            require_in("ImageWeights", "[0, 10]", beta=value)
        self.beta = beta

    def weigh(self, scores_I: Tensor) -> Tensor:
        assert isinstance(self.beta, int | float)
        scores_I = scores_I.double()
        known_I = ~scores_I.isnan()
        mean = scores_I.nanmean()
        deviation = (scores_I - mean).square().nanmean().sqrt()
        z_I = ((scores_I - mean) / deviation.clamp(min=1e-12)).clamp(-_LIMIT, _LIMIT).nan_to_num(0.0)
        weights_I = (-self.beta * z_I).exp()
        average = (weights_I * known_I).sum() / known_I.sum()
        return torch.where(known_I, weights_I, average)


class SelfPaced(ImageSelection):
    """Shows the images whose loss is below a threshold that grows: self-paced learning (Kumar, Packer and Koller 2010).

    The threshold, their 1 / K, first lies where a share of the images is below it, and grows by a factor with each
    epoch, until all images are shown. As published images are in or out; those that are in are shown equally often. At
    least the easiest is shown.

    Args:
        share: of the images that are scored, below the first threshold, in (0, 1]. Default 0.5, as published.
        growth: factor by which the threshold grows with each epoch, above 1. Default 1.3, as published.
    """

    compares_losses = True

    def __init__(self, *, share: float = 0.5, growth: float = 1.3) -> None:
        require_in("SelfPaced", "(0, 1]", share=share)
        if not growth > 1:
            raise ValueError(f"SelfPaced.growth = {growth} must be above 1")
        self.share = float(share)
        self.growth = float(growth)
        self.module = nn.Module()
        self.module.register_buffer("threshold", torch.tensor(torch.nan, dtype=torch.float64))

    def weigh(self, scores_I: Tensor) -> Tensor:
        assert self.module is not None
        scores_I = scores_I.double()
        known_I = ~scores_I.isnan()
        sorted_I = scores_I.nan_to_num(torch.inf).sort().values
        place = (known_I.sum() * self.share).ceil().long().clamp(min=1) - 1
        before: Tensor = self.module.get_buffer("threshold")
        before.copy_(torch.where(before.isnan(), sorted_I[place], before * self.growth))
        return ((scores_I <= before.clamp(min=sorted_I[0])) | ~known_I).double()
