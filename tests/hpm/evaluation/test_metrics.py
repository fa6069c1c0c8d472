"""Every evaluation is found, and declares each metric that it gives, with its unit."""

from __future__ import annotations

import dataclasses

import pytest

from curriculum import Constant, Curriculum, EdgeDensity, HardestFirst
from hpm.evaluation import (
    KNN,
    Agreement,
    Diagnostics,
    Evaluation,
    EvaluationContext,
    FineTune,
    HardnessShare,
    LiDAR,
    Linear,
    LinearMAE,
    Localization,
    LowShot,
    RankMe,
    Ridge,
    Segmentation,
    UnsupervisedSegmentation,
    protocols,
)
from hpm.metrics import DECLARED, Metric, Unit, find_metric, half_interval, unit_of

FROZEN = {"train_images": 60, "test_images": 20, "baselines": True}
TRAINED = {"epochs": 1, "warmup_epochs": 0, "precision": "fp32", "test_images": 20, "baselines": True}

# Between them, the evaluations of a protocol give every metric that it declares.
EVERY_METRIC: dict[str, list[Evaluation]] = {
    "agreement": [Agreement(images=20)],
    "diagnostics": [Diagnostics(images=20)],
    "finetune": [FineTune(batch_size=200, patience=0.5, **TRAINED | {"epochs": 3})],
    "hardness-share": [HardnessShare(images=20)],
    "knn": [KNN(k=3, **FROZEN), KNN(k=[3, 5], **FROZEN)],
    "lidar": [LiDAR(images=20, views=2, baselines=True)],
    "linear": [Linear(**FROZEN)],
    "linear-mae": [LinearMAE(batch_size=200, accumulate=1, **TRAINED)],
    "localization": [Localization(images=20)],
    "low-shot": [LowShot(labels=20, draws=draws, epochs=8, batch_size=10, test_images=20, lr=1e-3) for draws in (1, 2)],
    "rankme": [RankMe(images=20, baselines=True)],
    "ridge": [Ridge(**FROZEN)],
    "segmentation": [Segmentation(k=[1, 3], strengths=[1.0, 10.0], **FROZEN)],
    "unsupervised-segmentation": [UnsupervisedSegmentation(images=20)],
}


@pytest.fixture
def choosing(context: EvaluationContext) -> EvaluationContext:
    """Under a curriculum that masks the hardest patches alone."""
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=EdgeDensity(), sampler=HardestFirst())
    return dataclasses.replace(context, curriculum=curriculum)


def test_every_evaluation_is_found() -> None:
    found = protocols()
    assert list(found) == sorted(found) == list(DECLARED)
    assert {name: type(evaluations[0]) for name, evaluations in EVERY_METRIC.items()}.items() <= found.items()
    of_others = {
        "classifier",
        "detection",
        "segmentation-finetune",
        "negatives",
        "shown-images",
    }  # which have their own
    assert found.keys() - EVERY_METRIC.keys() == of_others
    # By name, for gin makes subclasses of the same names.
    concrete = {
        cls.__qualname__ for cls in _subclasses(Evaluation) if cls.__module__.startswith("hpm.") and cls.protocol
    }
    assert concrete == {cls.__qualname__ for cls in found.values()}


def _subclasses(cls: type[Evaluation]) -> set[type[Evaluation]]:
    return {cls}.union(*(_subclasses(subclass) for subclass in cls.__subclasses__()))


@pytest.mark.parametrize("protocol", EVERY_METRIC)
def test_every_metric_is_declared_and_every_declared_metric_given(choosing: EvaluationContext, protocol: str) -> None:
    names: set[str] = set()
    for evaluation in EVERY_METRIC[protocol]:
        evaluation.check(choosing.source, choosing.model)
        metrics = evaluation.measure(choosing)
        assert [name for name in metrics if evaluation.find_metric(name) is None] == []
        for name, value in metrics.items():
            if unit_of(name) in (Unit.ACCURACY, Unit.IOU, Unit.SHARE, Unit.SCORE):
                assert 0 <= value <= 1, name
        names |= metrics.keys()
    declared = protocols()[protocol].metrics
    assert [metric for metric in declared if not any(metric.matches(name) for name in names)] == []


def test_no_metric_is_declared_by_two_evaluations() -> None:
    for cls in protocols().values():
        for metric in cls.metrics:
            name = metric.pattern.replace("*", "0")
            assert [other for other in protocols().values() if other.find_metric(name)] == [cls]


