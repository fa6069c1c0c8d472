"""Teacher, targets and the mathematics of a step."""

from __future__ import annotations

import math

import pytest
import torch

from curriculum import (
    Attention,
    Batch,
    Constant,
    Curriculum,
    HardestFirst,
    Noise,
    PartialReconstruction,
    PredictedLoss,
    Random,
    Teacher,
    TrueLoss,
    Uniform,
)
from hpm.methods.decay import HorizonDecay, PiecewiseDecay, RampDecay
from hpm.methods.method import Method
from hpm.methods.teacher import EMATeacher
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import patchify
from hpm.optim.clock import Clock
from hpm.targets import NormalizedPixels, Pixels


def model(loss_predictor_depth: int | None = 1) -> MaskedAutoencoder:
    return MaskedAutoencoder(
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        loss_predictor_depth=loss_predictor_depth,
    )


def method(alpha: float = 0.5, *, predictor: int | None = 1, difficulty: object = None, **arguments: object) -> Method:
    curriculum = Curriculum(
        scheduler=Constant(value=alpha), difficulty=difficulty or PredictedLoss(), sampler=HardestFirst()
    )  # type: ignore[arg-type]
    arguments.setdefault("ema_decay", HorizonDecay())
    built = Method(model=model(predictor), curriculum=curriculum, target=NormalizedPixels(), **arguments)  # type: ignore[arg-type]
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    return built


def batch(n: int = 4) -> Batch:
    return Batch(torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0)), 4)


def noise(n: int = 4, step: int = 0) -> Noise:
    return Noise.for_batch(seed=0, step=step, batch_size=n)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_loss_predictor_that_masks_follow_has_patches_to_compare(alpha: float) -> None:
    def one_of_four(**arguments: object) -> Method:
        curriculum = Curriculum(scheduler=Constant(value=alpha), sampler=HardestFirst(), mask_ratio=0.25, **arguments)  # type: ignore[arg-type]
        return Method(model=model(), curriculum=curriculum, target=Pixels(), ema_decay=HorizonDecay())

    part = PartialReconstruction(share=0.25)
    assert one_of_four(difficulty=PredictedLoss()).curriculum.count_masked(16) == 4
    assert one_of_four(difficulty=Uniform(), reconstruction=part)
    with pytest.raises(
        ValueError, match=r"PredictedLoss follows the loss predictor, .*raise PartialReconstruction.sha"
    ):
        one_of_four(difficulty=PredictedLoss(), reconstruction=part)


def test_teacher_implements_the_protocol() -> None:
    assert isinstance(method().teacher, Teacher)


