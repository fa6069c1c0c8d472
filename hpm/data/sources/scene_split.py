"""Splits of scenes that are drawn when asked for: all at once while they fit in memory, else a batch at a time.

Shape suffixes: N scenes, K scenes of the split, S S height and width in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from curriculum.sizes import Size, pair
from hpm.data.crops import resample
from hpm.data.sources.annotations import Objects, class_map_of
from hpm.data.sources.scene_file import stored_scenes
from hpm.data.sources.split import Split, TensorSplit

# Larger splits are rendered batch by batch.
MEMORY_LIMIT = 1 << 30

_PIXELS_AT_ONCE = 1 << 18  # few enough for the processor's cache


@contextmanager
def one_thread() -> Iterator[None]:
    """For many small operations, which are ten times slower where threads on shared cores wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Renderer(Protocol):
    """Draws scenes, each of which depends on its index alone."""

    @property
    def size(self) -> Size:
        """Of a scene in pixels, S for squares or (height, width)."""

    @property
    def settings(self) -> tuple[object, ...]:
        """All that decides what the scenes look like, beside their size."""

    def labels(self, indices_N: Tensor) -> Tensor:
        """The class of each scene, int64 [N]."""

    def render(self, indices_N: Tensor) -> Tensor:
        """The scenes, uint8 [N, 3, S, S]."""

    def masks(self, indices_N: Tensor) -> Tensor:
        """Which pixels show the object, bool [N, S, S]: what is behind it or in front of it does not count."""

    def objects(self, indices_N: Tensor) -> list[Objects]:
        """Everything in each scene that is of a class, and what of it is seen."""


class SceneSplit(Split):
    """Scenes of one split, rendered when asked for: all of them up to `MEMORY_LIMIT` bytes, which are then held.

    Args:
        renderer: draws the scenes.
        size: K, how many scenes.
        file: where those held in memory are stored, to be read instead of rendered the next time. Default None.
    """

    def __init__(self, *, renderer: Renderer, size: int, file: Path | None = None) -> None:
        self.renderer = renderer
        self.scene_size = renderer.size
        self._file = file
        self._chunks = torch.arange(size).split(max(1, _PIXELS_AT_ONCE // prod(pair(self.scene_size))))
        self.labels: Tensor = torch.cat([renderer.labels(chunk) for chunk in self._chunks])

    def prepare(self) -> None:
        if self._images_KCSS is None:
            self.renderer.render(self._chunks[0][:1])  # loads what it draws from

    @cached_property
    def _images_KCSS(self) -> Tensor | None:
        """All scenes, rendered or read when first asked for; None where they are too many."""
        shape = (len(self), 3, *pair(self.scene_size))
        if prod(shape) > MEMORY_LIMIT:
            return None
        return self._render() if self._file is None else stored_scenes(self._file, shape, self._render)

    def _render(self) -> Tensor:
        return self._draw_all(
            self.renderer.render, torch.empty(len(self), 3, *pair(self.scene_size), dtype=torch.uint8)
        )

    def object_masks(self) -> Tensor:
        """Which pixels of each of the scenes show the object, bool [K, S, S]: drawn anew at every call."""
        return self._draw_all(self.renderer.masks, torch.empty(len(self), *pair(self.scene_size), dtype=torch.bool))

    def objects(self, indices_N: Tensor) -> list[Objects]:
        """The objects of scenes: drawn anew at every call."""
        with one_thread():
            return self.renderer.objects(indices_N)

    def class_maps(self, indices_N: Tensor) -> list[Tensor]:
        """The class of each pixel of scenes, by `class_map_of` their objects."""
        return [class_map_of(objects) for objects in self.objects(indices_N)]

    def _draw_all(self, draw: Callable[[Tensor], Tensor], drawn_K: Tensor) -> Tensor:
        with one_thread():
            for chunk in self._chunks:
                drawn_K[chunk[0] : chunk[-1] + 1] = draw(chunk)
        return drawn_K

    def __len__(self) -> int:
        return len(self.labels)

    def sizes(self, indices_N: Tensor) -> Tensor:
        """Int64 [N, 2], all the same."""
        return torch.tensor(pair(self.scene_size)).expand(len(indices_N), 2)

    def images(self, indices_N: Tensor) -> Tensor:
        """Whole scenes, uint8 [N, 3, S, S]."""
        return self.renderer.render(indices_N) if self._images_KCSS is None else self._images_KCSS[indices_N]

    def crop(self, indices_N: Tensor, boxes_N4: Tensor, flips_N: Tensor, size: Size) -> Tensor:
        """Float32 [N, 3, S, S] in [0, 255], of the given size."""
        return resample(self.images(indices_N), boxes_N4, flips_N, size)

    def content(self) -> Iterable[bytes]:
        """How the scenes are drawn, rather than the pixels, which another processor may round otherwise."""
        return (repr((self.scene_size, self.renderer.settings)).encode(),)

    def to(self, device: torch.device) -> Split:
        """The scenes on another device where they are held in memory; else the split itself."""
        if device == self.device or self._images_KCSS is None:
            return self
        return TensorSplit(self._images_KCSS.to(device), self.labels)
