"""The encoder as timm's model of its kind, with a new head."""

from __future__ import annotations

from typing import Any

from torch import nn

from curriculum.validation import require_choice
from hpm.evaluation.features import POOLS, require_class_token
from hpm.models.base import MaskedModel


def classifier(model: MaskedModel, num_classes: int, *, pool: str, drop_path: float = 0.0) -> nn.Module:
    """A copy of the encoder's weights in a timm model that classifies; it starts with a head of zeros.

    Args:
        model: whose encoder is taken.
        num_classes: outputs of the head.
        pool: "mean" of the patch tokens, normalized after pooling where timm's model can (MAE's fine-tuning), or the
            class "token".
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first. Default none.

    Raises:
        ValueError: for an unknown pooling, or the class token of an encoder that has none.
    """
    require_choice("classifier", POOLS, pool=pool)
    encoder = model.encoder
    require_class_token("classifier", encoder, pool)
    timm_model: Any = encoder.timm_model(
        num_classes=num_classes,
        pool="avg" if pool == "mean" else "token",
        norm_last=pool == "mean",
        drop_path=drop_path,
    )
    for parameter in timm_model.get_classifier().parameters():
        nn.init.zeros_(parameter)
    return timm_model.to(model.mask_token.device)
