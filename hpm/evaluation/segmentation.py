"""Segmentation: the class of every pixel, by classifiers on frozen patch tokens.

Shape suffixes: N images, T tokens of an image, D width, S S height and width in pixels.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from curriculum.validation import require_at_least, require_in, require_positive
from hpm.data import BACKGROUND, IGNORED, VALIDATION, ImageSource, annotated_views
from hpm.errors import Notice, UserError
from hpm.evaluation.base import Evaluation, EvaluationContext
from hpm.evaluation.chosen_images import ChosenImages, choose_images, features_of_models
from hpm.evaluation.dense.class_iou import ConfusionMatrix
from hpm.evaluation.dense.patch_classifiers import KNNPatches, LinearPatches, PatchClassifier, Segmented
from hpm.evaluation.dense.patch_tokens import patch_pixels, patch_tokens, token_grid
from hpm.evaluation.gallery import Gallery, Panel, shown_rows
from hpm.metrics import DECLARED, metric_on
from hpm.models.base import MaskedModel

CLASSIFIERS = ("knn", "linear")
_TITLES = {"knn": "k-NN", "linear": "linear"}
_NAMED = 3  # classes below an image of a picture
_CHOICES = (["knn"], ["linear"], ["knn", "linear"])


class Segmentation(Evaluation):
    """Mean intersection over union (mIoU) of pixels classified by the student's frozen patch tokens.

    Images and class maps are seen as other evaluations see images, at the model's size, not augmented; the mean is
    over the classes that some scored pixel is of or was taken for. As others evaluate frozen dense features, CAPI
    (Darcet et al. 2025) and DINOv2 (Oquab et al. 2024); the figures are of the images as the model sees them, and not
    of the stored ones.

    Metrics: `segmentation/CLASSIFIER/pretrained` and, with `baselines`, `segmentation/CLASSIFIER/initialization` and
    `segmentation/CLASSIFIER/raw_pixels`, of which the features are the pixels of a token's own patch. What was chosen
    for the first, where there was a choice, is `segmentation/knn/pretrained/k` and
    `segmentation/linear/pretrained/strength`.

    Args:
        classifiers: which of "knn", `KNNPatches`, and "linear", `LinearPatches`. Default both.
        train_images: at most so many training images, the same for every seed; None for all. Default 2000.
        test_images: at most so many test images, and as many validation images; None for all. Default 1000.
        k: neighboring patches that vote, to choose from by the validation images' mIoU. Default (1, 3, 10, 30).
        temperature: of the vote. Default 0.07.
        strengths: L2 strengths of the linear classifier, to choose from likewise. Default (0.1, 1, 10, 100).
        baselines: whether to measure the random initialization and raw pixels too. Default False.
        num_workers: processes that load images; 0 for none but this one. Default 0.

    Raises:
        ValueError: naming the setting at fault.
    """

    protocol = "segmentation"
    metrics = DECLARED[protocol]
    seeded = False
    shared = True

    def __init__(
        self,
        *,
        classifiers: Sequence[str] = CLASSIFIERS,
        train_images: int | None = 2000,
        test_images: int | None = 1000,
        k: Sequence[int] = (1, 3, 10, 30),
        temperature: float = 0.07,
        strengths: Sequence[float] = (0.1, 1.0, 10.0, 100.0),
        baselines: bool = False,
        num_workers: int = 0,
    ) -> None:
        if isinstance(classifiers, str) or sorted(classifiers) not in _CHOICES:
            raise ValueError(f"Segmentation.classifiers = {classifiers!r} must be one or both of {CLASSIFIERS}")
        for name, values in (("k", k), ("strengths", strengths)):
            if isinstance(values, int | float) or not values:
                raise ValueError(f"Segmentation.{name} = {values} must be a sequence of one number or more")
        for count in k:
            require_at_least("Segmentation", 1, k=count)
        for strength in strengths:
            require_in("Segmentation", "[1e-12, 1e12]", strengths=strength)
        require_at_least("Segmentation", 1, train_images=train_images, test_images=test_images)
        require_in("Segmentation", "[0, 1024]", num_workers=num_workers)
        require_positive("Segmentation", temperature=temperature)
        self.classifiers = tuple(classifiers)
        self.train_images = train_images
        self.test_images = test_images
        self.k = tuple(k)
        self.temperature = float(temperature)
        self.strengths = tuple(strengths)
        self.baselines = baselines
        self.num_workers = num_workers
        self._settings = {"knn": self.k, "linear": self.strengths}
        self.chooses = any(len(self._settings[name]) > 1 for name in self.classifiers)

    def check(self, source: ImageSource, model: MaskedModel) -> None:
        require_pixel_classes("Segmentation", source)
        super().check(source, model)
        images = len(source.train()) if self.train_images is None else min(self.train_images, len(source.train()))
        if "knn" in self.classifiers and max(self.k) > images * model.num_patches:
            raise ValueError(
                f"Segmentation.k = {self.k} asks for more than the {images * model.num_patches} training patches"
            )
        if self.chooses:
            source.validation()

    def __call__(self, context: EvaluationContext) -> dict[str, float]:
        chosen = choose_images(
            context, train_images=self.train_images, test_images=self.test_images, chooses=self.chooses
        )
        maps: dict[str, Tensor] = {}
        metrics: dict[str, float] = {}
        panels: list[Panel] = []
        shown_on = list(context.held_out)[-1]
        for name, features in self._features(context, chosen):
            if not maps:
                maps = {
                    which: annotated_views.class_maps(context.source, images.split, images.read_indices())
                    for which, images in chosen.items()
                }
                _require_annotated(context.source, maps)
                _tell_absent(context.source, maps["train"])
            grid = token_grid(features["train"].shape[1], context.model.grid)
            segmented = {which: Segmented(tokens, maps[which], grid) for which, tokens in features.items()}
            for classifier_name in self.classifiers:
                classifier = self._classifier(classifier_name)
                classifier.fit(
                    segmented["train"],
                    segmented.get(VALIDATION) if self.chooses else None,
                    num_classes=len(context.source.pixel_classes),
                    device=context.device,
                )
                for which in context.held_out:
                    predicted_NSS = classifier.predict(segmented[which].features_NTD)
                    matrix = ConfusionMatrix(len(context.source.pixel_classes))
                    matrix.add(maps[which], predicted_NSS)
                    metric = f"{self.protocol}/{classifier_name}/{name}"
                    metrics[metric_on(which, metric)] = note_iou(context, which, metric, matrix)
                    if name == "pretrained" and which == shown_on:
                        rows = shown_rows(len(predicted_NSS))
                        if len(self._settings[classifier_name]) > 1:
                            metrics |= {f"{metric}/{setting}": value for setting, value in classifier.chosen.items()}
                        title = f"{_TITLES[classifier_name]}\nmIoU {100 * matrix.mean_iou():.1f} %"
                        panels.append(class_panel(context, title, predicted_NSS[rows]))
        if panels:
            context.galleries[self.protocol] = _gallery(context, chosen[shown_on], maps[shown_on], panels)
        return metrics

    def _classifier(self, name: str) -> PatchClassifier:
        return LinearPatches(self.strengths) if name == "linear" else KNNPatches(self.k, self.temperature)

    def _features(
        self, context: EvaluationContext, chosen: Mapping[str, ChosenImages]
    ) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Name, and features [N, T, D] of each split's chosen images, of everything that is to be judged."""

        def of_model(model: MaskedModel, images: ChosenImages) -> Tensor:
            return patch_tokens(
                model.encoder,
                context.source,
                images.split,
                images.indices_N,
                device=context.device,
                num_workers=self.num_workers,
                unreadable=images.unreadable,
            )

        tokens = 0
        for name, features in features_of_models(context, chosen, of_model, initialization=self.baselines):
            tokens = features["train"].shape[1]
            yield name, features
        if self.baselines and context.processes.is_main:
            grid = token_grid(tokens, context.model.grid)
            yield (
                "raw_pixels",
                {
                    which: patch_pixels(context.source, split, indices_N, grid, unreadable=unreadable)
                    for which, (split, indices_N, unreadable) in chosen.items()
                },
            )


