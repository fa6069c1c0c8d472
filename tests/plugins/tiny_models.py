"""A model and a method that compute in milliseconds, and images and masks for them."""

from __future__ import annotations

import torch
from torch import Tensor

from curriculum import Constant, Curriculum, HardestFirst, Mask, Uniform
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.targets import Target


def tiny_model(**changes: object) -> MaskedAutoencoder:
    arguments: dict = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
        "loss_predictor_depth": 1,
    }
    torch.manual_seed(0)
    return MaskedAutoencoder(**arguments | changes)


def some_images(count: int = 3, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def random_mask(count: int, patches: int, masked: int) -> Mask:
    return Mask.from_keys(torch.rand(count, patches, generator=torch.Generator().manual_seed(2)), masked)


def tiny_method(target: Target, **changes: object) -> Method:
    curriculum = Curriculum(
        scheduler=Constant(value=1.0), difficulty=Uniform(), sampler=HardestFirst(), mask_ratio=0.75
    )
    arguments: dict = {"model": tiny_model(), "curriculum": curriculum, "ema_decay": HorizonDecay()}
    return Method(target=target, **arguments | changes)
