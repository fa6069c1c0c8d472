"""The interface of a target.

Shape suffixes: N images, C channels, H and W pixels, L patches, M masked, P values of a patch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from curriculum import Mask, Teacher
from curriculum.sizes import Size
from hpm.models.base import MaskedModel
from hpm.models.heads import Head
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.precision import full_precision


class TargetTeacher(Teacher, Protocol):
    """A moving average, which a target may also ask what its head says."""

    def head_outputs(self, images_NCHW: Tensor) -> Tensor:
        """[N, L, P]: what the reconstruction's head makes of the encoder's patch tokens of the full image."""


class Target(ABC):
    """What the reconstruction is asked for, and what an error in it costs.

    Attributes:
        needs: the methods of `TargetTeacher` that it calls. One that needs any is refused where there is no
            moving average: a student that learns from itself alone may agree on nothing.
        in_pass: whether training computes it inside the student's pass, which may be compiled; False by default. Only
            for a target that needs nothing, keeps nothing between calls, and looks at no more than the images and at
            `mask.visible` and `mask.masked`.
        whole_image: whether it gives the targets of all patches, the masked ones first, for a loss that compares each
            masked patch with the others. Default False.
        fewest_masked: how many patches of an image must be reconstructed, that its loss can teach anything. Default 1.
        stateful: whether it keeps tensors from step to step, which it learns from all images of a step at once. One
            that does is `Method.target` itself, no part of another, and a process takes its share of a step as a whole.
        needs_one_grid: whether what it keeps is of each place of the grid of patches, so that images cannot be of
            several sizes. Default False.
        trained: whether a network of its own is trained beside the student.
        head: makes what gives P outputs for a token, called with the token's width and P; a linear layer by default.
        module: what it keeps, as parameters and buffers, from `outputs` on: what a checkpoint has to hold.
    """

    needs: tuple[str, ...] = ()
    in_pass: bool = False
    whole_image: bool = False
    fewest_masked: int = 1
    stateful: bool = False
    needs_one_grid: bool = False
    trained: bool = False
    head: Callable[[int, int], Head] = nn.Linear
    module: nn.Module | None = None

    def __init_subclass__(cls, **named: object) -> None:
        """A class that computes in a way of its own is in the pass only if it says so itself."""
        super().__init_subclass__(**named)
        if "in_pass" not in cls.__dict__ and {"__call__", "advance"} & cls.__dict__.keys():
            cls.in_pass = False

    @property
    def kind(self) -> str:
        """What kind of values the model's head gives: targets of one kind can go on from each other's heads."""
        return type(self).__name__

    @abstractmethod
    def __call__(
        self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: TargetTeacher | None = None
    ) -> Tensor:
        """[N, M, P]: the target of each masked patch, without a gradient; [N, L, P] where `whole_image`.

        It changes nothing that is kept and asks no other process, so that evaluations may ask about any images.

        Args:
            images_NCHW: images as the model sees them.
            mask: which patches are masked.
            patch_size: of a patch in pixels, the side of a square or (height, width).
            teacher: the moving average; None only where `needs` is empty.
        """

    def learn(
        self, images_NCHW: Tensor, mask: Mask, patch_size: Size, teacher: TargetTeacher, processes: DistributedContext
    ) -> Tensor:
        """The same of images that are trained on, by every process once for each micro-batch.

        What is kept may change. Parameters of a network that is `trained` are given their gradient, that of the mean
        over this process's images.

        Args:
            images_NCHW: images as the model sees them.
            mask: which patches are masked.
            patch_size: of a patch in pixels, the side of a square or (height, width).
            teacher: the moving average, or the student itself where there is none.
            processes: that train together, each of which has as many images.
        """
        return self(images_NCHW, mask, patch_size, teacher)

    def outputs(self, model: MaskedModel) -> int:
        """P, which the model's head must give; the pixels of a patch by default.

        Raises:
            ValueError: where this target does not fit the model.
        """
        return model.patch_pixels

    def parts(self, model: MaskedModel) -> tuple[int, ...]:
        """The outputs by what they are values of: of a target that is made of several, those of each.

        Raises:
            ValueError: where this target does not fit the model.
        """
        return (self.outputs(model),)

    def loss(self, prediction_NMP: Tensor, target_NMP: Tensor) -> Tensor:
        """[N, M]: the loss of each masked patch, the mean squared error over its values, in float32 or better."""
        return (full_precision(prediction_NMP) - full_precision(target_NMP)).square().mean(dim=-1)

    def similarities(self, prediction_NMP: Tensor, target_NMP: Tensor, mask: Mask) -> Tensor | None:
        """[N, M, L]: how like the target of each patch the prediction of each masked one is, NaN where `loss` does not
        compare them.

        None where the loss compares no patch with another: the default.
        """
        return None

    def restore(self, prediction_NMP: Tensor, images_NCHW: Tensor, mask: Mask, patch_size: Size) -> Tensor | None:
        """[N, M, pixels of a patch]: the prediction as pixels of the (data-normalized) image, to look at.

        None where it shows nothing, as features do: the default.
        """
        return None

    @property
    def num_parameters(self) -> int:
        """Of a network of its own, which lies beside the student; 0 where it has none."""
        return 0

    def kept_values(self, num_patches: int) -> int:
        """Values that a step keeps of one image of L patches beside the target itself, in float32; 0 by default."""
        return 0

    def init_weights(self, seed: int) -> None:  # noqa: B027, most keep nothing
        """Initialize the network that is `trained` from the run's seed."""

    def optimizer(self, lr: float) -> torch.optim.AdamW:
        """Of the network that is `trained`, fused; groups with `lr_scale` follow the student's learning rate.

        Args:
            lr: the student's at its peak.
        """
        raise NotImplementedError

    def load(self) -> None:  # noqa: B027, most have nothing to read
        """Read what it needs from disk or a hub; before training creates anything.

        Raises:
            UserError: where that cannot be had, or does not fit.
        """

    def frozen_weights(self) -> Mapping[str, Tensor]:
        """Weights that it has loaded and that no checkpoint holds, by name; none by default."""
        return {}

    def prepare(  # noqa: B027, nor anything to move
        self,
        device: torch.device,
        *,
        autocast: torch.dtype | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Move to the device.

        Args:
            device: where the images will be.
            autocast: what a network of its own may compute in; None for float32.
            mean: which the data subtract from each channel; None where that is not known.
            std: by which they divide.
        """

    def advance(self, progress: float) -> None:  # noqa: B027, nor anything that moves
        """Training has come to `progress`, in [0, 1]; called before each step."""
