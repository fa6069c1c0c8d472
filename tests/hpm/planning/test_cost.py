"""What a method costs: counts against the published figures, arithmetic by hand, and what PyTorch really keeps."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest
import torch

from curriculum import (
    Attention,
    Bandit,
    Batch,
    Cached,
    Constant,
    Curriculum,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    MetricPaced,
    Noise,
    PartialReconstruction,
    Piecewise,
    PredictedLoss,
    Ramp,
    Random,
    SampledAttention,
    Scheduler,
    Smoothed,
    Stepped,
    Switched,
    TrueLoss,
    Uniform,
)
from hpm.config import parse_config
from hpm.methods import operations, run_work
from hpm.methods.decay import RampDecay
from hpm.methods.method import Method
from hpm.models.boot_mae import BootMAE
from hpm.models.cross_mae import CrossMAE
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.vit import ViT
from hpm.optim.clock import Clock
from hpm.planning import cost
from hpm.planning.plan import make_plan
from hpm.targets import Pixels, WeightedTargets

GIGA = 1e9
SMALL = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 96,
    "depth": 3,
    "num_heads": 3,
    "decoder_embed_dim": 64,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
    "loss_predictor_depth": 1,
}


def method(difficulty: DifficultyEstimator, *, device: str = "meta", dense: int = 0, **model: Any) -> Method:
    with torch.device(device):
        return Method(
            model=MaskedAutoencoder(**model),
            curriculum=Curriculum(scheduler=Ramp(), difficulty=difficulty, sampler=HardestFirst()),
            target=Pixels(),
            ema_decay=RampDecay(),
            dense_prediction_every=dense,
        )


# Operations


def test_published_figures_of_vit_base() -> None:
    """Published code embeds all patches and predicts all of them; ours those that are seen, and asked for."""
    for recipe, student, teacher, decoders in (("mae", 9.78, 0.0, 1), ("hpm", 15.06, 22.91, 2)):
        made = make_plan(parse_config([f"recipes/{recipe}_vit_base_200"]), gpus=8)
        assert made.published_multiply_adds / GIGA == pytest.approx(student, rel=1e-3)
        assert made.multiply_adds["teacher"] / GIGA == pytest.approx(teacher, rel=1e-3)
        ours = sum(made.multiply_adds.values()) - made.multiply_adds["teacher"]
        last = block(197, 512) - block(197, 512, given=147)
        assert made.published_multiply_adds - ours == 147 * 768 * 768 + 50 * 512 * 768 + decoders * last


def block(tokens: int, width: int, given: int | None = None) -> int:
    """Query, key, value, projection; two layers of four times the width; two products of attention.

    Where no more than the last tokens are `given`, the others are keys and values alone, and queries all the same.
    """
    given = tokens if given is None else given
    return tokens * 3 * width**2 + given * (1 + 2 * 4) * width**2 + 2 * given * tokens * width


def test_by_hand() -> None:
    patches = 64
    masked = 48
    visible = 16
    pixels = 8 * 8 * 3
    decoder_input = 96 * 64
    seen = 1 + visible
    all_ = 1 + patches
    assert operations.multiply_adds(method(PredictedLoss(), **SMALL)) == {
        "encoder": visible * pixels * 96 + 3 * block(seen, 96),
        "reconstructor": seen * decoder_input + block(all_, 64) + block(all_, 64, given=masked) + masked * 64 * pixels,
        "loss predictor": block(all_, 64, given=masked) + masked * 64,
        "dense input": 0,
        "dense prediction": 0,
        "teacher": patches * pixels * 96
        + 3 * block(all_, 96)
        + all_ * decoder_input
        + block(all_, 64, given=patches)
        + patches * 64,
        "target": 0,
    }


def test_the_teacher_costs_what_the_difficulty_asks() -> None:
    student = operations.multiply_adds(method(TrueLoss(probes=2), **SMALL))
    assert student["teacher"] == 2 * (student["encoder"] + student["reconstructor"])
    # The last block: keys, and queries and attention of one token.
    attention = operations.multiply_adds(method(Attention(), **SMALL))["teacher"]
    assert attention == 64 * 192 * 96 + 2 * block(65, 96) + 65 * 3 * 96**2 + 65 * 96
    # No block: the projection of the first, and the products of 48 / 3 queries with all keys.
    sampled = operations.multiply_adds(method(SampledAttention(), **SMALL))["teacher"]
    assert sampled == 64 * 192 * 96 + 65 * 3 * 96**2 + 16 * 65 * 96
    assert operations.multiply_adds(method(Uniform(), **SMALL))["teacher"] == 0
    for depth in (0, 1, 2):
        shape = SMALL | {"loss_predictor_depth": depth}
        probed = operations.multiply_adds(method(PredictedLoss(probes=3), **shape))
        # Of a head on the reconstructor: the reconstructor without its own head.
        read = probed["reconstructor"] - 48 * 64 * 192 if depth == 0 else 17 * 96 * 64
        assert probed["teacher"] == 3 * (probed["encoder"] + read + probed["loss predictor"])


@pytest.mark.parametrize("depth", [0, 1])
def test_dense_prediction_costs_a_pass_whose_last_part_learns(depth: int) -> None:
    """What the published teacher's pass costs, and twice the loss predictor for its backward pass."""
    shape = SMALL | {"loss_predictor_depth": depth}
    dense, plain = method(PredictedLoss(), dense=4, **shape), method(PredictedLoss(), **shape)
    work, without = operations.multiply_adds(dense), operations.multiply_adds(plain)
    predictor = depth * block(65, 64, given=64) + 64 * 64
    assert work["dense prediction"] == predictor
    assert work["dense input"] == work["teacher"] - predictor
    assert work | {"dense input": 0, "dense prediction": 0} == without
    assert run_work.dense_share(dense, Clock(0, 10, 1)) == 3 / 10  # steps 0, 4 and 8
    assert run_work.dense_share(plain, Clock(0, 10, 1)) == 0
    for passes in (3, 4):
        more = run_work.average_step(work, 0.5, 0.3, passes=passes)
        less = run_work.average_step(without, 0.5, 0.0, passes=passes)
        assert more - less == pytest.approx(0.3 * (work["teacher"] + (passes - 1) * predictor))


