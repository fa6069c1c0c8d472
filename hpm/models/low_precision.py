"""LowPrecisionCopy: a teacher's weights in bf16 or fp8, for predicting losses of which only the order matters.

The moving average itself stays in float32. Against autocast, the copy saves casting every weight in every step, and
keeps the tokens between the blocks in bf16, which halves what norms and sums must read and write.

Shape suffixes: T tokens of all images, I inputs and O outputs of a linear layer.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curriculum.validation import require_choice
from hpm.models.base import MaskedModel

_LARGEST = torch.finfo(torch.float8_e4m3fn).max  # 448


class LowPrecisionCopy:
    """A copy of a model that predicts losses in bf16, its blocks' matrix products in bf16 or fp8.

    Norm and head of the loss predictor stay in float32, as `Decoder.full_precision_head` asks.

    Args:
        source: the model to follow; on the device, without gradients.
        precision: "bf16" or "fp8" (e4m3 with a scale for each token and each output).
        epilogue: in bf16, compute the GELU of a block's feed-forward layers inside its first product, by its tanh
            approximation.

    Attributes:
        model: the copy; takes images in bf16.
    """

    def __init__(self, source: MaskedModel, precision: str, *, epilogue: bool = False) -> None:
        require_choice("LowPrecisionCopy", ("bf16", "fp8"), precision=precision)
        self._source = source
        self.model = copy.deepcopy(source).to(torch.bfloat16)
        predictor: Any = self.model.loss_predictor
        predictor.norm.float()
        predictor.head.float()
        for block in self.model.blocks():
            if precision == "fp8":
                _replace_linears(block)
            elif epilogue:
                block.mlp = EpilogueMlp(block.mlp)
        self._state: object = None
        self._copied = self._tensors_by_type()
        modules: dict[str, Any] = dict(source.named_modules())
        self._quantized = [
            (module, modules[name]) for name, module in self.model.named_modules() if isinstance(module, Fp8Linear)
        ]

    def _tensors_by_type(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """What is copied, to and from, in a group for each type of the copy."""
        sources = dict(self._source.named_parameters())
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for name, parameter in self.model.named_parameters():
            mine, theirs = groups.setdefault(parameter.dtype, ([], []))
            mine.append(parameter)
            theirs.append(sources[name])
        return list(groups.values())

    @torch.no_grad()
    def follow(self, state: object) -> MaskedModel:
        """The copy, brought up to date unless it was already for this state of the source's weights."""
        if state != self._state:
            for mine, theirs in self._copied:
                torch._foreach_copy_(mine, theirs)
            for linear, source in self._quantized:
                linear.quantize(source)
            self._state = state
        return self.model


class Fp8Linear(nn.Module):
    """A linear layer whose product is of fp8 (e4m3) numbers, with a float32 scale for each token and each output.

    Needs compute capability 8.9 (an H100, an RTX 4090) or newer on CUDA.
    """

    weight_OI: Tensor
    scale_O1: Tensor
    bias_O: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        device = linear.weight.device
        self.register_buffer("weight_OI", torch.zeros(outputs, inputs, dtype=torch.float8_e4m3fn, device=device))
        self.register_buffer("scale_O1", torch.ones(outputs, 1, device=device))
        self.register_buffer("bias_O", torch.zeros(outputs, dtype=torch.bfloat16, device=device))
        self.quantize(linear)

    @torch.no_grad()
    def quantize(self, linear: nn.Linear) -> None:
        """Take over the weights of a layer of the same shape."""
        weight_OI, scale_O1 = to_fp8(linear.weight.detach())
        self.weight_OI.copy_(weight_OI)
        self.scale_O1.copy_(scale_O1)
        self.bias_O.copy_(linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        quantized_TI, scale_T1 = to_fp8(x.flatten(0, -2))
        product_TO = torch._scaled_mm(
            quantized_TI,
            self.weight_OI.t(),
            scale_a=scale_T1,
            scale_b=self.scale_O1.t(),
            bias=self.bias_O,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return product_TO.view(*x.shape[:-1], -1)


def to_fp8(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[R, I] -> the rows in e4m3, each divided by its scale; and the scales, float32 [R, 1]."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (rows.float() / scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn), scale


class EpilogueMlp(nn.Module):
    """A block's feed-forward layers with GELU computed as the first product's last step, by cuBLAS.

    Saves a pass over the hidden values. It is the tanh approximation on CUDA, where the layer's own is exact.
    """

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.fc1 = mlp.fc1
        self.fc2 = mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        hidden = torch._addmm_activation(self.fc1.bias, rows, self.fc1.weight.t(), use_gelu=True)
        return F.linear(hidden, self.fc2.weight, self.fc2.bias).view(x.shape)


def _replace_linears(block: nn.Module) -> None:
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Linear):
            parent = block.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], Fp8Linear(module))
