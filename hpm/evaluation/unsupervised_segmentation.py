"""Unsupervised segmentation: is what is hard, attended to or set apart by features the object?

Shape suffixes: N images, L patches, S S height and width in pixels, A areas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor
from torchvision.ops import box_iou

from curriculum.hardness import position_scores
from curriculum.sizes import pair
from curriculum.validation import require_at_least, require_in
from hpm.data import VALIDATION, ImageSource, Objects, Split, annotated_views
from hpm.errors import UserError
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.gallery import Gallery, Panel, shown_rows
from hpm.evaluation.samples import held_out_batches, sample_indices
from hpm.evaluation.score_maps import score_maps
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel

_AREAS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
_AT_ONCE = 64  # images whose pixels' scores are sorted together
_LOCATED = 0.5  # the least intersection over union of boxes that counts as found


class _Scored(NamedTuple):
    """Images of a split that show an object.

    Args:
        scores: by name, of every patch, float [N, L].
        objects: of each image.
        rows: which of the images that were looked at these are, int64 [N].
    """

    scores: dict[str, Tensor]
    objects: list[Objects]
    rows: Tensor


class UnsupervisedSegmentation(Evaluation):
    """How well maps of scores, cut at a threshold, cover the objects, pixel by pixel: nothing is trained.

    An image's scores of patches are interpolated to its pixels (bilinear), and the share of the pixels that score
    highest, `area`, is taken for the object. Each kind of scores has the area that does best by the annotations of
    validation images, so that none is at a disadvantage for the scale of its values; `area` is in the metrics.

    Metrics, `unsupervised_segmentation/SCORES/...`: `iou`, the intersection over union with all pixels that show
    objects, mean over images; `corloc`, correct localization: the share of images where the box of the largest
    connected region has an intersection over union of half or more with the box of an object (Deselaers et al. 2010);
    `area`. SCORES are those of `Localization`, and `position`, the mean true loss at a patch's position in the other
    images. `unsupervised_segmentation/object_share` is the objects' share of the pixels, which is about the `iou` of
    taking everything.

    Images that show no object are left out, and so are pixels of crowds.

    Args:
        images: of each held-out split, at most. Default 512.
        areas: shares of an image's pixels to choose from, in (0, 1).

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "unsupervised-segmentation"
    metrics = DECLARED[protocol]

    def __init__(self, *, images: int = 512, areas: Sequence[float] = _AREAS) -> None:
        require_at_least("UnsupervisedSegmentation", 1, images=images)
        if isinstance(areas, int | float) or not areas:
            raise ValueError(f"UnsupervisedSegmentation.areas = {areas} must be a sequence of one number or more")
        for area in areas:
            require_in("UnsupervisedSegmentation", "(0, 1)", areas=area)
        self.images = images
        self.areas = tuple(areas)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        if not source.object_classes:
            raise ValueError(
                f"UnsupervisedSegmentation needs images whose objects are annotated, and {type(source).__name__} knows "
                "none; use CocoDetection (config data/coco_detection) or a data set of scenes"
            )
        super().check(source, model)
        if len(self.areas) > 1:
            source.validation()

    @torch.no_grad()
    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        self.check(context.source, context.model)
        splits = context.held_out
        if len(self.areas) > 1:
            splits = {VALIDATION: context.source.validation()} | splits
        scored = {name: self._score(context, name, split) for name, split in splits.items()}
        grid, size = context.model.grid, pair(context.source.img_size)
        areas = {
            name: self._best_area(scores_NL, scored[VALIDATION], grid) if len(self.areas) > 1 else self.areas[0]
            for name, scores_NL in next(iter(scored.values())).scores.items()
        }
        metrics: dict[str, float] = {}
        for which in context.held_out:
            of_split = scored[which]
            shares = [float(_foreground(objects).double().mean()) for objects in of_split.objects]
            own = {"object_share": math.fsum(shares) / len(shares)}
            for name in (name for name in of_split.scores if name in areas):  # one validation image has no others
                scores_NL, area = of_split.scores[name], areas[name]
                masks_NSS = highest(scores_NL, grid, size, area)
                own[f"{name}/iou"] = float(overlaps(scores_NL, of_split.objects, grid, [area]).mean())
                found = [located(mask, objects) for mask, objects in zip(masks_NSS, of_split.objects, strict=True)]
                own[f"{name}/corloc"] = sum(found) / len(found)
                own[f"{name}/area"] = area
            metrics |= {metric_on(which, f"unsupervised_segmentation/{name}"): value for name, value in own.items()}
        shown_on = list(context.held_out)[-1]
        context.galleries[self.protocol] = self._gallery(context, splits[shown_on], scored[shown_on], areas)
        return metrics

    def _score(self, context: EvaluationContext, name: str, split: Split) -> _Scored:
        parts: dict[str, list[Tensor]] = {}
        objects: list[Objects] = []
        for indices, batch, noise in held_out_batches(context, split, self.images):
            objects += annotated_views.objects(context.source, split, indices)
            for scores, values_NL in score_maps(context, batch, noise):
                parts.setdefault(scores, []).append(values_NL.double().cpu())
        maps = {scores: torch.cat(values) for scores, values in parts.items()}
        if len(objects) > 1 and "student/true_loss" in maps:  # of a single image there are no others
            maps["position"] = position_scores(maps["student/true_loss"])
        rows = torch.tensor([row for row, of_image in enumerate(objects) if bool(_foreground(of_image).any())]).long()
        if not len(rows):
            raise UserError(
                f"none of the {len(objects)} {name} images of {type(context.source).__name__} that were looked at "
                "shows an object"
            )
        return _Scored({scores: values[rows] for scores, values in maps.items()}, [objects[row] for row in rows], rows)

    def _best_area(self, scores_NL: Tensor, scored: _Scored, grid: tuple[int, int]) -> float:
        return self.areas[int(overlaps(scores_NL, scored.objects, grid, self.areas).mean(dim=1).argmax())]

    def _gallery(self, context: EvaluationContext, split: Split, scored: _Scored, areas: dict[str, float]) -> Gallery:
        chosen = shown_rows(len(scored.rows))
        looked_at = sample_indices(self.images, len(split))[scored.rows[chosen]]
        pixels = context.source.denormalize(context.source.load(split, looked_at))
        size = pixels.shape[2], pixels.shape[3]
        truth = torch.stack([_foreground(scored.objects[row]) for row in chosen.tolist()])
        panels = [Panel("objects", outlines=truth)]
        whose = "teacher/" if any(name.startswith("teacher/") for name in scored.scores) else "student/"
        for name, scores_NL in scored.scores.items():
            if name in ("pixels", "edge_density", "center") or name.startswith(whose):
                found = highest(scores_NL[chosen], context.model.grid, size, areas[name])
                panels.append(Panel(_title(name), scores=scores_NL[chosen], outlines=found))
        title = "scores of patches, and outlined what is taken for the object"
        return Gallery(title, pixels, context.model.grid, tuple(panels))