class Peeking(DifficultyEstimator):
    def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> torch.Tensor:
        return torch.zeros(len(batch), batch.num_patches) + batch.images.max().item()


def test_a_difficulty_that_looks_at_values_is_not_counted() -> None:
    assert math.isnan(operations.multiply_adds(method(Peeking(), **SMALL))["teacher"])


@pytest.mark.parametrize(("epochs", "first"), [(200, 2), (800, 10), (1600, 21)])
def test_the_teacher_is_asked_from_the_first_hard_patch_on(epochs: int, first: int) -> None:
    hpm = method(PredictedLoss())  # 147 masked patches
    assert run_work.teacher_share(hpm, Clock(0, 5, epochs), "epoch") == (epochs - first) / epochs
    assert run_work.teacher_share(hpm, Clock(0, 625, epochs), "epoch") == pytest.approx(
        (epochs - first) / epochs, abs=1e-3
    )


@pytest.mark.parametrize(
    ("cached", "share"),
    [
        (Cached(estimator=PredictedLoss(), every=40, start=41), 4 / 200),  # AMT's: epochs 41, 81, 121 and 161
        (Cached(estimator=PredictedLoss(), every=40, period="step", start=800), 1 / 40 * (1 - 800 / 125_000)),
        (Cached(estimator=PredictedLoss(), start=1000), 0.0),
    ],
)
def test_a_cached_difficulty_asks_now_and_then(cached: Cached, share: float) -> None:
    hpm = method(cached)
    hpm.curriculum.scheduler = Constant(value=0.5)
    assert run_work.teacher_share(hpm, Clock(0, 625, 200), "epoch") == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize(
    ("schedule", "ratios", "tolerance"),
    [
        (Stepped(scheduler=Ramp(start=0.45, end=0.85), steps=4), [0.5, 0.6, 0.7, 0.8], 1e-9),
        (Ramp(start=0.5, end=0.9), [0.5 + 0.4 * (n + 0.5) / 200 for n in range(200)], 5e-3),
    ],
)
def test_a_mask_ratio_that_moves_costs_its_mean(schedule: Scheduler, ratios: list[float], tolerance: float) -> None:
    """Of the student and of what the teacher is asked; the plan of a run and the budget of equal computation alike."""

    def under(ratio: float | Scheduler) -> Method:
        made = method(TrueLoss(probes=2), **SMALL)
        curriculum = {"scheduler": Constant(value=0.5), "difficulty": TrueLoss(probes=2), "sampler": HardestFirst()}
        made.curriculum = Curriculum(mask_ratio=ratio, **curriculum)  # type: ignore[arg-type]
        return made

    each = [operations.multiply_adds(under(ratio)) for ratio in ratios]
    found = operations.multiply_adds(under(schedule), operations.moments(Clock(0, 12, 1000), "step"))
    for part in ("encoder", "reconstructor", "loss predictor", "teacher"):
        assert found[part] == pytest.approx(fmean(one[part] for one in each), rel=tolerance)
    assert cost.macs_saved(under(schedule), operations.moments(Clock(0, 12, 1000), "step")) == pytest.approx(
        fmean(cost.macs_saved(under(ratio), [1.0]) for ratio in ratios), rel=tolerance
    )


