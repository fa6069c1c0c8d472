"""Images in memory whose annotations are given, and mosaics: images that are easy to segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from curriculum.sizes import Size, pair
from hpm.data import IGNORED, TEST, TRAIN, VALIDATION, ImageSource, Objects, TensorSplit, UnreadableImages
from hpm.data.sources.annotations import objects_from
from hpm.evaluation import EvaluationContext
from hpm.methods.teacher import StudentTeacher
from hpm.models.base import MaskedModel

SIZES = {TRAIN: 40, VALIDATION: 12, TEST: 15}


class AnnotatedSplit(TensorSplit):
    """Images with a class map or objects of each."""

    def __init__(self, images_KCHW: Tensor, maps_KHW: Tensor | None = None, objects: Sequence[Objects] = ()) -> None:
        super().__init__(images_KCHW)
        self.maps_KHW = maps_KHW
        self.objects_K = objects

    def class_maps(self, indices_N: Tensor) -> list[Tensor]:
        assert self.maps_KHW is not None
        return list(self.maps_KHW[indices_N])

    def objects(self, indices_N: Tensor) -> list[Objects]:
        return [self.objects_K[index] for index in indices_N.tolist()]


class Annotated(ImageSource):
    """The splits that are given; `kinds` are classes of pixels, or with `things` of objects."""

    def __init__(self, splits: Mapping[str, AnnotatedSplit], *, kinds: Sequence[str], things: bool = False) -> None:
        _, channels, height, width = splits[TEST if TEST in splits else VALIDATION].images_KCHW.shape
        size: Size = height if height == width else (height, width)
        super().__init__(img_size=size, in_chans=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
        self.splits = splits
        self.kinds = tuple(kinds)
        self.things = things

    @property
    def has_own_validation(self) -> bool:
        return VALIDATION in self.splits

    @property
    def has_test(self) -> bool:
        return TEST in self.splits

    @property
    def object_classes(self) -> tuple[str, ...]:
        return self.kinds if self.things else ()

    @property
    def pixel_classes(self) -> tuple[str, ...]:
        return super().pixel_classes if self.things else self.kinds

    def read(self, split: str) -> AnnotatedSplit:
        return self.splits[split]


def mosaic(
    count: int,
    *,
    size: Size = 16,
    cell: int = 8,
    channels: int = 3,
    classes: int = 3,
    ignored: float = 0.0,
    seed: int = 0,
) -> AnnotatedSplit:
    """Images of square cells, each in the colour of its class under a little noise, some of them not annotated."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (side // cell for side in pair(size))
    kinds = torch.randint(0, classes, (count, rows, columns), generator=generator)
    maps = kinds.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    colors = torch.stack(
        [(torch.arange(classes) + shift) % classes * 200 // (classes - 1) for shift in range(channels)]
    )
    noise = torch.randint(0, 40, (count, channels, *pair(size)), generator=generator)
    images = colors[:, maps].transpose(0, 1) + noise
    left_out = torch.rand(count, rows, columns, generator=generator) < ignored
    left_out = left_out.repeat_interleave(cell, 1).repeat_interleave(cell, 2)
    return AnnotatedSplit(images.to(torch.uint8), maps.where(~left_out, IGNORED).to(torch.int16))


def mosaics(*, classes: int = 3, sizes: Mapping[str, int] = SIZES, **settings: object) -> Annotated:
    """A source of mosaics, whose classes of pixels are called "c0", "c1" and so on."""
    splits = {
        name: mosaic(count, classes=classes, seed=seed, **settings)  # type: ignore[arg-type]
        for seed, (name, count) in enumerate(sizes.items())
    }
    return Annotated(splits, kinds=[f"c{label}" for label in range(classes)])


def save_mosaics(root: Path, **counts: int) -> None:
    """Mosaics of three classes as `SegmentationFolder` reads them: so many of each part, "train", "val" or "test"."""
    for seed, (part, count) in enumerate(counts.items()):
        made = mosaic(count, seed=seed, ignored=0.1)
        assert made.maps_KHW is not None
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for number, (image, labels) in enumerate(zip(made.images_KCHW, made.maps_KHW, strict=True)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / part / "images" / f"{number:02}.png")
            mask = labels.where(labels != IGNORED, 255).to(torch.uint8).numpy()
            Image.fromarray(mask).save(root / part / "masks" / f"{number:02}.png")
    (root / "classes.txt").write_text("sky\nsea\nsand\n")


def on(context: EvaluationContext, source: ImageSource, model: MaskedModel | None = None) -> EvaluationContext:
    """The context with another source, all of whose held-out images are scored, and a model that fits it."""
    context = replace(
        context,
        source=source,
        splits=(VALIDATION, TEST),
        scored_images={},
        per_class={},
        galleries={},
        unreadable=UnreadableImages(),
    )
    if model is None:
        return context
    model.init_weights(torch.Generator().manual_seed(0))
    return replace(context, model=model, initial=lambda: model, teacher=StudentTeacher(model, context.target))


def boxed(
    boxes: Sequence[Sequence[tuple[int, int, int, int]]],
    *,
    size: Size = 32,
    channels: int = 3,
    crowds: Sequence[Sequence[int]] = (),
) -> AnnotatedSplit:
    """Dark images with bright boxes, (left, top, right, bottom), which are the objects.

    Args:
        boxes: of each image.
        size: of the images.
        channels: of the images.
        crowds: for each image the numbers of those that are crowds. Default none.
    """
    height, width = pair(size)
    images = torch.full((len(boxes), channels, height, width), 40, dtype=torch.uint8)
    objects = []
    for row, of_image in enumerate(boxes):
        masks = torch.zeros(len(of_image), height, width, dtype=torch.bool)
        for number, (left, top, right, bottom) in enumerate(of_image):
            masks[number, top:bottom, left:right] = True
            images[row, :, top:bottom, left:right] = 220
        crowd = [bool(crowds) and number in crowds[row] for number in range(len(of_image))]
        objects.append(objects_from(list(masks), [0] * len(of_image), crowd, height=height, width=width))
    return AnnotatedSplit(images, objects=objects)


def boxes_of(validation: AnnotatedSplit, test: AnnotatedSplit | None = None) -> Annotated:
    """A source of such images, whose objects are of one class."""
    splits = {VALIDATION: validation} | ({} if test is None else {TEST: test})
    return Annotated(splits, kinds=["box"], things=True)
