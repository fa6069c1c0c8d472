"""ImageLoss: how badly an image is reconstructed."""

from __future__ import annotations

from curriculum.images.base import ImageDifficulty
from curriculum.validation import require_at_least, require_in


class ImageLoss(ImageDifficulty):
    """Scores an image by its mean reconstruction loss.

    By default it is the loss that training measured when it last showed the image, which costs nothing (online batch
    selection, Loshchilov and Hutter 2015, arXiv 1511.06343). It is the loss under the mask and of the crop that were
    drawn then, by a model that has learned since: images that have not been shown for long look harder than they are. A
    pass measures all images by the same model, not augmented, under random masks, at the cost of one forward pass for
    each: what self-paced learning as published compares.

    Args:
        momentum: weight of the old loss where a new one is remembered, in [0, 1). Default 0, the last loss alone.
        every: epochs between two passes over all images, the first before epoch 1, counted from 0; what is
            remembered between is not used then. Default 0, no pass.
    """

    never_negative = True

    def __init__(self, *, momentum: float = 0.0, every: int = 0) -> None:
        require_in("ImageLoss", "[0, 1)", momentum=momentum)
        require_at_least("ImageLoss", 0, every=every)
        if every and momentum:
            raise ValueError(
                f"ImageLoss.momentum = {momentum} is of losses that are remembered, and ImageLoss.every = {every} "
                "measures them in passes: set one of them to 0"
            )
        self.momentum = float(momentum)
        self.every = every
        self.remembers = every == 0
        self.measures = "loss" if every else None

    def is_due(self, epoch: int) -> bool:
        return self.every > 0 and epoch > 0 and (epoch - 1) % self.every == 0
