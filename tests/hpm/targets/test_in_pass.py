"""A target is computed in the student's pass where it may be, and outside it to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import some_images, tiny_method
from torch import Tensor

from curriculum import Batch, Mask, Noise
from hpm.models.vit import ViT
from hpm.targets import NormalizedPixels, Pixels, Target


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


class Outside(NormalizedPixels):
    """As somebody wrote it who knows nothing of the pass."""

    in_pass = False


class Asking(NormalizedPixels):
    """Inherits that it may be in the pass, and needs a teacher all the same."""

    needs = ("features",)
    asked = False

    def __call__(self, images: Tensor, mask: Mask, patch_size: int, teacher: object = None) -> Tensor:
        self.asked = teacher is not None
        return super().__call__(images, mask, patch_size)


def test_where_a_target_is_computed_changes_no_bit() -> None:
    inside = NormalizedPixels()
    outside = Outside()
    asking = Asking()
    losses, gradients = [], []
    for target in (inside, outside, asking):
        trained = tiny_method(target)
        trained.initialize(torch.device("cpu"), autocast=None, seed=0)
        found = trained.losses(Batch(some_images(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
        found.total.backward()
        losses.append(found)
        gradients.append([parameter.grad for parameter in trained.student.parameters()])
    for other in (1, 2):
        assert torch.equal(losses[0].true_NM, losses[other].true_NM)
        assert torch.equal(losses[0].total, losses[other].total)
        assert all(torch.equal(*pair) for pair in zip(gradients[0], gradients[other], strict=True))
    assert asking.asked


@pytest.mark.parametrize("target", [NormalizedPixels(), Pixels(error="absolute"), Outside()])
def test_a_compiled_pass_computes_the_target_too(target: Target) -> None:
    torch._dynamo.reset()
    plain, compiled = (tiny_method(target) for _ in range(2))
    for trained in (plain, compiled):
        trained.initialize(torch.device("cpu"), autocast=None, seed=0)
    compiled.forward = torch.compile(compiled.forward, dynamic=False, backend="aot_eager")
    found = [
        trained.losses(Batch(some_images(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
        for trained in (plain, compiled)
    ]
    torch.testing.assert_close(found[1].true_NM, found[0].true_NM)
    torch.testing.assert_close(found[1].total, found[0].total)
