"""A tiny model on small scenes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from curriculum import Constant, Curriculum, HardestFirst, PredictedLoss
from hpm.data import SPLITS, DigitScenes, TensorSplit
from hpm.evaluation import EvaluationContext
from hpm.evaluation.base import Pretraining
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.optim.clock import Clock
from hpm.targets import NormalizedPixels


@pytest.fixture(scope="session")
def source() -> DigitScenes:
    return DigitScenes(img_size=16, train_size=400, validation_size=150, test_size=120)


@pytest.fixture
def context(source: DigitScenes) -> EvaluationContext:
    model = MaskedAutoencoder(
        img_size=16,
        patch_size=4,
        embed_dim=32,
        depth=2,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        loss_predictor_depth=1,
    )
    curriculum = Curriculum(scheduler=Constant(), difficulty=PredictedLoss(), sampler=HardestFirst())
    method = Method(model=model, curriculum=curriculum, target=NormalizedPixels(), ema_decay=HorizonDecay())
    method.initialize(torch.device("cpu"), autocast=None, seed=0)
    return EvaluationContext(
        model=method.student,
        initial=lambda: method.initial_copy(1),
        teacher=method.teacher,
        curriculum=curriculum,
        target=method.target,
        source=source,
        device=torch.device("cpu"),
        seed=0,
        pretraining=Pretraining(Clock(4, 10, 4), 10, "epoch"),
        splits=("test",),
    )


class Colors(DigitScenes):
    """Ten colors under noise, which are learned in seconds."""

    def __init__(self) -> None:
        super().__init__(img_size=16, train_size=100, test_size=100)
        self._made = {name: self._make(seed) for seed, name in enumerate(SPLITS)}

    def _make(self, seed: int) -> TensorSplit:
        labels = torch.arange(10).repeat(10)
        noise = torch.randint(0, 60, (100, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
        levels = torch.stack([labels * 20, 180 - labels * 20, (labels % 3) * 60], dim=1)
        return TensorSplit((noise + levels[:, :, None, None]).clamp(0, 255).to(torch.uint8), labels)

    def read(self, split: str) -> TensorSplit:  # type: ignore[override]
        return self._made[split]


@pytest.fixture
def colors(context: EvaluationContext) -> EvaluationContext:
    """The tiny model on colors."""
    return dataclasses.replace(context, source=Colors(), splits=("validation", "test"))
