"""What an evaluation refuses before anything is measured: models, data and processes that cannot serve."""

from __future__ import annotations

import pytest

from hpm.data import DigitScenes
from hpm.evaluation import KNN, EvaluationContext, FineTune, Linear, LinearMAE, LowShot, Ridge, protocols
from hpm.evaluation.base import Evaluation
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin

SMALL = {"epochs": 1, "batch_size": 20, "warmup_epochs": 0}


@pytest.fixture
def swin() -> SimMIM:
    """A model without class token."""
    return SimMIM(
        encoder=Swin(img_size=16, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(2, 2), window_size=2),
    )


@pytest.mark.parametrize(
    "evaluation",
    [
        KNN(k=3, pool="token"),
        Linear(pool="token"),
        Ridge(pool="token"),
        FineTune(pool="token", **SMALL),
        LinearMAE(pool="token", accumulate=1, **SMALL),
        LowShot(pool="token", labels=100),
    ],
    ids=lambda evaluation: type(evaluation).__name__,
)
def test_a_class_token_that_the_model_does_not_have(
    evaluation: Evaluation, context: EvaluationContext, swin: SimMIM
) -> None:
    name = type(evaluation).__name__
    evaluation.check(context.source, context.model)
    with pytest.raises(
        ValueError, match=f"{name}.pool = 'token' needs a class token, and Swin has none; choose 'mean'"
    ):
        evaluation.check(context.source, swin)


@pytest.mark.parametrize("protocol", [name for name in protocols() if name != "classifier"])  # not of any model
def test_images_of_another_size(protocol: str, context: EvaluationContext) -> None:
    small = {"finetune": SMALL, "linear-mae": SMALL | {"accumulate": 1}, "low-shot": {"labels": 100}}
    evaluation = protocols()[protocol](**small.get(protocol, {}))
    evaluation.check(context.source, context.model)
    larger = DigitScenes(img_size=24, train_size=400, test_size=120)
    message = "img_size = 16 and in_chans = 3 do not fit the images of DigitScenes: 24 pixels and 3 channels"
    with pytest.raises(ValueError, match=message):
        evaluation.check(larger, context.model)


@pytest.mark.parametrize(
    ("evaluation", "world_size", "message"),
    [
        (FineTune(**SMALL), 3, "FineTune.batch_size = 20 must be divisible by FineTune.accumulate = 1 times"),
        (FineTune(**SMALL), 4, "micro-batches of 4 processes has an odd number of images in each"),
        (LinearMAE(accumulate=1, **SMALL), 3, "LinearMAE.batch_size = 20 must be divisible by LinearMAE.accumulate"),
        (LinearMAE(accumulate=1, **SMALL), 20, "lower LinearMAE.accumulate or start fewer processes"),
    ],
)
def test_processes_that_cannot_share_a_batch(evaluation: Evaluation, world_size: int, message: str) -> None:
    evaluation.check_world_size(1)
    with pytest.raises(ValueError, match=message):
        evaluation.check_world_size(world_size)


@pytest.mark.parametrize("protocol", ["agreement", "diagnostics", "knn", "linear", "localization", "low-shot", "ridge"])
def test_others_share_with_any_number_of_processes(protocol: str) -> None:
    protocols()[protocol]().check_world_size(7)
