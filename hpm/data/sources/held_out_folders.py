"""Which parts of a data set are its validation and its test images, by what they are called."""

from __future__ import annotations

from collections.abc import Iterable

from hpm.data.sources.split import TEST, TRAIN, VALIDATION

_VALIDATION_NAMES = ("validation", "valid", "val")


def split_of_part(name: str) -> str | None:
    """The split that a part's name begins with, as "train2017" and "Val" do; None for any other name."""
    name = name.lower()
    for split, names in ((TRAIN, ("train",)), (VALIDATION, _VALIDATION_NAMES), (TEST, ("test",))):
        if name.startswith(names):
            return split
    return None


def usual_roles(parts: Iterable[str]) -> dict[str, str]:
    """The part that is each split, by the split's name.

    Where there are both validation and test parts each is what it is called. Where there is only one it is the test
    images, as in what is published, and validation images are carved from the training images.

    Args:
        parts: names of which each is of one split.
    """
    named = {split: part for part in parts if (split := split_of_part(part)) is not None}
    if TEST not in named and VALIDATION in named:
        named[TEST] = named.pop(VALIDATION)
    return named
