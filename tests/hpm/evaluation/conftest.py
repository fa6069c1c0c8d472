"""A tiny model on small scenes."""

from __future__ import annotations

import pytest
import torch

from curriculum import Constant, Curriculum, HardestFirst, PredictedLoss
from hpm.data import DigitScenes
from hpm.evaluation import Subject
from hpm.method import Method
from hpm.model import MaskedAutoencoder
from hpm.targets import NormalizedPixels
from hpm.teacher import HorizonDecay


@pytest.fixture(scope="session")
def source() -> DigitScenes:
    return DigitScenes(img_size=16, train_size=400, test_size=120)


@pytest.fixture
def subject(source: DigitScenes) -> Subject:
    model = MaskedAutoencoder(
        img_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
        decoder_num_heads=2, loss_predictor_depth=1,
    )  # fmt: skip
    curriculum = Curriculum(scheduler=Constant(), difficulty=PredictedLoss(), sampler=HardestFirst())
    method = Method(model=model, curriculum=curriculum, target=NormalizedPixels(), teacher_decay=HorizonDecay())
    method.prepare(torch.device("cpu"), autocast=None, seed=0)
    return Subject(
        model=method.student, initial=lambda: method.initial_copy(1), teacher=method.teacher, curriculum=curriculum,
        target=method.target, source=source, device=torch.device("cpu"), seed=0,
    )  # fmt: skip
