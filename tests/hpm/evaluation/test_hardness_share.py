"""The share of attainable hardness of a model and its curriculum, without a run and in one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from curriculum import (
    Batch,
    Cached,
    Constant,
    Curriculum,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    LossMemory,
    Mask,
    Mixture,
    Noise,
    ObjectShare,
    Parts,
    PredictedLoss,
    Quotas,
    Ramp,
    Random,
    Sampler,
    Stream,
    Switched,
    TrainingContext,
    TrueLoss,
    Uniform,
)
from curriculum.hardness import extra_loss, not_blank
from curriculum.noise import hash_words
from curriculum.teacher import Teacher
from hpm.errors import Notice
from hpm.evaluation import EvaluationContext, HardnessShare
from hpm.methods.teacher import EMATeacher
from hpm.targets import Pixels

Hpm = Callable[..., int]
SHARE = "curriculum/hardness_share"
OWN = [SHARE, f"{SHARE}_not_blank"]
CONTROLS = [f"{SHARE}_{control}{among}" for control in ("position", "edges", "object") for among in ("", "_not_blank")]
OBJECT_MASKED = "curriculum/object_masked"
MASK = f"{SHARE}_mask"
NAMES = [*OWN, *CONTROLS, MASK, "curriculum/attainable_hardness", OBJECT_MASKED]


def under(
    context: EvaluationContext, difficulty: DifficultyEstimator, sampler: Sampler | None = None, **settings: Any
) -> EvaluationContext:
    """The same model under another curriculum, reconstructing raw pixels, whose losses differ from patch to patch."""
    settings = {"scheduler": Constant(value=0.0), "sampler": sampler or HardestFirst()} | settings
    curriculum = Curriculum(difficulty=difficulty, **settings)
    return replace(context, curriculum=curriculum, target=Pixels(), teacher=EMATeacher(context.model, Pixels()))


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


class Inner(DifficultyEstimator):
    """Calls the four patches in the middle of 4 x 4 hard."""

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        scores_NL = torch.zeros(len(batch), batch.num_patches)
        scores_NL[:, [5, 6, 9, 10]] = 1.0
        return scores_NL


class Left(DifficultyEstimator):
    """Calls the left half of 4 x 4 patches hard."""

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        return (torch.arange(batch.num_patches) % 4 < 2).float().expand(len(batch), -1)


def in_run(
    context: EvaluationContext, box: tuple[float, ...] = (0.0, 0.0, 16.0, 16.0), *, flip: bool = False
) -> EvaluationContext:
    """The same, with the first training images as those that a run trains on, said to be these crops of them."""

    def batches(count: int) -> list[Batch]:
        indices = torch.arange(count)
        images = context.source.load(context.source.train(), indices)
        boxes = torch.tensor(box).expand(count, -1)
        whole = Batch(images, 4, indices, boxes, torch.full((count,), flip))
        parts = (slice(0, count // 3), slice(count // 3, count))
        return [Batch(*(x[part] if isinstance(x, Tensor) else x for x in vars(whole).values())) for part in parts]

    return replace(context, training_batches=batches)


@torch.no_grad()
def read_losses(context: EvaluationContext, batch: Batch, half: int, masks: int, visible: int = 4) -> Tensor:
    """Mean losses [N, L], each patch's squared errors from passes of single images under the masks one by one."""
    noise = Noise(hash_words(context.seed, Stream.HARDNESS_TRUTH, half), 3, torch.arange(len(batch)))
    order = noise.fold(Stream.DISJOINT_PROBES).bits(16).argsort(dim=1)
    losses = torch.zeros(len(batch), 16)
    for image in range(len(batch)):
        hidden: list[list[float]] = [[] for _ in range(16)]
        for probe in range(masks):
            first = probe * 16 // masks
            seen = sorted(int(order[image, (first + place) % 16]) for place in range(visible))
            masked = sorted(set(range(16)) - set(seen))
            pixels = batch.images[image : image + 1]
            found = context.model(pixels, Mask(torch.tensor([seen]), torch.tensor([masked]))).reconstruction_NMP[0]
            for patch, values in zip(masked, found, strict=True):
                top, left = 4 * (patch // 4), 4 * (patch % 4)
                target = pixels[0, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
                hidden[patch].append(float((values - target).square().mean()))
        losses[image] = torch.tensor([sum(values) / len(values) for values in hidden])
    return losses


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


def test_how_much_of_the_object_is_masked(context: EvaluationContext) -> None:
    """By hand from the masks that the curriculum draws, and against what chance hides."""
    source, inner = context.source, [5, 6, 9, 10]
    masks_NSS = source.object_masks(source.train(), torch.arange(60))
    shares_NL = torch.nn.functional.avg_pool2d(masks_NSS.float(), 4).flatten(1)
    inner_N = shares_NL[:, inner].sum(dim=1) / shares_NL.sum(dim=1)
    for difficulty, alpha, expected_N in (
        (Inner(), 1.0, inner_N + (1 - inner_N) * 4 / 12),  # 8 of 16 are masked: these 4, and 4 others by chance
        (Inner(), 0.0, torch.tensor(0.5)),
        (Uniform(), 1.0, torch.tensor(0.5)),
    ):
        masked = in_run(under(context, difficulty, scheduler=Constant(value=alpha), mask_ratio=0.5))
        found = HardnessShare(images=60)(masked)[OBJECT_MASKED]
        assert found == pytest.approx(float(expected_N.mean()), abs=0.03)
    easiest = in_run(under(context, Inner(), scheduler=Constant(value=1.0), mask_ratio=0.5, polarity="easiest"))
    assert HardnessShare(images=60)(easiest)[OBJECT_MASKED] == pytest.approx(
        float(((1 - inner_N) * 8 / 12).mean()), abs=0.03
    )


@pytest.mark.parametrize(
    ("box", "flip", "columns"),
    [
        ((0.0, 0.0, 16.0, 16.0), False, (0, 8)),
        ((0.0, 0.0, 16.0, 16.0), True, (8, 16)),
        ((8.0, 0.0, 8.0, 16.0), False, (8, 12)),
        ((0.0, 0.0, 8.0, 16.0), True, (4, 8)),
    ],
)
def test_the_object_is_where_the_crop_shows_it(
    context: EvaluationContext, box: tuple[float, ...], flip: bool, columns: tuple[int, int]
) -> None:
    """Half of the patches are masked, which are the left half of the crop: these columns of the scene."""
    shown_NSS = context.source.object_masks(context.source.train(), torch.arange(60)).float()
    crop_N = shown_NSS[:, :, int(box[0]) : int(box[0] + box[2])].sum(dim=(1, 2))
    left_N = shown_NSS[:, :, columns[0] : columns[1]].sum(dim=(1, 2))
    left = under(context, Left(), scheduler=Constant(value=1.0), mask_ratio=0.5)
    found = HardnessShare(images=60)(in_run(left, box, flip=flip))[OBJECT_MASKED]
    assert found == pytest.approx(float((left_N / crop_N).nanmean()), abs=0.02)


@torch.no_grad()
def test_how_hard_the_masks_are_by_hand(context: EvaluationContext) -> None:
    """The left half is masked: its loss beside that of the truly hardest half, chosen by one measurement of two."""
    left = in_run(under(context, Left(), scheduler=Constant(value=1.0), mask_ratio=0.5))
    found = HardnessShare(images=60, masks=4)(left)
    assert left.training_batches is not None
    batch = Batch(torch.cat([part.images for part in left.training_batches(60)]), 4)
    one, other = (read_losses(left, batch, half, 4, visible=8) for half in range(2))
    hidden = torch.arange(16) % 4 < 2
    extra = ((one + other) / 2)[:, hidden].mean() - (one + other).mean() / 2
    best = (extra_loss(one, other, 8) + extra_loss(other, one, 8)).mean() / 2
    assert found[MASK] == pytest.approx(float(extra / best), rel=1e-4)


def test_masks_are_as_hard_as_alpha_lets_them(context: EvaluationContext) -> None:
    def shares(alpha: float, difficulty: DifficultyEstimator) -> dict[str, float]:
        return HardnessShare(images=200)(
            in_run(under(context, difficulty, scheduler=Constant(value=alpha), mask_ratio=0.5))
        )

    none, half, all_ = (shares(alpha, TrueLoss(probes=2)) for alpha in (0.0, 0.5, 1.0))
    assert none[SHARE] == half[SHARE] == all_[SHARE]
    assert abs(none[MASK]) < 0.1
    assert none[MASK] + 0.2 < half[MASK] < all_[MASK] - 0.2
    assert all_[MASK] > 0.7
    assert abs(shares(1.0, Uniform())[MASK]) < 0.1


def test_masks_are_those_of_a_step_that_asks_for_scores(context: EvaluationContext) -> None:
    """Step 3, of which the curriculum asks for scores in every fourth alone."""
    found = []
    for every in (1, 4):
        left = under(context, Left(), scheduler=Constant(value=1.0), mask_ratio=0.5, score_every=every)
        found.append(HardnessShare(images=60)(in_run(left))[OBJECT_MASKED])
    assert found[0] == found[1]


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
