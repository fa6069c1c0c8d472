"""Encoders that a protocol has trained, for whoever wants to keep them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from hpm.evaluation.base import EvaluationContext


@torch.no_grad()
def keep_encoder(context: EvaluationContext, name: str, network: nn.Module) -> None:
    """Put a model with a trained encoder into `context.trained`, where trained encoders are kept.

    A network that was fine-tuned normalizes the mean of its tokens by a norm of its own, which no encoder has; the
    encoder's last norm is then as one is initialized, as in what MAE's fine-tuned files give.

    Args:
        context: says whether to keep anything.
        name: of the network, "finetune-scratch".
        network: timm's model of the encoder, as `Encoder.timm_model` gave it, with a head or without.
    """
    if context.trained is None or not context.processes.is_main:
        return
    model = copy.deepcopy(context.model).cpu()
    weights = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    for key, value in model.encoder.state_dict().items():
        if key in weights:
            value.copy_(weights[key])
        else:
            assert key in ("norm.weight", "norm.bias"), key
            value.fill_(1.0 if key == "norm.weight" else 0.0)
    context.trained[name] = model
