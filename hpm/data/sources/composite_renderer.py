"""Draws composites: a cut-out pasted over a piece of a photograph, sometimes with others in front of it or behind.

Every choice is noise addressed by the scene's index, so that a scene is the same in any batch and any process. Pillow
does the geometry, one scene after the other.

Shape suffixes: N scenes, Y classes, S S height and width in pixels, H W those of a pasted
cut-out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from curriculum.noise import Noise
from curriculum.sizes import Size, pair
from hpm.data.sources.annotations import Objects
from hpm.data.sources.composite_files import digest_of, read_all, read_cutout, read_photograph
from hpm.data.sources.composite_layers import SHOWN, Layer, Layers, on_canvas, place
from hpm.errors import UserError

VERSION = 1
"""Raise it with every change of the pixels that the same files and settings give: files of stored scenes go by it."""

_SMALLEST_CROP = 0.2  # side of the smallest piece of a photograph relative to the photograph's shorter side
_STORED_CUTOUT = 2.0  # larger side of a cut-out in memory relative to its largest in a scene; it is made smaller once
_MOST_DEGREES = 25.0  # of rotation, either way
_BRIGHTNESS = (0.7, 1.3)
_OTHER_SCALE = (0.3, 0.6)  # of the other cut-out, relative to the object's
_MOST_HIDDEN = 0.5  # of the object; another cut-out that would hide more goes behind it
_SCENES, _LABELS, _BACKGROUND = 0, 1, 2  # the noise's steps

_FILTER, _FAST_FILTER = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR


class _Paste(NamedTuple):
    """What is chosen for a cut-out, each in [0, 1)."""

    cutout: float
    scale: float
    angle: float
    mirror: float
    brightness: float


class _Scene(NamedTuple):
    """What else is chosen for a scene, each in [0, 1)."""

    top: float
    left: float
    photograph: float
    crop_side: float
    crop_top: float
    crop_left: float
    crop_mirror: float
    occluded: float
    other_class: float
    other_angle: float  # where the other cut-out's middle lies, as seen from the object's


class _Further(NamedTuple):
    """What is chosen for a further cut-out, behind the object: each in [0, 1)."""

    kind: float
    size: float
    top: float
    left: float
    paste: _Paste


class _Choices(NamedTuple):
    """All that is chosen for a scene."""

    label: int
    object: _Paste
    other: _Paste
    scene: _Scene
    background: list[_Further]


# Columns of noise, in the order of the fields.
_PASTE = len(_Paste._fields)
_COLUMNS = 2 * _PASTE + len(_Scene._fields)
_FURTHER_COLUMNS = len(_Further._fields) - 1 + _PASTE


class CompositeRenderer:
    """Scenes of one split.

    Files are read when the first scene is drawn.

    Args:
        cutouts: the files of each class.
        photographs: the files of what is behind.
        size: of a scene in pixels, S for squares or (height, width).
        scales: smallest and largest of a cut-out's larger side, before it is rotated, relative to the scene's
            shorter.
        occlusion: probability of another cut-out.
        background_objects: further cut-outs behind the object, at most.
        seed: of every choice.
    """

    def __init__(
        self,
        *,
        cutouts: Sequence[Sequence[Path]],
        photographs: Sequence[Path],
        size: Size,
        scales: tuple[float, float],
        occlusion: float,
        background_objects: int,
        seed: int,
    ) -> None:
        self.cutouts = cutouts
        self.photographs = photographs
        self.size = size
        self.scales = scales
        self.occlusion = occlusion
        self.background_objects = background_objects
        self.seed = seed

    @cached_property
    def settings(self) -> tuple[object, ...]:
        """All that decides what the scenes look like: the files' content, and the settings."""
        counts = tuple(map(len, self.cutouts))
        files = digest_of([*(path for paths in self.cutouts for path in paths), *self.photographs])
        # Where there are none nothing is said of them: the scenes are those of versions that had none.
        further = (self.background_objects,) if self.background_objects else ()
        return VERSION, files, counts, len(self.photographs), self.scales, self.occlusion, *further, self.seed

    def labels(self, indices_N: Tensor) -> Tensor:
        """The class of each scene's object, int64 [N]: each once among the first Y scenes, the next Y and so on."""
        classes = len(self.cutouts)
        order_NY = Noise(self.seed, _LABELS, indices_N // classes).bits(classes).argsort(dim=1)
        return order_NY.gather(1, (indices_N % classes).unsqueeze(1)).squeeze(1)

    def render(self, indices_N: Tensor) -> Tensor:
        """The scenes, uint8 [N, 3, S, S]."""
        scenes_NSS3 = np.empty((len(indices_N), *pair(self.size), 3), dtype=np.uint8)
        for row, choices in enumerate(self._choices(indices_N)):
            scenes_NSS3[row] = self._layers(choices).over(self._background(choices.scene))
        return torch.from_numpy(scenes_NSS3).permute(0, 3, 1, 2).contiguous()

    def masks(self, indices_N: Tensor) -> Tensor:
        """Which pixels show the object, by a half at least, rather than what is behind or in front, bool [N, S, S]."""
        masks_NSS = np.empty((len(indices_N), *pair(self.size)), dtype=bool)
        for row, choices in enumerate(self._choices(indices_N)):
            layers = self._layers(choices)
            masks_NSS[row] = layers.visible(layers.main) >= SHOWN
        return torch.from_numpy(masks_NSS)

    def objects(self, indices_N: Tensor) -> list[Objects]:
        """All cut-outs of each scene of which something is seen; see `Layers.objects`."""
        return [self._layers(choices).objects() for choices in self._choices(indices_N)]

    def _choices(self, indices_N: Tensor) -> Iterator[_Choices]:
        uniform = Noise(self.seed, _SCENES, indices_N).uniform(_COLUMNS).tolist()
        columns = 1 + _FURTHER_COLUMNS * self.background_objects
        further = Noise(self.seed, _BACKGROUND, indices_N).uniform(columns).tolist()
        for row, (many, *behind), label in zip(uniform, further, self.labels(indices_N).tolist(), strict=True):
            first, second, rest = row[:_PASTE], row[_PASTE : 2 * _PASTE], row[2 * _PASTE :]
            background = []
            for start in range(0, int(many * (self.background_objects + 1)) * _FURTHER_COLUMNS, _FURTHER_COLUMNS):
                kind, size, top, left, *paste = behind[start : start + _FURTHER_COLUMNS]
                background.append(_Further(kind, size, top, left, _Paste(*paste)))
            yield _Choices(label, _Paste(*first), _Paste(*second), _Scene(*rest), background)

    @cached_property
    def _cutouts(self) -> list[list[Image.Image]]:
        read = iter(read_all(chain.from_iterable(self.cutouts), self._read_cutout))
        return [list(islice(read, len(paths))) for paths in self.cutouts]

    def _read_cutout(self, path: Path) -> Image.Image:
        """A cut-out, unless a scene may show nothing of it: what is thin fades where it is small and slanting."""
        image = read_cutout(path, side=math.ceil(_STORED_CUTOUT * self.scales[1] * min(pair(self.size))))
        for degrees in (-_MOST_DEGREES, 0.0, _MOST_DEGREES):
            if np.asarray(self._posed(image, degrees, self.scales[0]))[:, :, 3].max() < SHOWN:
                raise UserError(
                    f"{path} would not be seen in scenes of {self.size} pixels at min_scale = {self.scales[0]}: it is "
                    "too thin or too faint; take it out, or raise min_scale or the size of the scenes, IMG_SIZE"
                )
        return image

    @cached_property
    def _photographs(self) -> list[Image.Image]:
        height, width = pair(self.size)
        kept = (math.ceil(height / _SMALLEST_CROP), math.ceil(width / _SMALLEST_CROP))
        return read_all(self.photographs, partial(read_photograph, kept=kept, least=self.size))

    def _layers(self, choices: _Choices) -> Layers:
        """The cut-outs of a scene."""
        thing_HW4 = self._transform(choices.object, choices.label, _between(self.scales, choices.object.scale))
        height, width = thing_HW4.shape[:2]
        scene_height, scene_width = pair(self.size)
        top = place(choices.scene.top, height, scene_height)
        left = place(choices.scene.left, width, scene_width)
        behind = [self._further(further) for further in choices.background]
        main = Layer(choices.label, on_canvas(thing_HW4, top, left, self.size))
        if choices.scene.occluded >= self.occlusion:
            return Layers([*behind, main], len(behind))
        other = self._other(choices, (top + height / 2, left + width / 2), (height / 2, width / 2))
        occluded = Layers([*behind, main, other], len(behind))
        if occluded.visible(len(behind)).sum() >= (1 - _MOST_HIDDEN) * main.opacity_SS.sum():
            return occluded
        return Layers([*behind, other, main], len(behind) + 1)

    def _background(self, choices: _Scene) -> np.ndarray:
        """A piece of a photograph of the scene's aspect, never enlarged, uint8 [S, S, 3]."""
        photograph, (scene_height, scene_width) = _pick(self._photographs, choices.photograph), pair(self.size)
        largest = min(photograph.height, photograph.width * scene_height // scene_width)
        height = scene_height + int(choices.crop_side * (largest - scene_height + 1))
        width = height * scene_width // scene_height
        left = int(choices.crop_left * (photograph.width - width + 1))
        top = int(choices.crop_top * (photograph.height - height + 1))
        box = (left, top, left + width, top + height)
        piece = photograph.resize((scene_width, scene_height), _FILTER, box=box)
        return np.asarray(ImageOps.mirror(piece) if choices.crop_mirror < 0.5 else piece)

    def _other(self, choices: _Choices, middle: tuple[float, float], radii: tuple[float, float]) -> Layer:
        """A smaller cut-out of another class whose middle lies at the object's edge."""
        classes = len(self._cutouts)
        label = (choices.label + 1 + int(choices.scene.other_class * (classes - 1))) % classes
        scale = _between(self.scales, choices.object.scale) * _between(_OTHER_SCALE, choices.other.scale)
        thing_HW4 = self._transform(choices.other, label, scale)
        angle = 2 * math.pi * choices.scene.other_angle
        top = middle[0] + radii[0] * math.sin(angle) - thing_HW4.shape[0] / 2
        left = middle[1] + radii[1] * math.cos(angle) - thing_HW4.shape[1] / 2
        return Layer(label, on_canvas(thing_HW4, round(top), round(left), self.size))

    def _further(self, choices: _Further) -> Layer:
        """A smaller cut-out of any class, anywhere."""
        label = int(choices.kind * len(self._cutouts))
        scale = _between(self.scales, choices.size) * _between(_OTHER_SCALE, choices.paste.scale)
        thing_HW4 = self._transform(choices.paste, label, scale)
        height, width = thing_HW4.shape[:2]
        scene_height, scene_width = pair(self.size)
        corner = place(choices.top, height, scene_height), place(choices.left, width, scene_width)
        return Layer(label, on_canvas(thing_HW4, *corner, self.size))

    def _transform(self, paste: _Paste, label: int, scale: float) -> np.ndarray:
        """A cut-out mirrored, rotated, resized and lit, uint8 [H, W, 4], colours multiplied by opacity."""
        image = _pick(self._cutouts[label], paste.cutout)
        image = ImageOps.mirror(image) if paste.mirror < 0.5 else image
        degrees = _between((-_MOST_DEGREES, _MOST_DEGREES), paste.angle)
        pixels_HW4 = np.array(self._posed(image, degrees, scale))
        lit_HW3 = pixels_HW4[:, :, :3] * np.float32(_between(_BRIGHTNESS, paste.brightness))
        # No colour exceeds its opacity, where a cubic filter overshoots or the light is strong.
        pixels_HW4[:, :, :3] = np.minimum(lit_HW3.round(), pixels_HW4[:, :, 3:])
        return pixels_HW4

    def _posed(self, image: Image.Image, degrees: float, scale: float) -> Image.Image:
        """A cut-out rotated and resized."""
        factor = scale * min(pair(self.size)) / max(image.size)
        # Rotated while it is large: the resampling that makes it small afterwards hides that of the rotation.
        image = image.rotate(degrees, _FAST_FILTER, expand=True)
        width, height = (max(1, round(length * factor)) for length in image.size)
        return image.resize((width, height), _FILTER)


def _between(ends: tuple[float, float], choice: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * choice


def _pick(images: Sequence[Image.Image], choice: float) -> Image.Image:
    return images[int(choice * len(images))]
