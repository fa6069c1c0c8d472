"""ImageCurriculum: which images an epoch shows, and how often.

Shape suffixes: N images of a batch, I images of the training split, M masked patches.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from curriculum.batch import Batch
from curriculum.checks import POLARITIES
from curriculum.difficulty.base import TrainingContext
from curriculum.images.base import ImageDifficulty
from curriculum.images.selection import ImageSelection
from curriculum.processes import last_rows, rows_of_all
from curriculum.schedulers.scheduled import Scheduled
from curriculum.validation import require_choice, require_instance

_POLARITIES = tuple(reversed(POLARITIES))


class ImageCurriculum(Scheduled):
    """Decides which images an epoch shows: a difficulty of images, and a selection that turns it into weights.

    An epoch stays as long as it is without: as many steps of as many images, of which some are shown several times, at
    other crops, and others not. So learning rate, alpha and compute are those of a run without. Weights are decided
    before an epoch, from what is known then, and lie in the checkpoint: a resumed run draws the same images, and so do
    several processes. Until an image is scored, all are shown once.

    Args:
        difficulty: scores images, higher = harder.
        selection: scores -> weights.
        polarity: the images that are shown first or more often: "easiest", the default, or "hardest".

    Attributes:
        module: buffers `scores`, float32 [I], NaN where nothing is known; `weights`, float64 [I], of the present epoch;
            `shown`, int32 [I], how often each was trained on; and what the selection keeps. From `prepare` on.
    """

    module: nn.Module

    def __init__(self, *, difficulty: ImageDifficulty, selection: ImageSelection, polarity: str = "easiest") -> None:
        require_instance("ImageCurriculum", ImageDifficulty, difficulty=difficulty)
        require_instance("ImageCurriculum", ImageSelection, selection=selection)
        require_choice("ImageCurriculum", _POLARITIES, polarity=polarity)
        if selection.compares_losses and (polarity == "hardest" or not difficulty.never_negative):
            given = f"{type(difficulty).__name__} with ImageCurriculum.polarity = {polarity!r}"
            raise ValueError(
                f"ImageCurriculum.selection = {type(selection).__name__} compares scores of 0 or more with a growing "
                f"threshold, and cannot follow {given}; use ImageLoss or PrototypeDistance, the easiest first"
            )
        self.difficulty = difficulty
        self.selection = selection
        self.polarity = polarity
        self._masks_per_image = 1

    def component_names(self) -> list[str]:
        """Return the class names of its parts, and "hardest" where that is the polarity."""
        names = [type(self.difficulty).__name__, type(self.selection).__name__]
        return names if self.polarity == "easiest" else [*names, self.polarity]

    @staticmethod
    def bytes_for(num_images: int) -> int:
        """Return how much memory the buffers of I images take, and as much of every checkpoint."""
        return num_images * (4 + 8 + 4)

    def prepare(self, context: TrainingContext) -> None:
        """Make what is kept; called once, before training starts or is resumed.

        Raises:
            ValueError: where so many images cannot be scored.
        """
        self.difficulty.check(context.num_images)
        self._masks_per_image = context.masks_per_image
        self.allocate(context.num_images, context.device)

    def allocate(self, num_images: int, device: torch.device) -> None:
        """Make room for what is kept of so many images, of which nothing is known yet."""
        self.selection.forget()
        self.module = nn.Module()
        self.module.register_buffer("scores", torch.full((num_images,), torch.nan))
        self.module.register_buffer("weights", torch.ones(num_images, dtype=torch.float64))
        self.module.register_buffer("shown", torch.zeros(num_images, dtype=torch.int32))
        if self.selection.module is not None:
            self.module.add_module("selection", self.selection.module)
        self.module.to(device)

    @property
    def scores(self) -> Tensor:
        """Float32 [I]: what is known of each image, higher = harder; NaN for nothing."""
        return self.module.get_buffer("scores")

    @property
    def weights(self) -> Tensor:
        """Float64 [I]: how often the present epoch shows each image, relative to others."""
        return self.module.get_buffer("weights")

    @property
    def shown(self) -> Tensor:
        """Int32 [I]: how often each image was trained on, an image counting once for all its masks."""
        return self.module.get_buffer("shown")

    def start_epoch(self, progress: float, measured_I: Tensor | None = None) -> None:
        """Decide the weights of an epoch; called once before it, by every process with the same.

        Args:
            progress: at the epoch's end, in (0, 1].
            measured_I: float32 [I], the scores of a pass before this epoch; None where there was none.
        """
        if measured_I is not None:
            self.scores.copy_(measured_I)
        if bool(self.scores.isnan().all()):
            return
        priority_I = self.scores if self.polarity == "easiest" else -self.scores
        self.weights.copy_(self.selection.at(progress).weigh(priority_I))

    @torch.no_grad()
    def remember(self, batch: Batch, true_NM: Tensor) -> None:
        """Count the images of a batch that was trained on, and keep their losses where the difficulty remembers.

        Every process must call this, with as many images. A loss that is not finite is left out.

        Args:
            batch: the rows, `TrainingContext.masks_per_image` for each image, one after the other.
            true_NM: the reconstruction loss of each masked patch.
        """
        assert batch.indices is not None
        indices_N = rows_of_all(batch.indices[:: self._masks_per_image].contiguous())
        self.shown.index_add_(0, indices_N, torch.ones_like(indices_N, dtype=torch.int32))
        if not self.difficulty.remembers:
            return
        loss_N = rows_of_all(true_NM.float().mean(dim=1).view(-1, self._masks_per_image).mean(dim=1))
        old_N, momentum = self.scores[indices_N], self.difficulty.momentum
        mean_N = torch.where(old_N.isnan(), loss_N, momentum * old_N + (1 - momentum) * loss_N)
        kept_N = torch.where(loss_N.isfinite(), mean_N, old_N)
        self.scores.index_copy_(0, indices_N, kept_N[last_rows(indices_N)])
