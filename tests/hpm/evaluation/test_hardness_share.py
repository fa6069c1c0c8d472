"""The share of attainable hardness of a model and its curriculum, without a run and in one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hardness_cases import MASK, OBJECT_MASKED, SHARE, in_run, read_losses, under
from torch import Tensor

from curriculum import (
    Batch,
    Cached,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    LossMemory,
    Mixture,
    Noise,
    ObjectShare,
    PartialReconstruction,
    Parts,
    PredictedLoss,
    Quotas,
    Ramp,
    Random,
    Sampler,
    Switched,
    TrainingContext,
    TrueLoss,
    Uniform,
)
from curriculum.hardness import extra_loss, not_blank
from curriculum.teacher import Teacher
from hpm.errors import Notice
from hpm.evaluation import EvaluationContext, HardnessShare

OWN = [SHARE, f"{SHARE}_not_blank"]
CONTROLS = [f"{SHARE}_{control}{among}" for control in ("position", "edges", "object") for among in ("", "_not_blank")]
NAMES = [*OWN, *CONTROLS, MASK, "curriculum/attainable_hardness", OBJECT_MASKED]


class Recorded(DifficultyEstimator):
    """Scores edges, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Batch, int, Noise]] = []

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        self.asked.append((batch, num_masked, noise))
        return EdgeDensity()(batch, teacher, num_masked=num_masked, noise=noise)


class Memory(DifficultyEstimator):
    """Knows images by their index alone, and of these the even ones."""

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        scores_NL = torch.full((len(batch), batch.num_patches), math.nan)
        if batch.indices is not None:
            scores_NL[batch.indices % 2 == 0] = torch.arange(float(batch.num_patches))
        return scores_NL


@pytest.mark.parametrize("top", [0.5, 0.2])
def test_each_image_by_hand(context: EvaluationContext, top: float) -> None:
    """The clock stands at step 4, so that step 3 is asked about; 12 of 16 patches are masked, and 6 or 2 are hard."""
    context = in_run(under(context, EdgeDensity()))
    metrics = HardnessShare(images=60, masks=4, top=top)(context)
    assert context.training_batches is not None
    batch = Batch(torch.cat([part.images for part in context.training_batches(60)]), 4)
    one, other = (read_losses(context, batch, half, 4) for half in range(2))
    edges = EdgeDensity()(batch, None, num_masked=12, noise=Noise(0, 0, torch.arange(60)))
    position = torch.stack([torch.cat([one[:n] + other[:n], one[n + 1 :] + other[n + 1 :]]).mean(0) for n in range(60)])
    k = {0.5: 6, 0.2: 2}[top]
    for among, chosen in (("", None), ("_not_blank", not_blank(batch))):
        best = (extra_loss(one, other, k, chosen) + extra_loss(other, one, k, chosen)).nanmean()
        for name, scores in (("", edges), ("_edges", edges), ("_position", position)):
            own = (extra_loss(scores, one, k, chosen) + extra_loss(scores, other, k, chosen)).nanmean()
            assert metrics[f"{SHARE}{name}{among}"] == pytest.approx(float(own / best), rel=1e-3), name
    mean = float((one + other).mean()) / 2
    extra = float((extra_loss(one, other, k) + extra_loss(other, one, k)).mean()) / 2
    assert metrics["curriculum/attainable_hardness"] == pytest.approx((mean + extra) / mean, rel=1e-4)
    assert list(metrics) == NAMES


def test_the_true_loss_has_nearly_all_and_its_reverse_less_than_none(context: EvaluationContext) -> None:
    hardest, easiest = (
        HardnessShare(images=120)(under(context, TrueLoss(probes=2), polarity=polarity))
        for polarity in ("hardest", "easiest")
    )
    assert 0.9 < hardest[SHARE] < 1.02
    assert 0.8 < hardest[f"{SHARE}_not_blank"] < 1.02
    assert easiest[SHARE] < -0.5
    assert all(hardest[name] == easiest[name] for name in CONTROLS)
    assert 0 < hardest[f"{SHARE}_edges"] < hardest[SHARE]
    assert hardest["curriculum/attainable_hardness"] > 1.1


@pytest.mark.parametrize(
    ("difficulty", "sampler"), [(Uniform(), HardestFirst()), (PredictedLoss(), Random()), (Parts(parts=2), Random())]
)
def test_no_opinion_has_exactly_none(
    context: EvaluationContext, difficulty: DifficultyEstimator, sampler: Sampler
) -> None:
    metrics = HardnessShare(images=40)(under(context, difficulty, sampler))
    expected = OWN if difficulty.num_parts is None else []
    assert [name for name in OWN if name in metrics] == expected
    assert all(metrics[name] == 0 for name in expected)
    assert all(metrics[name] != 0 for name in CONTROLS)


