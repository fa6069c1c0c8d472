"""A teacher that is asked for predicted losses under a mask answers as the student's own pass does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from tiny_models import random_mask, some_images, tiny_model

from curriculum import Batch, Constant, Curriculum, HardestFirst, Mask, Noise, PredictedLoss
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.methods.teacher import EMATeacher, StudentTeacher
from hpm.models.base import MaskedModel
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.targets import Pixels

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
MODELS: dict[str, Callable[[], MaskedModel]] = {
    "head on the reconstructor": lambda: tiny_model(loss_predictor_depth=0, decoder_depth=2),
    "one block": lambda: tiny_model(loss_predictor_depth=1),
    "two blocks": lambda: tiny_model(loss_predictor_depth=2, blank_token=True),
    "SimMIM": lambda: SimMIM(encoder=ViT(**VIT), loss_predictor_depth=0),
    "SimMIM, one block": lambda: SimMIM(encoder=ViT(**VIT, relative_positions=True), loss_predictor_depth=1),
    "SimMIM with a Swin": lambda: SimMIM(
        encoder=Swin(img_size=32, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
    ),
}


def build(name: str) -> MaskedModel:
    """Perturbed, so that no token, bias or norm is at the value that would hide it."""
    model = MODELS[name]()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def masks(model: MaskedModel) -> list[Mask]:
    """Of plain kind; with patches thrown away; and with visible ones blanked where the model knows how."""
    plain = random_mask(3, 16, 11)
    keys = torch.rand(3, 16, generator=torch.Generator().manual_seed(3))
    found = [plain, Mask.from_keys(keys, 9, 4)]
    if not isinstance(model, MaskedAutoencoder) or model.encoder_mask_token is not None:
        found.append(replace(plain, blanked=torch.tensor([[True, False, True, False, False]] * 3)))
    return found


@pytest.mark.parametrize("name", MODELS)
def test_it_is_what_the_students_pass_predicts(name: str) -> None:
    model = build(name)
    teachers = [EMATeacher(model, Pixels()), StudentTeacher(model, Pixels())]
    for mask in masks(model):
        expected = model(some_images(), mask).predicted_loss_NM
        assert expected is not None
        for teacher in teachers:
            found = teacher.predicted_loss(some_images(), mask)
            assert found.dtype == torch.float32
            assert not found.requires_grad
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    # And the full image is another question.
    assert not torch.allclose(mask.gather_masked(teachers[0].predicted_loss(some_images())), expected, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_of_a_masked_patch_is_seen(name: str) -> None:
    model = build(name)
    teacher, mask, images = EMATeacher(model, Pixels()), random_mask(3, 16, 11), some_images()
    hidden = mask.to_bool().view(3, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = torch.where(hidden, images + 5, images)
    assert torch.equal(teacher.predicted_loss(other, mask), teacher.predicted_loss(images, mask))
    assert not torch.equal(teacher.predicted_loss(other), teacher.predicted_loss(images))


def test_nothing_is_reconstructed() -> None:
    for name, blocks in (("one block", 0), ("head on the reconstructor", 1)):
        teacher, ran = EMATeacher(build(name), Pixels()), []
        model: MaskedAutoencoder = teacher.model  # type: ignore[assignment]
        model.reconstructor.blocks.register_forward_hook(lambda *_, ran=ran: ran.append("blocks"))
        model.reconstructor.head.register_forward_hook(lambda *_, ran=ran: ran.append("head"))
        teacher.predicted_loss(some_images(), random_mask(3, 16, 11))
        assert ran == ["blocks"] * blocks


def test_a_low_precision_copy_follows_and_orders_patches_alike() -> None:
    model, mask, images = build("two blocks"), random_mask(3, 16, 11), some_images()
    low = EMATeacher(model, Pixels(), autocast=torch.bfloat16, precision="bf16")
    exact = EMATeacher(model, Pixels())
    for _ in range(2):
        found, expected = low.predicted_loss(images, mask), exact.predicted_loss(images, mask)
        assert found.dtype == torch.float32
        assert min(spearmanr(*rows).statistic for rows in zip(found, expected, strict=True)) > 0.9
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-0.9)
        for teacher in (low, exact):
            teacher.update(model, 0.1)


@pytest.mark.parametrize("precision", ["same", "bf16"])
def test_a_compiled_pass_gives_the_same_and_is_compiled_once(precision: str) -> None:
    torch._dynamo.reset()
    teacher = EMATeacher(build("two blocks"), Pixels(), precision=precision)
    mask = random_mask(3, 16, 11)
    expected = [teacher.predicted_loss(some_images(), asked) for asked in (mask, None)]
    teacher.compile(backend="eager")
    found = [teacher.predicted_loss(some_images(), asked) for asked in (mask, None)]
    torch.testing.assert_close(found, expected)
    other = Mask.from_bool(mask.to_bool().flip(0))
    with torch.compiler.set_stance("fail_on_recompile"):
        again = teacher.predicted_loss(some_images().flip(0), other)
    torch.testing.assert_close(again, expected[0].flip(0))


def test_a_recorded_pass_is_of_the_full_image_alone() -> None:
    """What stands in for a CUDA graph is called where no mask is given, and there only."""
    teacher, mask = EMATeacher(build("one block"), Pixels()), random_mask(3, 16, 11)
    expected = teacher.predicted_loss(some_images(), mask)
    teacher._recorded = lambda images_NCHW: torch.full((len(images_NCHW), 16), 7.0)  # type: ignore[assignment]
    assert torch.equal(teacher.predicted_loss(some_images(), mask), expected)
    assert bool((teacher.predicted_loss(some_images()) == 7.0).all())


def test_hard_patches_are_those_that_two_probes_score_highest() -> None:
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=PredictedLoss(probes=2), sampler=HardestFirst())
    trained = Method(model=tiny_model(), curriculum=curriculum, target=Pixels(), ema_decay=HorizonDecay())
    trained.initialize(torch.device("cpu"), autocast=None, seed=0)
    losses = trained.losses(Batch(some_images(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
    assert curriculum.scores is not None
    assert bool(curriculum.scores.isfinite().all())
    expected = curriculum.scores.topk(12, dim=1).indices.sort(dim=1).values
    assert torch.equal(losses.mask.masked, expected)
