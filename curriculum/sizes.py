"""Sizes of images and of patches: one number of pixels for a square, else (height, width).

What holds a size keeps the side of a square as one number, so that equal sizes are equal values and code that knows
squares alone goes on as it is. What computes with one takes `pair` of it.
"""

from __future__ import annotations

Size = int | tuple[int, int]


def pair(size: Size) -> tuple[int, int]:
    """Return (height, width)."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def as_size(owner: str, minimum: int, **setting: Size) -> Size:
    """Return a setting's size as it is kept: a square by its side alone.

    Args:
        owner: the part that the setting belongs to, as a config writes it.
        minimum: the smallest height and width that pass.
        **setting: the size, by the name of the setting.

    Raises:
        ValueError: if it is no size, or too small; it names the setting.
    """
    ((name, size),) = setting.items()
    sides = (size,) if isinstance(size, int) else tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != (1 if isinstance(size, int) else 2) or not all(type(side) is int for side in sides):
        raise ValueError(f"{owner}.{name} = {size!r} must be a number of pixels, or two: (height, width)")
    if min(sides) < minimum:
        raise ValueError(f"{owner}.{name} = {size} must be at least {minimum}")
    return sides[0] if sides[0] == sides[-1] else (sides[0], sides[-1])


def divides(patch_size: Size, size: Size) -> bool:
    """Say whether patches of a size, each of them at least one pixel, fill an image of another."""
    return all(patch >= 1 and side % patch == 0 for patch, side in zip(pair(patch_size), pair(size), strict=True))


def spell_size(size: Size) -> str:
    """Return a size as a sentence has it: "64", or "64 x 96" for height and width."""
    return str(size) if isinstance(size, int) else f"{size[0]} x {size[1]}"
