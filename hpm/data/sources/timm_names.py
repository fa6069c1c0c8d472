"""Names of splits that mean the same images to `timm.data`."""

from __future__ import annotations

from pathlib import Path

from hpm.data.sources.timm_files import SYNONYMS, find_split

# torchvision's data sets that have two splits: to timm, every name but the training split's is the other one.
_OF_TWO = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")

# What timm makes of synonyms for iNaturalist and Places365.
_TRANSLATED = {"2021_train": "train", "train-standard": "train", "2021_valid": "val"}


def same_images(name: str, root: Path | None, one: str, other: str) -> bool:
    """Whether two splits are the same images, or one is a part of the other: "train[:50%]" of "train".

    Args:
        name: timm's name for the data set, as `TimmDataset` takes it; "" for files.
        root: folder of the files; their splits are compared by their paths, as far as they are there.
        one: name of a split.
        other: likewise.
    """
    if not name:
        paths = [None if root is None else find_split(root, split) for split in (one, other)]
        found = [path.resolve() for path in paths if path is not None]
        return found[0] == found[1] if len(found) == 2 else one == other
    (first, first_part), (second, second_part) = (_canonical(name, split) for split in (one, other))
    return first == second and (first_part == second_part or not first_part or not second_part)


def _canonical(name: str, split: str) -> tuple[str, str]:
    """One name for all of a split's, in lower case, and which part of it is meant: "[:50%]", or "" for all of it."""
    kind, _, rest = name.lower().partition("/")
    if kind == "torch" and rest in _OF_TWO:
        return ("train" if split in SYNONYMS[0] else "test"), ""
    base, bracket, part = split.lower().partition("[")
    if kind == "torch":
        base = base.rpartition("/")[2]  # iNaturalist's may begin with what is to be told
    base = _TRANSLATED.get(base, base)
    return next((names[0] for names in SYNONYMS if base in names), base), bracket + part