def test_scores_count_where_they_choose_what_is_reconstructed_alone(context: EvaluationContext) -> None:
    def share(**settings: Any) -> float:
        return HardnessShare(images=40)(under(context, EdgeDensity(), **settings))[SHARE]

    hardest, easiest = (
        PartialReconstruction(sampler=HardestFirst(), share=0.5, polarity=polarity)
        for polarity in ("hardest", "easiest")
    )
    assert share(sampler=Random(), reconstruction=hardest) == share() != 0
    assert share(sampler=Random(), reconstruction=easiest) == share(polarity="easiest")
    assert share(sampler=Random(), reconstruction=PartialReconstruction()) == 0


def test_numbers_of_parts_are_no_difficulty(context: EvaluationContext) -> None:
    metrics = HardnessShare(images=40)(under(context, Parts(parts=2), Quotas(parts=2)))
    assert list(metrics) == [name for name in NAMES if name not in OWN]


def test_what_knows_training_images_alone_is_judged_on_them_alone(context: EvaluationContext) -> None:
    partly = (Mixture(estimators=[of, EdgeDensity()]) for of in (LossMemory(), ObjectShare()))
    for difficulty in (Memory(), *partly, Cached(estimator=EdgeDensity())):
        with pytest.warns(Notice, match="scores images of a training run alone"):
            metrics = HardnessShare(images=40)(under(context, difficulty))
        assert list(metrics) == [name for name in NAMES if name not in (*OWN, MASK, OBJECT_MASKED)]
    context = under(context, Memory())
    metrics = HardnessShare(images=40)(in_run(context))
    assert list(metrics) == NAMES
    assert metrics[SHARE] != 0
    nothing = HardnessShare(images=40)(in_run(under(context, Cached(estimator=EdgeDensity(), start=9))))
    assert nothing[SHARE] != 0  # not prepared: it asks its estimator
    cached = Cached(estimator=EdgeDensity(), start=9)
    cached.prepare(TrainingContext(120, 10, 3, 4, (4, 4), torch.device("cpu"), 0))
    assert HardnessShare(images=40)(in_run(under(context, cached)))[SHARE] == 0  # its masks are random until it starts


def test_one_image_has_no_other_to_be_told_positions_by(context: EvaluationContext) -> None:
    metrics = HardnessShare(images=1)(in_run(under(context, EdgeDensity())))
    assert not [name for name in metrics if "position" in name]
    assert f"{SHARE}_edges" in metrics


def test_it_is_asked_as_in_the_last_step(context: EvaluationContext) -> None:
    """10 steps an epoch, 4 epochs, after step 4: step 3 at the progress of the first epoch, 0.25."""
    recorded = Recorded()
    switched = Switched(estimators=[Uniform(), recorded], scheduler=Ramp(start=0.0, end=1.0, until=0.25))
    context = in_run(under(context, switched, mask_ratio=Ramp(start=0.5, end=0.9)))
    before = context.curriculum.scores = torch.zeros(2, 16)
    assert HardnessShare(images=60)(context)[SHARE] == pytest.approx(
        HardnessShare(images=60)(in_run(under(context, EdgeDensity(), mask_ratio=Ramp(start=0.5, end=0.9))))[SHARE]
    )
    assert [noise.step for _, _, noise in recorded.asked] == [3, 3]
    assert {num_masked for _, num_masked, _ in recorded.asked} == {context.curriculum.count_masked(16, 0.25)}
    assert torch.cat([batch.indices for batch, _, _ in recorded.asked]).tolist() == list(range(60))  # type: ignore[misc]
    assert torch.cat([noise.rows_N for _, _, noise in recorded.asked]).tolist() == list(range(60))
    assert context.curriculum.scores is before


def test_repeats_and_leaves_everything_as_it_was(context: EvaluationContext) -> None:
    context = under(context, TrueLoss())
    context.model.train()
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    evaluation = HardnessShare(images=40)
    evaluation.check(context.source, context.model)
    assert evaluation(context) == evaluation(context)
    assert evaluation(replace(context, seed=1)) != evaluation(context)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in context.model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())
    assert all(parameter.grad is None for parameter in context.model.parameters())


def test_more_masks_where_patches_are_rarely_hidden(context: EvaluationContext) -> None:
    """3 of 16: six masks hide all."""
    metrics = HardnessShare(images=30, masks=1)(under(context, TrueLoss(probes=6), mask_ratio=0.19))
    assert 0.5 < metrics[SHARE] < 1.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "HardnessShare.images = 0"),
        ({"masks": 0}, "HardnessShare.masks = 0"),
        ({"top": 0.0}, "HardnessShare.top = 0.0 must lie"),
        ({"top": 1.1}, "HardnessShare.top = 1.1 must lie"),
    ],
)
def test_refuses(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HardnessShare(**arguments)  # type: ignore[arg-type]
