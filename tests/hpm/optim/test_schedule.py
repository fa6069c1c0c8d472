"""Learning rate, its scaling, and which parameters decay."""

from __future__ import annotations

import math

import pytest
import torch

from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.optim.clock import Clock
from hpm.optim.schedule import build_adamw, learning_rate, scaled_learning_rate


@pytest.mark.parametrize(
    ("epoch", "expected"),
    [
        (0, 0.0),
        (20, 0.6e-3),
        (39.5, 1.2e-3 * 39.5 / 40),
        (40, 1.2e-3),
        (120, 0.6e-3),
        (160, 1.2e-3 * (1 + math.cos(0.75 * math.pi)) / 2),
        (199.5, 1.2e-3 * (1 + math.cos(math.pi * 159.5 / 160)) / 2),
    ],
)
def test_published_schedule(epoch: float, expected: float) -> None:
    """Base rate 1.5e-4 at batch 2048, 40 of 200 epochs of warm-up, 10 steps an epoch."""
    lr = scaled_learning_rate(1.5e-4, 2048)
    assert lr == pytest.approx(1.2e-3)
    clock = Clock(round(epoch * 10), 10, 200)
    assert learning_rate(clock, lr=lr, min_lr=0.0, warmup_epochs=40) == pytest.approx(expected, abs=1e-12)


def test_minimum() -> None:
    assert learning_rate(Clock(100, 1, 100), lr=1.0, min_lr=0.1, warmup_epochs=0) == pytest.approx(0.1)


def test_decay_on_matrices_and_tokens_only() -> None:
    model = MaskedAutoencoder(
        img_size=16,
        patch_size=8,
        embed_dim=8,
        depth=1,
        num_heads=1,
        decoder_embed_dim=8,
        decoder_depth=1,
        decoder_num_heads=1,
        loss_predictor_depth=1,
    )
    optimizer = build_adamw(model, lr=1.0, weight_decay=0.05, betas=(0.9, 0.95))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        plain = name.endswith(".bias") or ".norm" in name
        assert decays[id(parameter)] == (0.0 if plain else 0.05), name
    assert decays[id(model.mask_token)] == decays[id(model.encoder.cls_token)] == 0.05
    assert all(group["betas"] == (0.9, 0.95) for group in optimizer.param_groups)
    assert isinstance(optimizer, torch.optim.AdamW)


def test_clock() -> None:
    clock = Clock(25, 10, 4)
    assert (clock.epoch, clock.fractional_epoch, clock.total_steps) == (2, 2.5, 40)
    assert clock.progress("epoch") == 0.75
    assert clock.progress("step") == 26 / 40
