"""The metrics that the evaluations of this package give, by protocol.

They stand here rather than with the evaluations so that comparing runs waits for no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hpm.metrics.metric import Metric, Unit

_CONTROLS = ("position", "edges")
"""The free controls that `Agreement` correlates with the true loss."""

_SCORES = ("predicted_loss", "true_loss", "attention")

_LOCATING = (
    *(f"{of}/{scores}" for of in ("teacher", "student") for scores in (*_SCORES, "features")),
    *("pixels", "edge_density", "center", "random"),
)
"""The scores that `Localization` asks where the object is."""

_LOW_SHOT = ("pretrained", "scratch", "scratch_equal_compute")
"""The networks that `LowShot` trains."""


def _probe(protocol: str, *suffixes: str) -> Iterator[Metric]:
    """Accuracies on the student's features, and on both baselines."""
    for suffix in ("", *suffixes):
        for features in ("pretrained", "initialization", "raw_pixels"):
            yield Metric(f"{protocol}/{features}{suffix}", Unit.ACCURACY)


def _supervised(prefix: str, *baselines: str) -> Iterator[Metric]:
    """Accuracies of a `SupervisedProtocol`, of the student and from random initializations."""
    for network in ("pretrained", *baselines):
        for top in ("", "_top5"):
            yield Metric(f"{prefix}/{network}{top}", Unit.ACCURACY)


def _agreement() -> Iterator[Metric]:
    yield Metric("agreement/teacher", Unit.CORRELATION)
    yield Metric("agreement/teacher_top", Unit.SHARE)
    yield Metric("agreement/student", Unit.CORRELATION)
    yield Metric("agreement/student_top", Unit.SHARE)
    yield Metric("agreement/teacher_not_blank", Unit.CORRELATION)
    for control in _CONTROLS:
        for among in ("", "_not_blank"):
            yield Metric(f"agreement/{control}{among}", Unit.CORRELATION, higher_is_better=None)


def _diagnostics() -> Iterator[Metric]:
    yield Metric("curriculum/alpha", Unit.NUMBER, higher_is_better=None)
    yield Metric("curriculum/hardness_gap", Unit.LOSS)
    yield Metric("curriculum/hardness_gap_relative", Unit.RATIO)
    yield Metric("curriculum/hard_share", Unit.SHARE)
    yield Metric("curriculum/mask_entropy", Unit.RATIO, higher_is_better=None)
    yield Metric("curriculum/coverage_min", Unit.SHARE, higher_is_better=None)
    yield Metric("curriculum/coverage_max", Unit.SHARE, higher_is_better=None)
    yield Metric("curriculum/object_overlap", Unit.SHARE)
    yield Metric("curriculum/object_overlap_to_chance", Unit.RATIO)


def _hardness_share() -> Iterator[Metric]:
    for control, better in (("", True), ("_position", None), ("_edges", None), ("_object", None)):
        for among in ("", "_not_blank"):
            name = f"curriculum/hardness_share{control}{among}"
            yield Metric(name, Unit.RATIO, higher_is_better=better, of_training_images=True)
    yield Metric("curriculum/hardness_share_mask", Unit.RATIO, of_training_images=True)
    yield Metric("curriculum/attainable_hardness", Unit.RATIO, higher_is_better=None, of_training_images=True)
    yield Metric("curriculum/object_masked", Unit.SHARE, higher_is_better=None, of_training_images=True)


def _detection() -> Iterator[Metric]:
    for network in ("pretrained", "scratch"):
        for kind in ("box", "mask"):
            for figure in ("ap", "ap50", "ap75"):
                yield Metric(f"detection/{network}/{kind}_{figure}", Unit.AP)


def _finetune() -> Iterator[Metric]:
    yield from _supervised("finetune", "scratch", "scratch_equal_compute")
    for setting in ("blr", "epochs"):
        yield Metric(f"finetune/*/{setting}", Unit.SETTING, higher_is_better=None)


def _localization() -> Iterator[Metric]:
    yield Metric("localization/object_share", Unit.SHARE, higher_is_better=None)
    for scores in _LOCATING:
        yield Metric(f"localization/{scores}/auroc", Unit.SCORE)
        yield Metric(f"localization/{scores}/average_precision", Unit.SCORE)
        yield Metric(f"localization/{scores}/pointing_game", Unit.SHARE)


def _segmentation() -> Iterator[Metric]:
    for classifier in ("knn", "linear"):
        for features in ("pretrained", "initialization", "raw_pixels"):
            yield Metric(f"segmentation/{classifier}/{features}", Unit.IOU)
    for chosen in ("knn/pretrained/k", "linear/pretrained/strength"):
        yield Metric(f"segmentation/{chosen}", Unit.SETTING, higher_is_better=None)


