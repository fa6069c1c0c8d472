"""Draws digit scenes: a handwritten digit and fragments of others, over a piece of a photograph.

Every choice is noise addressed by the scene's index, so that a scene is the same in any batch and any process.

Shape suffixes: N scenes, K digits, F fragments, S side in pixels, P positions along it, G grid cells along a digit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from curriculum.noise import Noise
from hpm.data.crops import keys_cubic
from hpm.data.sources.annotations import Objects, objects_from

_GRID = 8  # cells along each side of a digit as it was digitized
_FRAGMENT = 4  # cells along each side of a fragment
_STROKE_LEVEL = 0.6  # interpolated ink at which a stroke's edge runs
_HALO_LEVEL = 0.1  # and at which the fragments behind the digit end, so that none changes its shape
_FIELDS_OF_VIEW = (0.2, 0.3, 0.45)  # side of a scene relative to its photograph's height
_COLUMNS = 8  # of noise, before those of the fragments
_FRAGMENT_COLUMNS = 5


class Photographs:
    """Photographs at several zooms, of which square pieces are cut without resampling.

    Args:
        pictures: uint8 arrays [height, width, 3], wider than high.
        size: S, side of the pieces in pixels.
        span: the part of each picture's width to cut from, as (left, right) in [0, 1].
    """

    def __init__(self, pictures: Sequence[np.ndarray], *, size: int, span: tuple[float, float]) -> None:
        self.size = size
        pieces, self.views = [], []
        offset = 0
        for picture in pictures:
            for field in _FIELDS_OF_VIEW:
                height = round(size / field)
                width = round(height * picture.shape[1] / picture.shape[0])
                zoomed = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
                left, right = round(width * span[0]), round(width * span[1])
                zoomed = zoomed[:, left:right]
                pieces.append(torch.from_numpy(zoomed.copy()).flatten(0, 1))
                self.views.append((offset, height, right - left))
                offset += pieces[-1].shape[0]
        self.pixels = torch.cat(pieces)  # [pixels, 3], all views one after the other

    def cut(self, uniform_N4: Tensor) -> Tensor:
        """Random pieces: which view, place from the top and the left, mirrored or not -> uint8 [N, 3, S, S]."""
        view_N = (uniform_N4[:, 0] * len(self.views)).long()
        offset_N, height_N, width_N = torch.tensor(self.views)[view_N].unbind(1)
        top_N = (uniform_N4[:, 1] * (height_N - self.size + 1)).long()
        left_N = (uniform_N4[:, 2] * (width_N - self.size + 1)).long()
        side_S = torch.arange(self.size)
        across_NS = torch.where(uniform_N4[:, 3:] < 0.5, side_S, self.size - 1 - side_S)
        row_NS = (top_N.unsqueeze(1) + side_S) * width_N.unsqueeze(1)
        index_NSS = row_NS.unsqueeze(2) + (across_NS + (offset_N + left_N).unsqueeze(1)).unsqueeze(1)
        return self.pixels[index_NSS].permute(0, 3, 1, 2)


class SceneRenderer:
    """Scenes of one split.

    Args:
        digits_KGG: float64 [K, 8, 8], ink from 0 to 1.
        classes_K: int64 [K], the class of each digit.
        photographs: what the digits are drawn over.
        clutter: F, fragments of other digits in each scene.
        scales: smallest and largest side of a digit relative to the scene's.
        background: strength of the photograph, 0 to 1.
        seed: of every choice.
    """

    def __init__(
        self,
        *,
        digits_KGG: Tensor,
        classes_K: Tensor,
        photographs: Photographs,
        clutter: int,
        scales: tuple[float, float],
        background: float,
        seed: int,
    ) -> None:
        self.digits_KGG = digits_KGG
        self.classes_K = classes_K
        self.photographs = photographs
        self.clutter = clutter
        self.scales = scales
        self.background = background
        self.seed = seed

    @property
    def size(self) -> int:
        """S."""
        return self.photographs.size

    @property
    def settings(self) -> tuple[object, ...]:
        """All that decides what the scenes look like, beside digits and photographs."""
        return len(self.digits_KGG), self.clutter, self.scales, self.background, self.seed

    def labels(self, indices_N: Tensor) -> Tensor:
        """The class of each scene's digit, int64 [N]."""
        return self.classes_K[(self._uniform(indices_N)[:, 0] * len(self.digits_KGG)).long()]

    def render(self, indices_N: Tensor) -> Tensor:
        """The scenes, uint8 [N, 3, S, S]."""
        uniform = self._uniform(indices_N)
        cell_N = self._cell(uniform)
        digit_NSS = self._digit(uniform, cell_N)
        behind_NSS = 1.0 - _contour(digit_NSS, _HALO_LEVEL, cell_N)
        fragments_NSS = _contour(self._fragments(uniform, cell_N), _STROKE_LEVEL, cell_N) * behind_NSS
        ink_NSS = torch.maximum(_contour(digit_NSS, _STROKE_LEVEL, cell_N), fragments_NSS)
        photo_N3SS = self.photographs.cut(uniform[:, 4:_COLUMNS]).float() * self.background
        # A mixture, so that strokes are (1 - background) * 255 brighter than whatever is under them.
        ink_N1SS = ink_NSS.unsqueeze(1) * (255.0 * (1.0 - self.background))
        return (photo_N3SS + ink_N1SS).round_().to(torch.uint8)

    def masks(self, indices_N: Tensor) -> Tensor:
        """Which pixels the digit's strokes cover, bool [N, S, S]. Fragments do not count."""
        uniform = self._uniform(indices_N)
        return self._digit(uniform, self._cell(uniform)) >= _STROKE_LEVEL

    def objects(self, indices_N: Tensor) -> list[Objects]:
        """The digit of each scene."""
        masks_NSS, labels = self.masks(indices_N), self.labels(indices_N).tolist()
        return [
            objects_from([mask_SS], [label], [False], height=self.size, width=self.size)
            for mask_SS, label in zip(masks_NSS, labels, strict=True)
        ]

    def _uniform(self, indices_N: Tensor) -> Tensor:
        # Float64 up to the ink: a matrix product may round differently in another batch, which must not show.
        return Noise(self.seed, 0, indices_N).uniform(_COLUMNS + _FRAGMENT_COLUMNS * self.clutter).double()

    def _cell(self, uniform: Tensor) -> Tensor:
        """Pixels along a cell of each scene's digit, [N]."""
        smallest, largest = self.scales
        return (smallest + (largest - smallest) * uniform[:, 1]) * (self.photographs.size / _GRID)

    def _digit(self, uniform: Tensor, cell_N: Tensor) -> Tensor:
        """The digit's ink, [N, S, S]."""
        digit_NGG = self.digits_KGG[(uniform[:, 0] * len(self.digits_KGG)).long()]
        corner_N2 = uniform[:, 2:4] * (self.photographs.size - _GRID * cell_N).unsqueeze(1)
        return self._draw(digit_NGG.unsqueeze(1), corner_N2.unsqueeze(1), cell_N)

    def _fragments(self, uniform: Tensor, cell_N: Tensor) -> Tensor:
        """The ink of all the fragments, [N, S, S]."""
        size, kinds = self.photographs.size, len(self.digits_KGG)
        if not self.clutter:
            return torch.zeros(len(uniform), size, size)
        uniform_NF5 = uniform[:, _COLUMNS:].unflatten(1, (self.clutter, _FRAGMENT_COLUMNS))
        digit_N1 = (uniform[:, :1] * kinds).long()
        other_NF = (digit_N1 + 1 + (uniform_NF5[:, :, 0] * (kinds - 1)).long()) % kinds

        # Which cells the fragment keeps, and where its middle goes.
        first_NF2 = (uniform_NF5[:, :, 1:3] * (_GRID - _FRAGMENT + 1)).long()
        grid_G = torch.arange(_GRID)
        kept_NF2G = (grid_G >= first_NF2.unsqueeze(3)) & (grid_G < first_NF2.unsqueeze(3) + _FRAGMENT)
        kept_NFGG = kept_NF2G[:, :, 0].unsqueeze(3) & kept_NF2G[:, :, 1].unsqueeze(2)
        middle_NF2 = uniform_NF5[:, :, 3:5] * size
        corner_NF2 = middle_NF2 - (first_NF2 + _FRAGMENT / 2) * cell_N.view(-1, 1, 1)
        return self._draw(self.digits_KGG[other_NF] * kept_NFGG, corner_NF2, cell_N)

    def _draw(self, ink_NFGG: Tensor, corner_NF2: Tensor, cell_N: Tensor) -> Tensor:
        """The sum of F grids of ink, interpolated smoothly, corners at (y, x) pixels: float32 [N, S, S]."""
        position_P = torch.arange(self.photographs.size) + 0.5
        inside_NF2P = (position_P - corner_NF2.unsqueeze(3)) / cell_N.view(-1, 1, 1, 1)
        weights_NF2PG = keys_cubic(inside_NF2P.unsqueeze(4) - (torch.arange(_GRID) + 0.5))
        down_NFPG = weights_NF2PG[:, :, 0] @ ink_NFGG
        # One product sums over the cells of all the grids.
        down_NPFG = down_NFPG.transpose(1, 2).flatten(2)
        across_NFGP = weights_NF2PG[:, :, 1].transpose(2, 3).flatten(1, 2)
        return (down_NPFG @ across_NFGP).float()


def _contour(ink_NSS: Tensor, level: float, cell_N: Tensor) -> Tensor:
    """1 where the ink exceeds the level, 0 where it does not, with an edge about a pixel wide instead of a cell."""
    return ((ink_NSS - level) * cell_N.float().clamp(min=1.5).view(-1, 1, 1) + 0.5).clamp_(0.0, 1.0)
