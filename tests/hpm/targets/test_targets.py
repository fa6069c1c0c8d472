"""What holds for every target: its shape, its loss's gradient, and what it may be asked without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_models import random_mask, some_images, tiny_method, tiny_model
from torch import Tensor

from curriculum import Mask
from hpm.methods.loss_prediction import RelativeLoss
from hpm.methods.teacher import EMATeacher
from hpm.targets import (
    HOG,
    NormalizedPixels,
    OnlineClusters,
    PatchContrast,
    Pixels,
    Target,
    TeacherFeatures,
    TimmFeatures,
    WeightedTargets,
)

TIMM = "vit_tiny_patch16_224"
TARGETS: dict[str, Callable[[], Target]] = {
    "pixels": Pixels,
    "absolute": lambda: Pixels(error="absolute"),
    "normalized": NormalizedPixels,
    "hog": HOG,
    "teacher": TeacherFeatures,
    "timm": lambda: TimmFeatures(model=TIMM, pretrained=False),
    "clusters": lambda: OnlineClusters(clusters=8),
    "contrast": PatchContrast,
    "hard negatives": lambda: PatchContrast(negatives="masked", beta=1.0),
    "weighted contrast": lambda: WeightedTargets(targets=[HOG(), PatchContrast(beta=0.5)], weights=[1.0, 0.3]),
    "weighted": lambda: WeightedTargets(targets=[HOG(), TeacherFeatures()], weights=[1.0, 0.3]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    built = tiny_method(
        TARGETS[name](), model=tiny_model(embed_dim=8, decoder_embed_dim=8), prediction_loss=RelativeLoss()
    )
    built.target.load()
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    built.student.double()
    built.teacher = EMATeacher(built.student, built.target)
    images, mask = some_images(2).double(), random_mask(2, 16, 12)
    target = built.target(images, mask, 8, built.teacher).double()
    parameter = built.student.reconstructor.head.weight

    def loss() -> Tensor:
        return built.target.loss(built.student(images, mask).reconstruction_NMP, target).mean()

    (gradient,) = torch.autograd.grad(loss(), parameter)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6):
                parameter.add_(step * direction)
                values.append(loss())
            parameter.add_(1e-6 * direction)
        numeric = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_fits_the_head_and_sees_masked_patches_alone(name: str) -> None:
    built = tiny_method(TARGETS[name]())
    built.target.load()
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    images, mask = some_images(), random_mask(3, 16, 12)
    target = built.target(images, mask, 8, built.teacher)
    assert target.shape == (3, 16 if built.target.whole_image else 12, built.student.outputs)
    assert not target.requires_grad
    everything = Mask(visible=mask.visible[:, :0], masked=torch.arange(16).expand(3, 16))
    found = mask.gather_masked(built.target(images, everything, 8, built.teacher))
    torch.testing.assert_close(found, target[:, :12])


@pytest.mark.parametrize(
    "target", [TeacherFeatures(), WeightedTargets(targets=[Pixels(), TeacherFeatures()], weights=[1.0, 1.0])]
)
def test_a_student_alone_has_no_teacher_to_follow(target: Target) -> None:
    with pytest.raises(ValueError, match=r"Method\.ema_decay = None means that there is none"):
        tiny_method(target, ema_decay=None)
