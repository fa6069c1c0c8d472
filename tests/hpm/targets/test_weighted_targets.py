"""Several targets at once, with weights that move."""

from __future__ import annotations

import pytest
import torch
from tiny_models import random_mask, some_images, tiny_method

from curriculum import Batch, MetricPaced, Noise, Ramp
from hpm.targets import HOG, Pixels, TeacherFeatures, WeightedTargets


def test_weighted_targets() -> None:
    target = WeightedTargets(targets=[Pixels(), TeacherFeatures()], weights=[0.5, Ramp(start=0.0, end=2.0)])
    built = tiny_method(target)
    assert built.student.outputs == 8 * 8 * 3 + 16
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    images, mask = some_images(), random_mask(3, 16, 12)
    wanted = target(images, mask, 8, built.teacher)
    torch.manual_seed(0)
    prediction = torch.randn_like(wanted)
    pixels, features = (
        part.loss(prediction[..., place], wanted[..., place])
        for part, place in ((Pixels(), slice(0, 192)), (TeacherFeatures(), slice(192, None)))
    )
    for progress, weight in ((0.25, 0.5), (1.0, 2.0)):
        target.advance(progress)
        torch.testing.assert_close(target.loss(prediction, wanted), 0.5 * pixels + weight * features)
    assert torch.equal(target.restore(prediction, images, mask, 8), prediction[..., :192])
    batch, noise = Batch(images, 8), Noise.for_batch(seed=0, step=0, batch_size=3)
    early, late = (built.losses(batch, progress, noise).total.item() for progress in (0.0, 1.0))
    assert early < late


def test_weights_move_without_recompiling() -> None:
    target = WeightedTargets(targets=[Pixels(), TeacherFeatures()], weights=[1.0, Ramp(start=0.0, end=2.0)])
    built = tiny_method(target)
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    batch, noise = Batch(some_images(), 8), Noise.for_batch(seed=0, step=0, batch_size=3)
    plain = [built.losses(batch, progress, noise).total.item() for progress in (0.0, 0.4, 1.0)]
    torch._dynamo.reset()
    built.forward = torch.compile(built.forward, dynamic=False, backend="eager")
    torch._dynamo.utils.counters.clear()
    compiled = [built.losses(batch, 0.0, noise).total.item()]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled += [built.losses(batch, progress, noise).total.item() for progress in (0.4, 1.0)]
    assert compiled == pytest.approx(plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"targets": [Pixels()], "weights": [1.0]}, "two or more and as many"),
        ({"targets": [Pixels(), HOG()], "weights": [1.0]}, "two or more and as many"),
        (
            {"targets": [Pixels(), "HOG"], "weights": [1.0, 1.0]},
            r"WeightedTargets\.targets\[1\] must be a Target, got 'HOG'",
        ),
        ({"targets": [Pixels(), HOG()], "weights": [1.0, -1.0]}, "must not be negative"),
        (
            {"targets": [Pixels(), HOG()], "weights": [0.0, Ramp(start=0.0, end=0.0)]},
            "are all 0, so that nothing would be",
        ),
        ({"targets": [Pixels(), HOG()], "weights": [1.0, MetricPaced()]}, "MetricPaced follows what is learned"),
    ],
)
def test_weights_that_cannot_be(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WeightedTargets(**arguments)