def require_pixel_classes(owner: str, source: ImageSource) -> None:
    """For evaluations that need the class of every pixel.

    Args:
        owner: who needs them, as a config writes it.
        source: images and annotations.

    Raises:
        ValueError: where there are no classes of pixels, or one alone.
    """
    if len(source.pixel_classes) < 2:
        name = type(source).__name__
        raise ValueError(
            f"{owner} needs the class of every pixel, which {name} does not know; use SegmentationFolder or "
            "CocoDetection (configs data/segmentation_folder and data/coco_detection), or a data set of scenes"
        )


def _require_annotated(source: ImageSource, maps: Mapping[str, Tensor]) -> None:
    for which, maps_NSS in maps.items():
        if not bool((maps_NSS != IGNORED).any()):
            raise UserError(f"no pixel of the {len(maps_NSS)} {which} images of {type(source).__name__} has a class")


def _tell_absent(source: ImageSource, maps_NSS: Tensor) -> None:
    """Classes that nothing can learn, and how much is left out: a mask may say something else than its maker meant."""
    counted = maps_NSS != IGNORED
    counts = torch.bincount(maps_NSS[counted].long(), minlength=len(source.pixel_classes))
    absent = [name for name, count in zip(source.pixel_classes, counts.tolist(), strict=True) if not count]
    if absent:
        more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
        left_out = 100 * (1 - counted.double().mean().item())
        text = (
            f"no pixel of the {len(maps_NSS):,} training images is of {', '.join(absent[:_NAMED])}{more}, of "
            f"{len(source.pixel_classes)} classes; {left_out:.0f} % of their pixels count for nothing"
        )
        warnings.warn(text, Notice, stacklevel=2)


