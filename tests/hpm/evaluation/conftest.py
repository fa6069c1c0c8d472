"""A tiny model on small scenes."""

from __future__ import annotations

import pytest
import torch

from curriculum import Constant, Curriculum, HardestFirst, PredictedLoss
from hpm.data import DigitScenes
from hpm.evaluation import EvaluationContext
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.targets import NormalizedPixels


@pytest.fixture(scope="session")
def source() -> DigitScenes:
    return DigitScenes(img_size=16, train_size=400, test_size=120)


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
    )