def test_progress_is_counted_as_the_run_counts_it() -> None:
    """Of two epochs the curriculum sees the middle and the end, not the beginning."""
    assert set(operations.moments(Clock(0, 5, 2), "epoch")) == {0.5, 1.0}
    assert operations.moments(Clock(0, 5, 2), "step")[0] == 0.1


def test_of_estimators_that_take_turns_the_mean_or_the_dearest_is_counted() -> None:
    free, asked = EdgeDensity(), PredictedLoss()
    whole = operations.multiply_adds(method(asked))["teacher"]
    for scheduler, expected in (
        (Piecewise(points=[(0.0, 0.0), (0.5, 1.0)], interpolation="hold"), 0.5),
        (Bandit(values=(0.0, 1.0)), 1.0),
        (Bandit(values=(1.0, 0.0)), 1.0),
    ):
        turns = Switched(estimators=[free, asked], scheduler=scheduler)
        assert operations.multiply_adds(method(turns))["teacher"] == pytest.approx(expected * whole, rel=0.06)


def test_what_moves_with_alpha_is_counted_where_it_is_asked() -> None:
    whole = operations.multiply_adds(method(TrueLoss()))["teacher"]
    late, halves = Piecewise(points=[(0.0, 0.0), (0.5, 0.5)], interpolation="hold"), [(0.0, 0.0), (0.5, 1.0)]
    for order, share in (([EdgeDensity(), TrueLoss()], 1.0), ([TrueLoss(), EdgeDensity()], 0.0)):
        turns = Switched(estimators=order, scheduler=Piecewise(points=halves, interpolation="hold"))
        hpm = method(turns)
        hpm.curriculum.scheduler = late
        assert operations.multiply_adds(hpm)["teacher"] == pytest.approx(share * whole, abs=0.001 * whole)


@pytest.mark.parametrize("first", [0, 1])
def test_an_estimator_that_cannot_be_counted_makes_the_choice_unknown(first: int) -> None:
    both: list[DifficultyEstimator] = [Peeking(), PredictedLoss()]
    turns = Switched(estimators=[both[first], both[1 - first]], scheduler=Bandit(values=(0.0, 1.0)))
    for difficulty in (turns, Smoothed(estimator=turns)):
        assert math.isnan(operations.multiply_adds(method(difficulty))["teacher"])


def test_shares_of_other_schedules() -> None:
    small = method(PredictedLoss(), **SMALL)
    clock = Clock(0, 10, 10)
    # int(48 * 0.5 * (step + 1) / 100) is 0 for the first four steps.
    assert run_work.teacher_share(small, clock, "step") == 0.96
    small.curriculum.score_every = 4
    assert run_work.teacher_share(small, clock, "epoch") == 0.25
    assert run_work.teacher_share(small, Clock(0, 9, 1), "epoch") == 3 / 9
    small.curriculum = Curriculum(scheduler=Constant(value=0.5), difficulty=Uniform(), sampler=Random())
    assert run_work.teacher_share(small, clock, "epoch") == 0
    small.curriculum = Curriculum(scheduler=MetricPaced(), difficulty=PredictedLoss(), sampler=HardestFirst())
    assert run_work.teacher_share(small, clock, "epoch") == 1


# Memory


def kept_by_autograd(method: Method, images: int, *, low: bool) -> int:
    """Bytes of the tensors that the backward pass of the student keeps, but for weights and copies of them."""
    method.initialize(torch.device("cpu"), autocast=torch.bfloat16 if low else None, seed=0)
    own = {tensor.untyped_storage().data_ptr() for tensor in method.student.state_dict().values()}
    weights = {shape for p in method.student.parameters() for shape in (p.shape, p.shape[::-1])}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not (tensor.dtype == torch.bfloat16 and tensor.shape in weights):
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    side = method.student.img_size
    batch = Batch(torch.randn(images, 3, side, side), method.student.patch_size)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = method.losses(batch, 0.01, Noise.for_batch(seed=0, step=0, batch_size=images))
    assert losses.total.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("predictor", [2, None])
def test_activations_against_what_autograd_keeps(low: bool, predictor: int | None) -> None:
    shape = SMALL | {"img_size": 96, "embed_dim": 132, "loss_predictor_depth": predictor}
    difficulty = Uniform() if predictor is None else PredictedLoss()
    real = method(difficulty, device="cpu", **shape)
    # On a CPU attention is in float32: queries, keys and values, and its result beside what the projection reads. A
    # decoder's last block has queries and results of the masked patches alone.
    masked = real.curriculum.count_masked(real.student.num_patches)
    values = 10 * sum(tokens * width for tokens, width in real.student.block_sizes(masked, 0))
    left = (1 + real.student.num_patches - masked) * SMALL["decoder_embed_dim"]
    more = values - 8 * left * (1 if predictor is None else 2) if low else 0
    expected = 3 * (cost.activations(real, low=low) + more)
    assert kept_by_autograd(real, 3, low=low) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("share", [None, 1 / 3])
