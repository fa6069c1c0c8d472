"""A target of somebody's own is computed outside the pass unless it says otherwise; low residuals stay low."""

from __future__ import annotations

from pathlib import Path

import torch

from hpm.models.vit import ViT
from hpm.targets import NormalizedPixels, Pixels


def test_a_subclass_that_computes_anew_is_outside_the_pass() -> None:
    class Moving(Pixels):
        def advance(self, progress: float) -> None:
            self.progress = progress

    class Named(Pixels):
        """Changes nothing."""

    assert (Pixels.in_pass, NormalizedPixels.in_pass, Named.in_pass, Moving.in_pass) == (True, True, True, False)


def test_layer_scale_does_not_raise_tokens_to_float32() -> None:
    encoder, seen = ViT(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, init_values=0.1), []
    encoder.blocks.residual_dtype = torch.bfloat16
    for block in encoder.blocks:
        block.register_forward_pre_hook(lambda block, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(torch.randn(1, 3, 32, 32))
    assert seen == [torch.bfloat16] * 3


def test_a_run_with_a_mode_of_compilation_is_evaluated(hpm, tiny: Path) -> None:
    words = ["Runtime.compile = 'blocks'", "Runtime.compile_mode = 'max-autotune-no-cudagraphs'", "Schedule.epochs = 2"]
    assert hpm("pretrain", tiny, "--output", "run", *[w for text in words for w in ("-b", text)]) == 0
    assert hpm("evaluate", "run", "--protocol", "knn") == 0
