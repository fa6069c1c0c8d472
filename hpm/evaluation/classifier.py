"""The encoder as timm's VisionTransformer, with a new head."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from hpm.evaluation.features import check_pool
from hpm.model import LayerNorm, MaskedAutoencoder


def classifier(model: MaskedAutoencoder, num_classes: int, *, pool: str, drop_path: float = 0.0) -> VisionTransformer:
    """A copy of the encoder's weights in a timm model that classifies; it starts with a head of zeros.

    Args:
        model: whose encoder is taken.
        num_classes: outputs of the head.
        pool: "mean" of the patch tokens, normalized after pooling (MAE's fine-tuning), or the class "token".
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first. Default none.
    """
    check_pool("classifier", pool)
    encoder = model.encoder
    first: Any = encoder.blocks[0]
    with torch.random.fork_rng(devices=[]):  # its first weights are thrown away; the global generator stays
        vit = VisionTransformer(
            img_size=model.img_size, patch_size=model.patch_size, in_chans=model.in_chans, num_classes=num_classes,
            global_pool="avg" if pool == "mean" else "token", embed_dim=encoder.cls_token.shape[-1],
            depth=len(encoder.blocks), num_heads=first.attn.num_heads, mlp_ratio=model.mlp_ratio,
            norm_layer=LayerNorm, weight_init="skip", drop_path_rate=drop_path,
        )  # fmt: skip
    weights = {name: tensor.detach().clone() for name, tensor in encoder.state_dict().items()}
    if pool == "mean":  # timm names the norm that follows pooling differently
        weights = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: tensor
                   for name, tensor in weights.items()}  # fmt: skip
    head = {"head.weight": torch.zeros_like(vit.head.weight), "head.bias": torch.zeros_like(vit.head.bias)}
    vit.load_state_dict(weights | head, strict=True)
    return vit.to(model.mask_token.device)