def highest(scores_NL: Tensor, grid: tuple[int, int], size: tuple[int, int], area: float) -> Tensor:
    """The share `area` of each image's pixels that score highest, bool [N, S, S]; all that tie with the last of them.

    Args:
        scores_NL: of the patches, in raster order; interpolated to pixels (bilinear).
        grid: rows and columns of patches.
        size: height and width of the images in pixels.
        area: in (0, 1); at least one pixel is taken.
    """
    maps_NK = _enlarged(scores_NL, grid, size)
    return (maps_NK >= _least(maps_NK.sort(dim=1, descending=True).values, area)).view(-1, *size)


def overlaps(scores_NL: Tensor, objects: Sequence[Objects], grid: tuple[int, int], areas: Sequence[float]) -> Tensor:
    """The intersection over union of what scores highest with the pixels that show objects, float64 [A, N].

    Args:
        scores_NL: of the patches, as `highest` takes them.
        objects: of each image, at least one that is no crowd. Pixels of crowds alone do not count.
        grid: rows and columns of patches.
        areas: shares of the pixels.
    """
    rows = []
    for scores, of_images in zip(scores_NL.split(_AT_ONCE), _chunks(objects), strict=True):
        objects_NSS = torch.stack([_foreground(of_image) for of_image in of_images])
        counted_NK = torch.stack([~_crowd(of_image) for of_image in of_images]).flatten(1)
        maps_NK = _enlarged(scores, grid, (objects_NSS.shape[1], objects_NSS.shape[2]))
        ordered_NK, objects_NK = maps_NK.sort(dim=1, descending=True).values, objects_NSS.flatten(1)
        ious = []
        for area in areas:
            found_NK = (maps_NK >= _least(ordered_NK, area)) & counted_NK
            ious.append((found_NK & objects_NK).sum(dim=1).double() / (found_NK | objects_NK).sum(dim=1))
        rows.append(torch.stack(ious))
    return torch.cat(rows, dim=1)


def _enlarged(scores_NL: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Float64 [N, pixels]."""
    maps_N1SS = F.interpolate(scores_NL.double().unflatten(1, grid).unsqueeze(1), size, mode="bilinear")
    return maps_N1SS.flatten(1)


def _least(ordered_NK: Tensor, area: float) -> Tensor:
    """The lowest of the highest scores that make up a share of the pixels, [N, 1]; scores from the highest."""
    count = max(1, round(area * ordered_NK.shape[1]))
    return ordered_NK[:, count - 1 : count]


def _chunks(objects: Sequence[Objects]) -> Iterator[Sequence[Objects]]:
    for first in range(0, len(objects), _AT_ONCE):
        yield objects[first : first + _AT_ONCE]


def located(mask_SS: Tensor, objects: Objects) -> bool:
    """Whether the box of a mask's largest connected region (by edges) meets the box of an object by half or more.

    Args:
        mask_SS: bool, with one pixel at least.
        objects: those that are crowds do not count.
    """
    regions, _ = ndimage.label(mask_SS.numpy())
    largest = 1 + int(np.bincount(regions.ravel())[1:].argmax())
    rows, columns = np.nonzero(regions == largest)
    box_14 = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
    boxes_O4 = objects.boxes_O4[~objects.crowd_O]
    return bool((box_iou(box_14, boxes_O4) >= _LOCATED).any())


def _foreground(objects: Objects) -> Tensor:
    """The pixels that show an object, bool [S, S]."""
    return objects.masks_OHW[~objects.crowd_O].any(dim=0)


def _crowd(objects: Objects) -> Tensor:
    """The pixels that show a crowd and no object, bool [S, S]."""
    return objects.masks_OHW[objects.crowd_O].any(dim=0) & ~_foreground(objects)


def _title(name: str) -> str:
    whose, _, what = name.rpartition("/")
    words = {"edge_density": "edges", "pixels": "pixels, cut", "features": "features, cut"}.get(what, what)
    return f"{words.replace('_', ' ')}\n{whose}"