def test_activations_of_a_decoder_of_cross_attention_against_what_autograd_keeps(
    low: bool, share: float | None
) -> None:
    student = CrossMAE(
        encoder=ViT(img_size=96, patch_size=8, embed_dim=132, depth=3, num_heads=3),
        decoder_embed_dim=64,
        decoder_depth=4,
        decoder_num_heads=2,
    )
    partly = None if share is None else PartialReconstruction(share=share)
    curriculum = Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), reconstruction=partly)
    real = Method(model=student, curriculum=curriculum, target=Pixels())
    _, masked, thrown = curriculum.counts(144, curriculum.count_masked(144))
    # On a CPU attention is in float32: queries, keys and values, and its result beside what the projection reads.
    more = 10 * sum(tokens * width for tokens, width in student.block_sizes(masked, thrown)) if low else 0
    expected = 3 * (cost.activations(real, low=low) + more)
    assert 0.88 < kept_by_autograd(real, 3, low=low) / expected < 1.0  # an upper estimate


@pytest.mark.parametrize("low", [False, True], ids=["fp32", "bf16"])
def test_activations_of_decoders_with_a_context_against_what_autograd_keeps(low: bool) -> None:
    student = BootMAE(
        encoder=ViT(img_size=96, patch_size=8, embed_dim=132, depth=3, num_heads=3),
        decoder_embed_dim=64,
        decoder_num_heads=2,
        loss_predictor_depth=1,
    )
    curriculum = Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random())
    target = WeightedTargets(targets=[Pixels(), Pixels()], weights=[1.0, 1.0])
    real = Method(model=student, curriculum=curriculum, target=target)
    # On a CPU attention is in float32: queries, keys and values, and its result beside what the projection reads.
    more = 10 * sum(tokens * width for tokens, width in student.block_sizes(108, 0)) if low else 0
    expected = 3 * (cost.activations(real, low=low) + more)
    assert 0.88 < kept_by_autograd(real, 3, low=low) / expected < 1.0  # an upper estimate


@pytest.mark.parametrize("depth", [0, 2])
def test_dense_prediction_keeps_the_loss_predictors_pass(depth: int) -> None:
    shape = SMALL | {"img_size": 96, "embed_dim": 132, "loss_predictor_depth": depth}
    real = method(PredictedLoss(), device="cpu", dense=1, **shape)
    expected = 3 * cost.activations(real, low=False)
    assert expected > 3 * cost.activations(method(PredictedLoss(), device="cpu", **shape), low=False)
    assert kept_by_autograd(real, 3, low=False) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("kind", [CrossMAE, BootMAE])
def test_dense_prediction_by_a_decoder_that_attends_to_the_encoder(kind: type[CrossMAE | BootMAE]) -> None:
    """CrossMAE's asks at mask tokens, without one of a class; either keeps contexts, keys and values beside."""
    found = []
    for every in (0, 1):
        student = kind(
            encoder=ViT(img_size=96, patch_size=8, embed_dim=132, depth=3, num_heads=3),
            decoder_embed_dim=64,
            decoder_depth=1,
            decoder_num_heads=2,
            loss_predictor_depth=2,
        )
        assert student.dense_block_sizes() == [(144 + (kind is BootMAE), 64)] * 2
        curriculum = Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random())
        both = WeightedTargets(targets=[Pixels(), Pixels()], weights=[1.0, 1.0])
        target = both if kind is BootMAE else Pixels()
        real = Method(model=student, curriculum=curriculum, target=target, dense_prediction_every=every)
        found.append((kept_by_autograd(real, 3, low=False), 3 * cost.activations(real, low=False)))
    kept, expected = (dense - masked for masked, dense in zip(*found, strict=True))
    assert 0.88 < kept / expected < 1.01


def test_checkpointing_keeps_a_blocks_input_and_one_block() -> None:
    real = method(PredictedLoss(), device="cpu", **SMALL | {"depth": 12, "decoder_depth": 8, "loss_predictor_depth": 8})
    real.student.set_grad_checkpointing()
    one_block = 64 * (1 + 64) * 64  # only there while its backward pass runs
    expected = 3 * (cost.activations(real, low=False, grad_checkpointing=True) - one_block)
    assert kept_by_autograd(real, 3, low=False) == pytest.approx(expected, rel=0.05)


def test_the_shape_of_patches_of_one_area_costs_nothing() -> None:
    square, wide = (
        operations.multiply_adds(method(PredictedLoss(), **SMALL | {"img_size": size, "patch_size": patch}))
        for size, patch in ((64, 8), ((32, 128), (4, 16)))
    )
    assert square == wide