def test_moving_average() -> None:
    trained = method()
    before = {name: tensor.clone() for name, tensor in trained.teacher.model.named_parameters()}
    with torch.no_grad():
        for parameter in trained.student.parameters():
            parameter += 1
    trained.teacher.update(trained.student, 0.9)
    for name, tensor in trained.teacher.model.named_parameters():
        torch.testing.assert_close(tensor, before[name] + 0.1)


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.999), (50, 0.99945), (100, 0.9999), (1000, 0.9999)])
def test_published_decay(epoch: int, expected: float) -> None:
    assert RampDecay()(Clock(epoch * 7 + 3, 7, 1600)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 0.999), (50, 0.99945), (100, 0.9999), (250, 0.999945), (400, 0.99999), (799, 0.99999)]
)
def test_published_decay_of_bootmae(epoch: int, expected: float) -> None:
    assert PiecewiseDecay()(Clock(epoch * 7 + 3, 7, 800)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("epochs", [(0, 100), (1, 2, 3), (0, 5, 5), ()])
def test_points_of_a_decay_that_cannot_be(epochs: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"PiecewiseDecay.epochs = .* must rise from 0, and be as many as"):
        PiecewiseDecay(epochs=epochs)
    with pytest.raises(ValueError, match=r"PiecewiseDecay.decays = 1.0 must lie in"):
        PiecewiseDecay(epochs=(0,), decays=(1.0,))


def test_the_inside_of_a_block_counts_more() -> None:
    built, told = method(neighbor_weight=0.7), method()
    assert built.student.grid == (4, 4)
    for trained in (built, told):
        trained.initialize(torch.device("cpu"), autocast=None, seed=0)
    ours, plain = (trained.losses(batch(), 0.5, noise()).detach() for trained in (built, told))
    assert torch.equal(ours.true_NM, plain.true_NM)
    assert torch.equal(ours.prediction, plain.prediction)
    losses = []
    for row, hidden in enumerate(ours.mask.to_bool().view(-1, 4, 4).tolist()):
        for column, patch in enumerate(ours.mask.masked[row].tolist()):
            places = [(patch // 4 + down, patch % 4 + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
            around = sum(hidden[r][c] for r, c in places if 0 <= r < 4 and 0 <= c < 4)
            losses.append((1 + 0.7 * around / 9) * float(ours.true_NM[row, column]))
    assert float(ours.reconstruction) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert float(ours.total) == pytest.approx(float(ours.reconstruction + ours.prediction), rel=1e-6)
    with pytest.raises(ValueError, match=r"Method.neighbor_weight = -1"):
        method(neighbor_weight=-1)


def test_horizon_decay_suits_the_run() -> None:
    assert HorizonDecay(fraction=0.1)(Clock(5, 10, 100)) == pytest.approx(1 - 1 / 100)
    assert HorizonDecay(fraction=0.1)(Clock(0, 1, 2)) == 0.0
    with pytest.raises(ValueError, match=r"HorizonDecay.fraction = 0"):
        HorizonDecay(fraction=0)


def test_normalized_pixels() -> None:
    images, mask = batch().images, method().losses(batch(), 0.5, noise()).mask
    target = NormalizedPixels()(images, mask, 4)
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(target.shape[:2]), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(dim=-1), torch.ones(target.shape[:2]), atol=1e-4, rtol=0)
    pixels = mask.gather_masked(patchify(images, 4))
    torch.testing.assert_close(NormalizedPixels().restore(target, images, mask, 4), pixels)
    assert torch.equal(Pixels()(images, mask, 4), pixels)


def test_losses_and_their_sum() -> None:
    weighted = method(prediction_weight=3.0)
    losses = weighted.losses(batch(), 0.5, noise())
    torch.testing.assert_close(losses.total, losses.reconstruction + 3 * losses.prediction)
    torch.testing.assert_close(losses.reconstruction, losses.true_NM.mean())
    # Before training every pair is a guess: the relative loss is near log 2.
    assert losses.prediction.item() == pytest.approx(math.log(2), abs=0.05)


def test_every_parameter_learns_and_the_teacher_does_not() -> None:
    trained = method()
    trained.losses(batch(), 0.5, noise()).total.backward()
    for name, parameter in trained.student.named_parameters():
        assert parameter.grad is not None, name
    assert all(parameter.grad is None for parameter in trained.teacher.model.parameters())


def test_plain_mae() -> None:
    plain = method(predictor=None, difficulty=Uniform())
    losses = plain.losses(batch(), 0.5, noise())
    assert torch.equal(losses.total, losses.reconstruction)
    assert losses.ranking_accuracy().isnan()


@pytest.mark.parametrize(("alpha", "runs"), [(0.0, 0), (0.05, 0), (0.5, 1)])
def test_the_teacher_runs_only_where_alpha_asks(alpha: float, runs: int) -> None:
    """12 of 16 patches are masked: int(12 * 0.05) = 0 of them hard."""
    trained = method(alpha)
    calls: list[None] = []
    trained.teacher.model.encoder.register_forward_hook(lambda *_: calls.append(None))
    trained.losses(batch(), 0.5, noise())
    assert len(calls) == runs


def test_hard_patches_are_the_teachers() -> None:
    losses = method(1.0).losses(batch(), 0.5, noise())
    scores = method(1.0).teacher.predicted_loss(batch().images)
    expected = scores.topk(12, dim=1).indices.sort(dim=1).values
    assert torch.equal(losses.mask.masked, expected)


@pytest.mark.parametrize("difficulty", [PredictedLoss(), TrueLoss(), Attention(), Uniform()])
def test_every_difficulty_trains(difficulty: object) -> None:
    trained = method(0.5, difficulty=difficulty)
    optimizer = torch.optim.AdamW(trained.student.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        loss = trained.losses(batch(), 0.5, noise(step=step))
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        trained.teacher.update(trained.student, 0.5)
        losses.append(loss.reconstruction.item())
    assert losses[-1] < 0.9 * losses[0]


def test_bf16_autocast_stays_close_and_scores_in_float32() -> None:
    exact, low = method(1.0), method(1.0)
    low.initialize(torch.device("cpu"), autocast=torch.bfloat16, seed=0)
    assert low.teacher.predicted_loss(batch().images).dtype == torch.float32
    one, other = exact.losses(batch(), 0.0, noise()), low.losses(batch(), 0.0, noise())
    assert other.true_NM.dtype == torch.float32
    assert other.total.item() == pytest.approx(one.total.item(), rel=0.02)
    other.total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in low.student.parameters())


def test_a_difficulty_without_its_part_is_refused() -> None:
    with pytest.raises(ValueError, match=r"PredictedLoss needs .*loss_predictor_depth"):
        method(predictor=None)


def test_no_hidden_synchronization_in_a_step() -> None:
    """No operation of a step reads a value back to the host."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Guard(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            assert func.overloadpacket not in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero), func
            return func(*args, **(kwargs or {}))

    trained = method(0.5)
    with Guard():
        trained.losses(batch(), 0.5, noise()).total.backward()
        trained.teacher.update(trained.student, 0.9)


def test_random_sampler_never_asks() -> None:
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=PredictedLoss(), sampler=Random())
    built = Method(model=model(), curriculum=curriculum, target=Pixels())
    assert not curriculum.needs_scores_at(0.5, 16)
    built.losses(batch(), 0.5, noise())
    assert curriculum.scores is None


def test_initial_copy_is_the_start() -> None:
    trained = method()
    start = {name: tensor.clone() for name, tensor in trained.student.state_dict().items()}
    with torch.no_grad():
        for parameter in trained.student.parameters():
            parameter += 1
    for name, tensor in trained.initial_copy(0).state_dict().items():
        assert torch.equal(tensor, start[name])


def test_features_are_the_encoders_patch_tokens() -> None:
    teacher = EMATeacher(model(), Pixels())
    assert torch.equal(teacher.features(batch().images), teacher.model.encoder(batch().images)[:, 1:])
