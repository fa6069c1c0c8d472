"""Which parts of a data set are its validation and its test images, by what they are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hpm.data.sources.split import TEST, TRAIN, VALIDATION
from hpm.errors import UserError

_VALIDATION_NAMES = ("validation", "valid", "val")


def split_of_part(name: str) -> str | None:
    """The split that a part's name begins with, as "train2017" and "Val" do; None for another, or "trainval"."""
    name = name.lower()
    if name.startswith("trainval"):
        return None  # of two splits
    for split, names in ((TRAIN, ("train",)), (VALIDATION, _VALIDATION_NAMES), (TEST, ("test",))):
        if name.startswith(names):
            return split
    return None


def usual_roles(parts: Iterable[str], folder: Path) -> dict[str, str]:
    """The part that is each split, by the split's name.

    Where there are both validation and test parts each is what it is called. Where there is only one it is the test
    images, as in what is published, and validation images are carved from the training images.

    Args:
        parts: their names; what is called like no split is left out.
        folder: that has them, for messages.

    Raises:
        UserError: if two parts are of one split.
    """
    named: dict[str, str] = {}
    for part in parts:
        split = split_of_part(part)
        if split is not None and named.setdefault(split, part) != part:
            raise UserError(f"{folder} has two parts of {split} images, {named[split]} and {part}; move one of them")
    if TEST not in named and VALIDATION in named:
        named[TEST] = named.pop(VALIDATION)
    return named