def _low_shot() -> Iterator[Metric]:
    for draw in ("", "/draw*"):
        for name in (*_LOW_SHOT, "raw_pixels"):
            yield Metric(f"low_shot/{name}{draw}", Unit.ACCURACY)
    yield Metric("low_shot/gain", Unit.POINTS)
    yield Metric("low_shot/gain/draw*", Unit.POINTS)
    for name in _LOW_SHOT:
        for chosen in ("/lr", "/epochs"):
            for draw in ("", "/draw*"):
                yield Metric(f"low_shot/{name}{chosen}{draw}", Unit.SETTING, higher_is_better=None)
    yield Metric("low_shot/*/interval", Unit.POINTS, higher_is_better=None)


def _negatives() -> Iterator[Metric]:
    for percent in (10, 50, 90, 99):
        yield Metric(f"negatives/similarity_{percent}", Unit.NUMBER, higher_is_better=None)
    for percent in (10, 50, 90, 99):
        yield Metric(f"negatives/positive_{percent}", Unit.NUMBER, higher_is_better=None)
    yield Metric("negatives/above_positive", Unit.SHARE, higher_is_better=False)
    yield Metric("negatives/same_object", Unit.SHARE, higher_is_better=None)
    yield Metric("negatives/same_object_hardest", Unit.SHARE, higher_is_better=None)


def _shown_images() -> Iterator[Metric]:
    for which in ("easiest_quarter", "hardest_quarter", "most"):
        yield Metric(f"shown_images/{which}", Unit.RATIO, higher_is_better=None, of_training_images=True)
    yield Metric("shown_images/never", Unit.SHARE, higher_is_better=None, of_training_images=True)


def _unsupervised_segmentation() -> Iterator[Metric]:
    yield Metric("unsupervised_segmentation/object_share", Unit.SHARE, higher_is_better=None)
    for scores in (*_LOCATING, "position"):
        better = True if "/" in scores else None  # what needs no model is a control
        yield Metric(f"unsupervised_segmentation/{scores}/iou", Unit.IOU, higher_is_better=better)
        yield Metric(f"unsupervised_segmentation/{scores}/corloc", Unit.SHARE, higher_is_better=better)
        yield Metric(f"unsupervised_segmentation/{scores}/area", Unit.SETTING, higher_is_better=None)


DECLARED: Mapping[str, tuple[Metric, ...]] = {
    "agreement": tuple(_agreement()),
    "classifier": (
        Metric("classifier/pretrained", Unit.ACCURACY),
        Metric("classifier/teacher", Unit.ACCURACY),
    ),
    "detection": tuple(_detection()),
    "diagnostics": tuple(_diagnostics()),
    "finetune": tuple(_finetune()),
    "hardness-share": tuple(_hardness_share()),
    "knn": tuple(_probe("knn", "/k*")),
    "lidar": (
        Metric("lidar/pretrained", Unit.NUMBER, of_training_images=True),
        Metric("lidar/initialization", Unit.NUMBER, higher_is_better=None, of_training_images=True),
    ),
    "linear": tuple(_probe("linear")),
    "linear-mae": tuple(_supervised("linear_mae", "initialization")),
    "localization": tuple(_localization()),
    "low-shot": tuple(_low_shot()),
    "negatives": tuple(_negatives()),
    "rankme": (
        Metric("rankme/pretrained", Unit.NUMBER, of_training_images=True),
        Metric("rankme/initialization", Unit.NUMBER, higher_is_better=None, of_training_images=True),
    ),
    "ridge": tuple(_probe("ridge")),
    "segmentation": tuple(_segmentation()),
    "segmentation-finetune": (
        Metric("segmentation_finetune/pretrained", Unit.IOU),
        Metric("segmentation_finetune/scratch", Unit.IOU),
    ),
    "shown-images": tuple(_shown_images()),
    "unsupervised-segmentation": tuple(_unsupervised_segmentation()),
}
"""The metrics of each protocol, the first that matches a name counts."""


def find_metric(name: str) -> Metric | None:
    """What the evaluations of this package declare about a metric; None where none of them gives it.

    Args:
        name: the metric's, "knn/pretrained".
    """
    return next((metric for metrics in DECLARED.values() for metric in metrics if metric.matches(name)), None)


def unit_of(name: str) -> Unit:
    """The unit of a metric; `Unit.NUMBER` where no evaluation of this package declares it.

    Args:
        name: the metric's, "knn/pretrained".
    """
    metric = find_metric(name)
    return Unit.NUMBER if metric is None else metric.unit
