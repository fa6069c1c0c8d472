"""Training images that cannot be read: which they are, how many there may be, and which others stand in for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice

import torch
from torch import Tensor

from curriculum.validation import require_in
from hpm.data.sources.split import Split
from hpm.errors import TrainingError

_NAMED = 3  # unreadable images that an error message names


def stand_ins(indices_N: Tensor, unreadable: Collection[int], size: int) -> Tensor:
    """The images themselves, or in the place of each that is unreadable the next of the split that is not.

    Args:
        indices_N: int64 [N].
        unreadable: indices of unreadable images.
        size: of the split.
    """
    if not unreadable:
        return indices_N
    indices = indices_N.tolist()
    for n, index in enumerate(indices):
        while index in unreadable:
            index = (index + 1) % size
        indices[n] = index
    return torch.tensor(indices, dtype=torch.int64)


class UnreadableImages:
    """The unreadable training images that this process has met so far.

    Args:
        share: of the training images, how many may be unreadable: `Loading.max_unreadable`. Default 0.01.

    Attributes:
        by_index: why each cannot be read, by its place in the training split.
        by_name: likewise, by its name.

    Raises:
        ValueError: if it is no share.
    """

    def __init__(self, share: float = 0.01) -> None:
        require_in("Loading", "[0, 1)", max_unreadable=share)
        self.share = share
        self.by_index: dict[int, str] = {}
        self.by_name: dict[str, str] = {}

    def limit(self, train: Split) -> int:
        """How many there may be."""
        return int(self.share * len(train))

    def stand_ins(self, indices_N: Tensor, train: Split) -> Tensor:
        """The images that are read where those at some indices are asked for."""
        return stand_ins(indices_N, self.by_index, len(train))

    def add(self, found: Mapping[int, str], train: Split) -> None:
        """Note more of them.

        Args:
            found: why each cannot be read, by its place in the split.
            train: the training split.

        Raises:
            TrainingError: if they are too many.
        """
        if found:
            self.by_index |= found
            self.by_name |= {train.name(index): reason for index, reason in found.items()}
            self.require_few(train)

    def require_few(self, train: Split) -> None:
        """End the work where too many images cannot be read.

        Raises:
            TrainingError: naming some of them.
        """
        count, limit = len(self.by_index), self.limit(train)
        if count <= limit:
            return
        names = [f"{name} ({reason})" for name, reason in islice(self.by_name.items(), _NAMED)]
        more = f" and {count - len(names)} more" if count > len(names) else ""
        raise TrainingError(
            f"{count} of {len(train)} training images cannot be read, where Loading.max_unreadable = "
            f"{self.share} allows {limit}: {', '.join(names)}{more}. Fix or remove them (a run that has "
            "begun then goes on by --resume --other-images; one whose curriculum remembers its images needs all of "
            "them again), or raise Loading.max_unreadable"
        )
