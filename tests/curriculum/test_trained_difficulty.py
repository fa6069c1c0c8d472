"""Networks that are trained beside the model."""

from __future__ import annotations

import math

import pytest
import torch
from estimators import training_context
from torch import Tensor

from curriculum import (
    ADIOS,
    CLMAE,
    AdaMAE,
    Constant,
    Curriculum,
    DifficultyEstimator,
    Mask,
    Noise,
    Ramp,
    Weighted,
)
from curriculum.testing import DifficultyConformance, tiny_batch


class TestAdaMAE(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return AdaMAE(width=32)


class TestADIOS(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return ADIOS(width=32)


class TestCLMAE(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return CLMAE(width=32)


def learn(difficulty: AdaMAE | ADIOS | CLMAE, *, polarity: str, progress: float = 1.0, steps: int = 150) -> Tensor:
    """Mean score [L] of each position after training where the right half of every image is lost badly."""
    sampler = Weighted(draw="visible" if polarity == "easiest" else "masked")
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=sampler, polarity=polarity)
    curriculum.prepare(training_context())
    assert difficulty.module is not None
    optimizer = torch.optim.AdamW(difficulty.module.parameters(), lr=3e-3)
    bad_L = torch.arange(16).remainder(4).ge(2).float() * 2 + 0.5
    for step in range(steps):
        batch = tiny_batch(num_images=16, seed=step % 4)
        noise = Noise.for_batch(seed=1, step=step, batch_size=16)
        mask = curriculum.draw(batch, None, progress, noise)
        curriculum.masker_loss(batch, mask, mask.gather_masked(bad_L.expand(16, 16)), progress, noise).backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = tiny_batch(num_images=16, seed=9)
    noise = Noise.for_batch(seed=1, step=0, batch_size=16)
    return difficulty(batch, None, num_masked=12, noise=noise).mean(dim=0).view(4, 4)


def test_adamae_shows_what_is_reconstructed_badly() -> None:
    scores = learn(AdaMAE(width=32), polarity="easiest")
    assert float(scores[:, 2:].mean()) > float(scores[:, :2].mean()) + 1  # more likely to be seen


def test_adios_hides_what_is_reconstructed_badly() -> None:
    scores = learn(ADIOS(width=32, masks=2), polarity="hardest")
    assert float(scores[:, 2:].mean()) > 0
    network = ADIOS(width=32, masks=3)
    network.prepare(training_context())
    batch = tiny_batch()
    soft = network.soft(network.outputs_of(batch))
    assert torch.allclose(soft.sum(dim=2), torch.ones(4, 16))


def test_adios_penalizes_empty_masks() -> None:
    network = ADIOS(width=32, masks=2, penalty=1.0)
    network.prepare(training_context())
    assert network.module is not None
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    mask = Mask.from_keys(noise.bits(16), 12)
    even = network.loss(batch, mask, torch.zeros(4, 12), noise).detach()
    with torch.no_grad():
        network.module.head.bias.copy_(torch.tensor([4.0, -4.0]))
    assert float(network.loss(batch, mask, torch.zeros(4, 12), noise).detach()) > float(even) + 5
    assert float(even) == pytest.approx(1 / math.sin(math.pi / 2), abs=0.1)


def test_clmae_turns_from_partner_to_adversary() -> None:
    partner, adversary = (
        learn(CLMAE(width=32, factor=Ramp(start=1.0, end=-1.0)), polarity="hardest", progress=progress)
        for progress in (0.0, 1.0)
    )
    assert float(partner[:, 2:].mean()) < float(partner[:, :2].mean()) - 0.2
    assert float(adversary[:, 2:].mean()) > float(adversary[:, :2].mean()) + 0.2


@pytest.mark.parametrize("difficulty", [AdaMAE(width=32), ADIOS(width=32), CLMAE(width=32)])
def test_a_masker_loss_reaches_its_network_alone(difficulty: AdaMAE | ADIOS | CLMAE) -> None:
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=Weighted())
    curriculum.prepare(training_context())
    assert difficulty.module is not None
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    true_NM = torch.rand(4, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = curriculum.draw(batch, None, 1.0, noise)
    curriculum.masker_loss(batch, mask, true_NM, 1.0, noise).backward()
    assert true_NM.grad is None
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in difficulty.module.parameters())


def test_a_network_starts_from_the_seed() -> None:
    weights = []
    for seed in (0, 0, 1):
        difficulty = AdaMAE(width=32)
        state = torch.random.get_rng_state()
        difficulty.prepare(training_context(seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
        assert difficulty.module is not None
        weights.append(difficulty.module.head.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
