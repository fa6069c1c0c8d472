"""Which training images are labeled, where the labels of all are known.

Shape suffix: K training images.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum import Noise
from curriculum.noise import hash_words
from curriculum.streams import Stream


def draw_labeled(labels_K: Tensor, *, share: float, per_class: int | None, seed: int) -> Tensor:
    """Bool [K]: the images of every class whose hashes of (seed, image) are the lowest.

    So the same seed labels the same images whatever trains on them, and a larger share labels those of a smaller one
    and more.

    Args:
        labels_K: int64, on the CPU.
        share: of each class, rounded, but at least one image of each that there is.
        per_class: images of each class in the place of the share; None for the share.
        seed: of the draw.

    Raises:
        ValueError: where a class has too few images.
    """
    images_K = torch.arange(len(labels_K))
    keys_K = Noise(hash_words(seed, Stream.LABELED_IMAGES), 0, images_K).bits(1).squeeze(1)
    labeled_K = torch.zeros(len(labels_K), dtype=torch.bool)
    for label in labels_K.unique().tolist():
        members = (labels_K == label).nonzero().squeeze(1)
        count = max(1, round(share * len(members))) if per_class is None else per_class
        if count > len(members):
            raise ValueError(
                f"SemiSupervised.labeled_per_class = {per_class} is more than the {len(members)} training images of "
                f"class {label}; lower it"
            )
        labeled_K[members[keys_K[members].argsort(stable=True)[:count]]] = True
    return labeled_K
