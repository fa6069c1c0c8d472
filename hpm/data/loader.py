"""Batches of training images, the same ones whatever the number of workers and wherever an epoch is resumed.

Shape suffixes: N images of a micro-batch, K images of the split, X micro-batches, C channels, S S height and
width in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from curriculum.batch import Batch
from curriculum.images.draw import TURN, draw_epoch
from curriculum.noise import hash_words
from curriculum.sizes import Size, divides, spell_size
from curriculum.streams import Stream
from curriculum.validation import require_in
from hpm.data.crops import RandomResizedCrop
from hpm.data.fetch import Annotating, Fetched, Fetcher, as_fetched
from hpm.data.gpu_decode import Decoder, Encoded, JpegSplit
from hpm.data.prefetch import move, prefetch
from hpm.data.sources.base import ImageSource
from hpm.data.sources.encoded import EncodedSplit
from hpm.data.sources.split import Split
from hpm.data.unreadable import UnreadableImages
from hpm.data.workers import load_in_workers
from hpm.errors import UserError
from hpm.optim.image_sizes import ImageSizes
from hpm.optim.schedule import Schedule

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class AnnotatedBatch(Batch):
    """A batch of crops of annotated images.

    Args:
        annotations: what the loader's `annotate` gave; a tensor is where the images are, all else on the CPU.
    """

    annotations: Any = None


class Loader:
    """Shuffled, augmented and normalized training images.

    The order depends on (seed, epoch) and weights alone, a crop on (seed, epoch, sample) alone, and on how often the
    sample was shown in the epoch before. An image that cannot be read is
    left out: the next sample of the data set stands in for it.

    Args:
        source: where the images come from.
        batch_size: images of an optimizer step, of all processes together, an image counting once for each of its
            masks. An epoch's incomplete last batch is dropped.
        patch_size: of a patch in pixels, the side of a square or (height, width); divides the source's `img_size`.
        crop: the augmentation.
        seed: of the order and the crops.
        num_workers: processes that prepare batches; 0 for none but this one. Default 0.
        accumulate: micro-batches that this process's share of a batch is cut into. Default 1.
        rank: which of the processes this is. Default 0.
        world_size: processes that share a batch. Default 1.
        device: where batches are wanted. Images that lie in memory are kept and augmented there, unless there are
            workers. Default the CPU.
        max_unreadable: share of the images that may be unreadable before training ends. Default 0.01.
        gpu_decode: whether JPEGs are decoded on `device`, in batches, and the workers only read them; by nvJPEG where
            it is a CUDA device. Needs workers and encoded images. Default False.
        annotate: gives what is annotated in the crops, in the processes that load them; batches are `AnnotatedBatch`
            then. Not with `gpu_decode`. Default None, for nothing.
        masks_per_image: rows of a micro-batch, one after the other, that every image stands in, loaded, cropped and
            moved to the device once. Not with `annotate`. Default 1.
        image_sizes: the size that crops are brought to in each epoch. Default None, the source's `img_size` in all.

    Attributes:
        steps_per_epoch: complete batches of an epoch.
        micro_batch_size: rows of a micro-batch.
        unreadable_images: those that this process has met so far.
        weights: float64 [K], how often each sample is shown in the epochs to come, relative to others; None, the
            default, for each once.

    Raises:
        ValueError: naming the setting at fault.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        batch_size: int,
        patch_size: Size,
        crop: RandomResizedCrop,
        seed: int,
        num_workers: int = 0,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device = _CPU,
        max_unreadable: float = 0.01,
        gpu_decode: bool = False,
        annotate: Annotating | None = None,
        masks_per_image: int = 1,
        image_sizes: ImageSizes | None = None,
    ) -> None:
        split = source.train()
        # Which knows what batches may be.
        schedule = Schedule(batch_size=batch_size, accumulate=accumulate, masks_per_image=masks_per_image)
        self.steps_per_epoch = schedule.clock(len(split)).steps_per_epoch
        self.micro_batch_size = schedule.micro_batch_size(world_size)
        require_in("Loading", "[0, 1024]", num_workers=num_workers)
        require_in("Loader", f"[0, {world_size})", rank=rank)
        if not divides(patch_size, source.img_size):
            raise ValueError(
                f"Loader.patch_size = {patch_size} must divide the image size, {spell_size(source.img_size)} pixels"
            )
        self.source = source
        self.batch_size = batch_size
        self.patch_size = patch_size
        self.crop = crop
        self.seed = seed
        self.num_workers = num_workers
        self.accumulate = accumulate
        self.rank = rank
        self.world_size = world_size
        self.device = device
        assert annotate is None or masks_per_image == 1  # what is annotated is not masked
        self.masks_per_image = masks_per_image
        self.image_sizes = image_sizes
        self.unreadable_images = UnreadableImages(max_unreadable)
        self.weights: Tensor | None = None
        self._annotate = annotate
        self._train = split
        self._jpegs: JpegSplit | None = None
        if gpu_decode:
            assert annotate is None  # workers would annotate images that only the device finds unreadable
            encoded = _require_encoded(split, type(source).__name__, num_workers)
            self._jpegs = JpegSplit(encoded)
            self._decoder = Decoder(encoded.mode, device)

    @property
    def unreadable(self) -> dict[str, str]:
        """Why each of the unreadable images that this process has met so far cannot be read, by its name."""
        return self.unreadable_images.by_name

    @cached_property
    def _split(self) -> Split:
        """The training split where it is read: on the device, or by processes that share what it holds."""
        self._train.prepare()
        return self._train if self.num_workers else self._train.to(self.device)

    def prepare(self) -> None:
        """Read what of the training images lies in memory, and move it to the device; else the first step does.

        Raises:
            UserError: if it cannot be read.
        """
        _ = self._split

    def order(self, epoch: int) -> Tensor:
        """The samples of an epoch in the order in which they come, int64 [K]: addresses, as `draw_epoch` gives them."""
        return draw_epoch(self.weights, len(self._train), seed=self.seed, epoch=epoch)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[tuple[Batch, ...]]:
        """This process's share of each batch of an epoch, from `first_step` on: `accumulate` micro-batches a step.

        Raises:
            TrainingError: if too many images cannot be read.
        """
        steps = self.steps_per_epoch
        if not 0 <= first_step <= steps:
            raise ValueError(f"first_step = {first_step} must be 0 to {steps}, the steps of an epoch")
        return self._steps(epoch, first_step)

    def _steps(self, epoch: int, first_step: int) -> Iterator[tuple[Batch, ...]]:
        self.unreadable_images.require_few(self._train)
        fetched, bring = self._fetched(epoch, first_step), partial(self._to_device, epoch)
        ahead = self.num_workers > 0 and self.device.type == "cuda"
        batches = map(self._batch, prefetch(fetched, bring, self._stream) if ahead else map(bring, fetched))
        while micro_batches := tuple(islice(batches, self.accumulate)):
            yield micro_batches

    def _fetched(self, epoch: int, first_step: int) -> Iterator[Fetched | UserError]:
        """This process's micro-batches, on the CPU; where loading failed, why."""
        images = self.batch_size // self.masks_per_image
        order_K = self.order(epoch)[first_step * images : self.steps_per_epoch * images]
        shape = (-1, self.world_size, self.accumulate, self.micro_batch_size // self.masks_per_image)
        indices_XN = order_K.view(shape)[:, self.rank].flatten(0, 1)
        if self.num_workers == 0:
            return map(
                self._fetcher(epoch, self._split, self.unreadable_images.by_index), indices_XN.to(self._split.device)
            )
        split = self._split if self._jpegs is None else self._jpegs
        return load_in_workers(
            self._fetcher(epoch, split, self.unreadable_images.by_index),
            indices_XN.tolist(),
            num_workers=self.num_workers,
            collate=as_fetched,
            pin_memory=self.device.type == "cuda",
        )

    def _fetcher(self, epoch: int, split: Split, known_unreadable: dict[int, str]) -> Fetcher:
        return Fetcher(
            split,
            self.crop,
            seed=hash_words(self.seed, Stream.LOADER_CROPS),
            epoch=epoch,
            size=self.source.img_size if self.image_sizes is None else self.image_sizes.at(epoch),
            known_unreadable=known_unreadable,
            limit=self.unreadable_images.limit(self._train),
            annotate=self._annotate,
        )

    def _to_device(self, epoch: int, fetched: Fetched | UserError) -> Fetched | UserError:
        """A micro-batch on the device, decoded and normalized."""
        if isinstance(fetched, Fetched) and fetched.encoded is not None:
            fetched = self._decode(epoch, fetched, fetched.encoded)
        if isinstance(fetched, UserError):
            return fetched
        images_NCSS, indices_N, boxes_N4, flips_N = (move(x, self.device) for x in fetched[:4])
        annotations = fetched.annotations
        return fetched._replace(
            images_NCSS=self.source.normalize(images_NCSS),
            indices_N=indices_N,
            boxes_N4=boxes_N4,
            flips_N=flips_N,
            annotations=move(annotations, self.device) if isinstance(annotations, Tensor) else annotations,
        )

    def _decode(self, epoch: int, fetched: Fetched, encoded: Encoded) -> Fetched | UserError:
        """Decode on the device; by Pillow what it refuses, and in the place of what Pillow refuses too, the next."""
        images_NCSS, rows = self._decoder(encoded, fetched.boxes_N4, fetched.flips_N)
        fetched = fetched._replace(images_NCSS=images_NCSS, encoded=None)
        if not rows or self._jpegs is None:
            return fetched
        addresses_M = fetched.indices_N[rows] + fetched.turns_N[rows] * TURN
        # What is unreadable is known to other batches once this one's turn has come.
        known_unreadable = self.unreadable_images.by_index | fetched.newly_unreadable
        refused = JpegSplit(self._jpegs.split, set(fetched.indices_N[rows].tolist()))
        again = self._fetcher(epoch, refused, known_unreadable)(addresses_M)
        if isinstance(again, Fetched) and again.encoded is not None:
            newly_unreadable = fetched.newly_unreadable | again.newly_unreadable
            again = self._decode(epoch, again._replace(newly_unreadable=newly_unreadable), again.encoded)
        if isinstance(again, UserError):
            return again
        for values, replacements in zip(fetched[:4], again[:4], strict=True):
            for row, replacement in zip(rows, replacements, strict=True):
                values[row] = replacement
        return fetched._replace(newly_unreadable=again.newly_unreadable)

    def _batch(self, fetched: Fetched | UserError) -> Batch:
        if isinstance(fetched, UserError):
            raise fetched
        self.unreadable_images.add(fetched.newly_unreadable, self._train)
        images_NCSS, indices_N, boxes_N4, flips_N = fetched[:4]
        if self.masks_per_image > 1:
            images_NCSS, indices_N, boxes_N4, flips_N = (
                values.repeat_interleave(self.masks_per_image, dim=0) for values in fetched[:4]
            )
        parts = images_NCSS, self.patch_size, indices_N, boxes_N4, flips_N
        if self._annotate is None:
            return Batch(*parts, masks_per_image=self.masks_per_image)
        return AnnotatedBatch(*parts, fetched.annotations)

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        """Of the copies to the device; one for all epochs, for the memory that it has used is its own."""
        return torch.cuda.Stream(self.device)


def _require_encoded(split: Split, source: str, num_workers: int) -> EncodedSplit:
    """The split, whose images a device may decode.

    Raises:
        ValueError: naming the setting, where no process would read files, or there are none.
    """
    if num_workers == 0:
        raise ValueError(
            "Loading.gpu_decode = True needs processes that read the files: set Loading.num_workers to 1 or more"
        )
    if not isinstance(split, EncodedSplit):
        raise ValueError(
            f"Loading.gpu_decode = True decodes files, and the training images of {source} lie in memory: set it to "
            "False"
        )
    return split
