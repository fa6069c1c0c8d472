"""ImageSizes: of which size the training images of each epoch are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from curriculum.schedulers import Scalar, Scheduler, require_time_alone, values_of
from curriculum.sizes import Size, as_size, pair, spell_size
from curriculum.validation import require_instance


class ImageSizes:
    """The size that crops are brought to in each epoch of a run: smaller images at first take less time.

    It changes from epoch to epoch alone, at a progress of (epoch + 1) / epochs, so that a whole epoch is of one shape
    and the last is at a progress of 1.

    Args:
        size: height of the crops in pixels, a number or a scheduler of time; the width is in the proportion of
            `img_size`, and both are rounded to multiples of the patches'. None for `img_size` in every epoch.
        img_size: of the images that the model is made for, in pixels: the largest that there can be.
        patch_size: of its patches, which divide that.
        epochs: of the run.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(self, size: Scalar | None, *, img_size: Size, patch_size: Size, epochs: int) -> None:
        require_instance("Trainer", float | int | Scheduler | None, image_size=size)
        require_time_alone("Trainer.image_size", size)
        self.img_size = img_size
        self._patch_size = patch_size
        self._epochs = epochs
        self._sizes = [img_size]  # of every epoch, or the only one there is
        if isinstance(size, Scheduler):
            for value in values_of(size):
                self._rounded(value)
            self._sizes = [self._rounded(size((epoch + 1) / epochs)) for epoch in range(epochs)]
        elif size is not None:
            self._sizes = [self._rounded(size)]

    def _rounded(self, value: float) -> Size:
        (height, width), patches = pair(self.img_size), pair(self._patch_size)
        rows = columns = 0
        if 0 < value <= height:
            rows, columns = int(value / patches[0] + 0.5), int(value * width / height / patches[1] + 0.5)
        if min(rows, columns) < 1:
            found = value if isinstance(value, int) else f"{value:g}"
            raise ValueError(
                f"Trainer.image_size = {found} must be a number of pixels from {patches[0]}, a patch, to {height}: the "
                f"images and the model are of {spell_size(self.img_size)} pixels"
            )
        return as_size("Trainer", 1, image_size=(rows * patches[0], columns * patches[1]))

    def at(self, epoch: int) -> Size:
        """The size in an epoch, counted from 0; in pixels, the side of a square or (height, width)."""
        return self._sizes[epoch if len(self._sizes) > 1 else 0]

    @property
    def all(self) -> list[Size]:
        """Each size of the run once, in order of time."""
        return list(dict.fromkeys(self._sizes))

    @property
    def largest(self) -> Size:
        """That of the most pixels."""
        return max(self._sizes, key=lambda size: math.prod(pair(size)))

    @property
    def has_others(self) -> bool:
        """Whether any other than the model's own is among them."""
        return any(size != self.img_size for size in self._sizes)

    def epochs_of(self, size: Size) -> Sequence[int]:
        """The epochs in which crops are of a size, in order."""
        if self.all == [size]:
            return range(self._epochs)
        return [epoch for epoch, one in enumerate(self._sizes) if one == size]

    def share(self, size: Size) -> float:
        """The share of the run in which they are."""
        return self._sizes.count(size) / len(self._sizes)

    def describe(self) -> str:
        """The sizes in a few characters, e.g. "112 -> 224"."""
        first, last = self._sizes[0], self._sizes[-1]
        return spell_size(first) if len(self.all) == 1 else f"{spell_size(first)} -> {spell_size(last)}"