@pytest.mark.parametrize(
    ("name", "unit", "higher_is_better"),
    [
        ("knn/pretrained", Unit.ACCURACY, True),
        ("knn/raw_pixels/k20", Unit.ACCURACY, True),
        ("linear_mae/pretrained_top5", Unit.ACCURACY, True),
        ("low_shot/gain", Unit.POINTS, True),
        ("low_shot/pretrained/draw12", Unit.ACCURACY, True),
        ("low_shot/pretrained/interval", Unit.POINTS, None),
        ("agreement/teacher", Unit.CORRELATION, True),
        ("agreement/teacher_top", Unit.SHARE, True),
        ("curriculum/hardness_gap", Unit.LOSS, True),
        ("curriculum/hardness_share", Unit.RATIO, True),
        ("curriculum/hardness_share_edges_not_blank", Unit.RATIO, None),
        ("agreement/position_not_blank", Unit.CORRELATION, None),
        ("low_shot/scratch/lr/draw0", Unit.SETTING, None),
        ("finetune/pretrained/blr", Unit.SETTING, None),
        ("curriculum/alpha", Unit.NUMBER, None),
        ("localization/edge_density/auroc", Unit.SCORE, True),
        ("localization/student/features/pointing_game", Unit.SHARE, True),
        ("lidar/pretrained", Unit.NUMBER, True),
        ("lidar/initialization", Unit.NUMBER, None),
        ("rankme/pretrained", Unit.NUMBER, True),
        ("rankme/initialization", Unit.NUMBER, None),
        ("segmentation/knn/pretrained", Unit.IOU, True),
        ("validation/segmentation/linear/raw_pixels", Unit.IOU, True),
        ("unsupervised_segmentation/teacher/attention/iou", Unit.IOU, True),
        ("unsupervised_segmentation/position/corloc", Unit.SHARE, None),
        ("unsupervised_segmentation/pixels/area", Unit.SETTING, None),
        ("unsupervised_segmentation/object_share", Unit.SHARE, None),
    ],
)
def test_a_unit_by_name(name: str, unit: Unit, higher_is_better: bool | None) -> None:
    metric = find_metric(name)
    assert metric is not None
    assert (metric.unit, metric.higher_is_better) == (unit, higher_is_better)
    assert unit_of(name) is unit


@pytest.mark.parametrize("name", ["loss", "knn", "knn/pretrainde", "knn/pretrained/k5/more", "mine/accuracy"])
def test_what_nobody_declares_is_a_number(name: str) -> None:
    assert find_metric(name) is None
    assert unit_of(name) is Unit.NUMBER


def test_a_star_stands_for_one_stretch_between_slashes() -> None:
    metric = Metric("low_shot/*/draw*", Unit.ACCURACY)
    assert metric.matches("low_shot/scratch/draw3")
    assert not metric.matches("low_shot/scratch")
    assert not metric.matches("low_shot/a/b/draw3")


def test_people_read_accuracies_in_percent() -> None:
    assert Unit.ACCURACY.readable(0.81254) == "81.25 %"
    assert Unit.IOU.readable(0.31254) == "31.25 %"
    assert Unit.POINTS.readable(-0.0125) == "-1.25 points"
    assert Unit.CORRELATION.readable(0.77312) == "0.7731"
    assert Unit.SETTING.readable(1e-5) == "1e-05"


def test_values_are_those_of_the_draws_where_an_evaluation_repeats_by_itself(context: EvaluationContext) -> None:
    low_shot = LowShot(labels=20, draws=3, epochs=4, batch_size=10, test_images=60, lr=1e-3)
    values, metrics = low_shot.measure_values(context), low_shot.measure(context)
    trained = ("pretrained", "scratch", "scratch_equal_compute")
    accuracies = {f"low_shot/{name}" for name in (*trained, "raw_pixels", "gain")}
    chosen = {f"low_shot/{name}/{what}" for name in trained for what in ("lr", "epochs")}
    assert values.keys() == accuracies | chosen
    for name, draws in values.items():
        assert draws == [metrics[f"{name}/draw{draw}"] for draw in range(3)]
        assert (metrics.get(f"{name}/interval") == half_interval(draws)) == (name in accuracies)
    knn = KNN(k=3, train_images=60, test_images=20)
    assert knn.measure_values(context) == {name: [value] for name, value in knn.measure(context).items()}
