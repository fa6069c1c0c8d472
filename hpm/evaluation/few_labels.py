"""Training on a few labels: which images are labelled, and in which batches they come.

Shape suffixes: K images of the split, N labelled images, B images of a step, C channels, S side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from curriculum import Batch, Noise
from curriculum.noise import hash_words
from curriculum.sizes import Size
from curriculum.streams import Stream
from hpm.data import ImageSource, RandomResizedCrop, UnreadableImages
from hpm.data.fetch import Fetcher
from hpm.errors import UserError


def draw_labels(labels_K: Tensor, per_class: int | Sequence[int], num_classes: int, seed: int) -> Tensor:
    """Int64 [N]: the indices of `per_class` images of every class (or of so many of each), drawn from the seed."""
    counts = [per_class] * num_classes if isinstance(per_class, int) else per_class
    generator = torch.Generator().manual_seed(seed)
    chosen = []
    for label, count in enumerate(counts):
        members = (labels_K == label).nonzero().squeeze(1)
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen)


@dataclass(frozen=True)
class FewLabels:
    """Batches of a few labelled training images, in another order in each epoch.

    A step's images are cropped when it comes, so that no training set lies in memory.

    Args:
        source: the images.
        train_N: int64, indices of the labelled ones.
        crop: augmentation.
        batch_size: images of a step; an incomplete last batch is dropped.
        patch_size: of a patch in pixels, the side of a square or (height, width).
        seed: of the order and the crops.
        device: where batches are wanted.
        unreadable: takes the images that cannot be read, for which the next of the training split stand in. Default
            those of these batches alone.
    """

    source: ImageSource
    train_N: Tensor
    crop: RandomResizedCrop
    batch_size: int
    patch_size: Size
    seed: int
    device: torch.device
    unreadable: UnreadableImages = field(default_factory=UnreadableImages)

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch."""
        return len(self.train_N) // self.batch_size

    def epoch(self, epoch: int) -> Iterator[tuple[Batch]]:
        """The batches of an epoch, each in one piece."""
        keys_N = Noise(hash_words(self.seed, Stream.LOW_SHOT_ORDER), epoch, self.train_N).bits(1).squeeze(1)
        order_N = self.train_N[keys_N.argsort(stable=True)]
        train = self.source.train()
        fetch = Fetcher(
            train,
            self.crop,
            seed=hash_words(self.seed, Stream.LOW_SHOT_CROPS),
            epoch=epoch,
            size=self.source.img_size,
            known_unreadable=self.unreadable.by_index,
            limit=self.unreadable.limit(train),
        )
        for indices_B in order_N[: self.steps_per_epoch * self.batch_size].split(self.batch_size):
            fetched = fetch(indices_B)
            if isinstance(fetched, UserError):
                raise fetched
            self.unreadable.add(fetched.newly_unreadable, train)
            images_BCSS = self.source.normalize(fetched.images_NCSS).to(self.device)
            yield (Batch(images_BCSS, self.patch_size, fetched.indices_N.to(self.device)),)
