"""Which parameters decay, and one rate for all of them."""

from __future__ import annotations

import torch

from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.optim.param_groups import build_adamw, set_learning_rate


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


def test_parameters_that_do_not_learn_are_left_out_and_the_rate_is_of_all_others() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    layers[0].requires_grad_(False)
    optimizer = build_adamw(layers, lr=1.0, weight_decay=0.1, betas=(0.9, 0.95))
    learned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert learned == {id(parameter) for parameter in layers[1].parameters()}
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
