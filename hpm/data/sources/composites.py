"""Composites: scenes made of cut-out objects and photographs of one's own, or of those that a package brings.

After the composites of Dwibedi, Misra and Hebert (2017, "Cut, paste and learn"). The object's pixels are known exactly.

Shape suffixes: N images, L patches, S S height and width in pixels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import PIL

from curriculum.noise import hash_words
from curriculum.sizes import Size, as_size
from curriculum.streams import Stream
from curriculum.validation import require_in
from hpm.data.sources.composite_files import divide, find_cutouts, find_photographs
from hpm.data.sources.composite_renderer import CompositeRenderer
from hpm.data.sources.image_files import describe_left_out
from hpm.data.sources.image_folder import IMAGENET_MEAN, IMAGENET_STD
from hpm.data.sources.scene_file import scene_file
from hpm.data.sources.scene_split import SceneSplit
from hpm.data.sources.scenes import Scenes
from hpm.data.sources.split import TEST, TRAIN, VALIDATION
from hpm.errors import UserError
from hpm.runtime.files import expanded

_STREAMS = {
    TRAIN: Stream.COMPOSITES_TRAIN,
    VALIDATION: Stream.COMPOSITES_VALIDATION,
    TEST: Stream.COMPOSITES_TEST,
}


class Composites(Scenes):
    """Cut-out objects pasted on pieces of photographs. The label is the object's class.

    Files are taken as they are stored, not turned as a camera noted in them; a cut-out smaller than it has to be is
    enlarged, a photograph never.

    An object has a random place, size, rotation and brightness, and may be mirrored; the border cuts some, and a
    smaller cut-out of another class covers some in part, or stands behind. Classes are equally frequent. The splits
    share the cut-outs but no photograph: of every twenty photographs, ordered by name, three are for validation and
    four for testing.

    While scenes are rendered a split's photographs are held decoded, five times as large as a scene or as
    they are: each takes about 0.3 MB for scenes of 48 pixels, 6 MB for scenes of 224.

    Args:
        cutouts: a folder of class folders of images with transparency; a class may have several. None where a model is
            used or planned without its images.
        photographs: a folder of photographs, looked through at any depth; three or more, each of `img_size` pixels at
            least; or None, likewise.
        img_size: of a scene in pixels, S for squares or (height, width). Default 64.
        train_size: scenes of the training split. Default 20000.
        validation_size: scenes of the validation split. Default 2000.
        test_size: scenes of the test split. Default 4000.
        min_scale: smallest of an object's larger side, before it is rotated, relative to the shorter of the
            scene's. Default 0.45.
        max_scale: largest. Default 0.85.
        occlusion: probability of a cut-out of another class at the object's edge. One that would hide more than half
            of the object stands behind it. Default 0.25.
        background_objects: further cut-outs of any class behind the object, anywhere and as small as those at its
            edge, at most; how many is drawn for each scene, evenly from 0 to this. Default 0.
        mean: of each channel, for pixel values scaled to [0, 1]. Default ImageNet's.
        std: of each channel, likewise. Default ImageNet's.
        seed: of the scenes. Default 0.
        cache_dir: folder where scenes that fit in memory (1 GiB) are stored, so that the next run reads them instead of
            rendering them. Default None, nowhere.
    """

    resume_free: ClassVar[frozenset[str]] = frozenset({"cutouts", "photographs", "cache_dir"})
    min_object_share: ClassVar[float] = 0.25

    def __init__(
        self,
        *,
        cutouts: str | Path | None = None,
        photographs: str | Path | None = None,
        img_size: Size = 64,
        train_size: int = 20_000,
        validation_size: int = 2_000,
        test_size: int = 4_000,
        min_scale: float = 0.45,
        max_scale: float = 0.85,
        occlusion: float = 0.25,
        background_objects: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        seed: int = 0,
        cache_dir: str | Path | None = None,
    ) -> None:
        name = type(self).__name__
        img_size = as_size(name, 8, img_size=img_size)
        sizes = {"train_size": train_size, "validation_size": validation_size, "test_size": test_size}
        require_in(name, "[1, 100000000]", **sizes)
        require_in(name, "(0, 1]", min_scale=min_scale)
        require_in(name, f"[{min_scale}, 1]", max_scale=max_scale)
        require_in(name, "[0, 1]", occlusion=occlusion)
        require_in(name, "[0, 20]", background_objects=background_objects)
        super().__init__(img_size=img_size, in_chans=3, mean=mean, std=std)
        self.folders = {"cutouts": cutouts, "photographs": photographs}
        self.split_sizes = {TRAIN: train_size, VALIDATION: validation_size, TEST: test_size}
        self.scales = (float(min_scale), float(max_scale))
        self.occlusion = float(occlusion)
        self.background_objects = background_objects
        self.seed = seed
        self.cache_dir = None if cache_dir is None else expanded(cache_dir)
        self._left_out = Counter[str]()

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders."""
        return tuple(self.cutout_files)

    @cached_property
    def cutout_files(self) -> dict[str, list[Path]]:
        """The files of each class's cut-outs, in label order.

        Raises:
            UserError: if there are none.
        """
        return find_cutouts(self._folder("cutouts"), self._left_out)

    @cached_property
    def photograph_files(self) -> list[Path]:
        """The files of all photographs, three or more.

        Raises:
            UserError: if there are fewer, or cut-outs among them.
        """
        folder, cutouts = self._folder("photographs"), self._folder("cutouts")
        found = find_photographs(folder, self._left_out)
        if both := [path for path in found if path.resolve().is_relative_to(cutouts.resolve())]:
            raise UserError(
                f"Composites.photographs = {folder} is looked through at any depth, and {len(both)} of its images are "
                f"cut-outs, of Composites.cutouts = {cutouts}; keep the two apart"
            )
        return found

    def describe(self) -> str:
        """As of any source, and what the scenes are made of: "; 140 cut-outs on 27, 7, 8 photographs", by split."""
        told = [super().describe()]
        if {"cutout_files", "photograph_files"} <= vars(self).keys():
            cutouts = sum(map(len, self.cutout_files.values()))
            counts = ", ".join(f"{len(paths):,}" for paths in divide(self.photograph_files).values())
            told += [f"{cutouts:,} cut-outs on {counts} photographs", describe_left_out(self._left_out)]
        return "; ".join(filter(None, told))

    @property
    def known_train_size(self) -> int:
        return self.split_sizes[TRAIN]

    def read(self, split: str) -> SceneSplit:
        """Draw a split's scenes, or read those that `cache_dir` has.

        Raises:
            UserError: if a folder is missing or a file unfit or damaged; it names it.
        """
        stream = _STREAMS[split]
        renderer = CompositeRenderer(
            cutouts=list(self.cutout_files.values()),
            photographs=divide(self.photograph_files)[split],
            size=self.img_size,
            scales=self.scales,
            occlusion=self.occlusion,
            background_objects=self.background_objects,
            seed=hash_words(self.seed, stream),
        )
        size, file = self.split_sizes[split], None
        if self.cache_dir is not None:
            # Another version of Pillow may decode or resample otherwise.
            defining = (PIL.__version__, size, self.img_size, renderer.settings)
            file = scene_file(self.cache_dir, f"{type(self).__name__}-{split}", *defining)
        return SceneSplit(renderer=renderer, size=size, file=file)

    def _folder(self, setting: str) -> Path:
        folder = self.folders[setting]
        if folder is None or folder == "":
            state = "not bound" if folder is None else "empty"
            raise UserError(f"Composites.{setting} is {state}; bind it to the folder that holds the {setting}")
        return expanded(folder)
