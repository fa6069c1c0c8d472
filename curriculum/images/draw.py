"""Which images an epoch shows, and in which order, by weights: exactly addressed.

Shape suffixes: I images of the training split.
"""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum.noise import Noise, hash_words
from curriculum.streams import Stream

TURN = 1 << 40
"""An image that an epoch shows several times is addressed by `image + turn * TURN`, turns counted from 0."""


def draw_epoch(weights_I: Tensor | None, num_images: int, *, seed: int, epoch: int) -> Tensor:
    """Draw the images of an epoch, in the order in which they come: a function of the weights and (seed, epoch).

    I images are shown. Each is shown I times its share of the weights, rounded down or up, by systematic sampling
    (Madow 1949) from images in random order: its expectation is exact. Where all weights are equal every image is shown
    once, in the order that is drawn without weights.

    Args:
        weights_I: float64 [I], 0 or more; None where all are equal.
        num_images: I.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        Addresses, int64 [I] on the CPU; see `TURN`.
    """
    images_I = torch.arange(num_images)
    noise = Noise(hash_words(seed, Stream.LOADER_ORDER), epoch, images_I)
    order_I = noise.bits(1).squeeze(1).argsort(stable=True)
    if weights_I is None or bool((weights_I == weights_I[0]).all()):
        return order_I
    offset = hash_words(seed, Stream.IMAGE_DRAWS, epoch) % 2**32
    times_I = _systematic(weights_I.cpu()[order_I], (offset + 0.5) / 2**32)
    shown_I = order_I.repeat_interleave(times_I)
    turns_I = torch.arange(num_images) - (times_I.cumsum(0) - times_I).repeat_interleave(times_I)
    addresses_I = shown_I + turns_I * TURN
    keys_I = Noise(noise.seed, epoch, addresses_I).bits(1).squeeze(1)
    return addresses_I[keys_I.argsort(stable=True)]


def _systematic(weights_I: Tensor, offset: float) -> Tensor:
    """Count how many of the points offset, offset + 1, ... fall to each image, int64 [I], I in all."""
    images = len(weights_I)
    ends_I = weights_I.double().cumsum(0)
    ends_I = ends_I / ends_I[-1].clone() * images
    ends_I[-1] = images
    reached_I = (ends_I - offset).ceil().long().clamp(0, images)
    return reached_I.diff(prepend=torch.zeros(1, dtype=torch.int64))