def note_iou(context: EvaluationContext, split_name: str, metric: str, matrix: ConfusionMatrix) -> float:
    """The mIoU; that of each class that there is to see is noted in `context.per_class`.

    Args:
        context: knows the classes.
        split_name: where it was measured.
        metric: its name.
        matrix: what was taken for which.
    """
    of_classes = context.per_class.setdefault(metric_on(split_name, metric), {})
    for name, iou in zip(context.source.pixel_classes, matrix.iou().tolist(), strict=True):
        if math.isfinite(iou):
            of_classes.setdefault(name, []).append(iou)
    return matrix.mean_iou()


def class_panel(context: EvaluationContext, title: str, maps_NSS: Tensor) -> Panel:
    """Class maps for a picture; below each image the classes that have most of its pixels, the background aside.

    Args:
        context: knows the classes.
        title: over it.
        maps_NSS: int16, of the images of the picture.
    """
    names, notes = context.source.pixel_classes, []
    has_background = names[0].startswith(BACKGROUND)
    for map_SS in maps_NSS:
        counts = torch.bincount(map_SS[map_SS != IGNORED].long(), minlength=len(names))
        if has_background:
            counts[0] = 0
        order = [label for label in counts.argsort(descending=True).tolist() if counts[label]]
        more = " ..." if len(order) > _NAMED else ""
        notes.append(", ".join(names[label] for label in order[:_NAMED]) + more or "nothing")
    return Panel(title, class_maps=maps_NSS, has_background=has_background, notes=tuple(notes))


def _gallery(context: EvaluationContext, images: ChosenImages, maps_NSS: Tensor, panels: Sequence[Panel]) -> Gallery:
    rows = shown_rows(len(maps_NSS))
    pixels = context.source.denormalize(context.source.load(images.split, images.indices_N[rows]))
    truth = class_panel(context, "annotated", maps_NSS[rows])
    return Gallery("segmentation of frozen patch tokens", pixels, context.model.grid, (truth, *panels))
