"""Contrast of patches: the loss read directly, its gradient, what hard negatives weigh, and what changes nothing."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiny_models import random_mask, some_images, tiny_method
from torch import Tensor

from curriculum import (
    Batch,
    Constant,
    Curriculum,
    Mask,
    MetricPaced,
    Noise,
    PartialReconstruction,
    Ramp,
    Random,
    Uniform,
)
from hpm.targets import PatchContrast, Pixels, WeightedTargets


def some_features(masked: int = 5, keys: int = 9, width: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, count, width, dtype=torch.float64, generator=generator) for count in (masked, keys))


def direct_loss(prediction: Tensor, target: Tensor, temperature: float, beta: float) -> Tensor:
    """As it stands in the papers, a patch and a negative at a time."""
    loss = torch.zeros(prediction.shape[:2], dtype=torch.float64)
    for n in range(len(prediction)):
        for i, predicted in enumerate(prediction[n]):
            similarity = [
                sum(a * b for a, b in zip(predicted.tolist(), key.tolist(), strict=True))
                / math.sqrt(sum(a * a for a in predicted.tolist()))
                / math.sqrt(sum(b * b for b in key.tolist()))
                for key in target[n]
            ]
            positive = math.exp(similarity[i] / temperature)
            negatives = [s for j, s in enumerate(similarity) if j != i]
            weights = [math.exp(beta * s / temperature) for s in negatives]
            mean = sum(weights) / len(weights)
            among = sum(w / mean * math.exp(s / temperature) for w, s in zip(weights, negatives, strict=True))
            loss[n, i] = -math.log(positive / (positive + among))
    return loss


@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
def test_the_loss_is_that_of_a_direct_reading(temperature: float, beta: float) -> None:
    prediction, target = some_features()
    contrast = PatchContrast(temperature=temperature, beta=beta)
    torch.testing.assert_close(contrast.loss(prediction, target), direct_loss(prediction, target, temperature, beta))
    lower = contrast.loss(prediction.float(), target.float())
    assert lower.dtype == torch.float32
    torch.testing.assert_close(lower.double(), contrast.loss(prediction, target), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 30.0])
def test_its_gradient_is_that_of_finite_differences(beta: float) -> None:
    """A beta of 30 weights by exponentials beyond float32's range."""
    prediction, target = some_features()
    contrast = PatchContrast(beta=beta)
    assert torch.autograd.gradcheck(lambda x: contrast.loss(x, target), prediction.requires_grad_())
    lower = prediction.detach().float().requires_grad_()
    contrast.loss(lower, target.float()).sum().backward()
    assert lower.grad is not None
    assert lower.grad.isfinite().all()


def test_a_beta_of_nothing_is_plain_infonce_to_the_last_bit() -> None:
    """Also where a scheduler starts at 0, and the weights are computed."""
    found = []
    rising = PatchContrast(beta=Ramp(start=0.0, end=2.0))
    rising.advance(0.0)
    for contrast in (PatchContrast(), rising):
        prediction, target = (x.float() for x in some_features())
        loss = contrast.loss(prediction.requires_grad_(), target)
        loss.sum().backward()
        found.append((loss, prediction.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    rising.advance(0.5)
    half = rising.loss(prediction, target)
    assert torch.equal(half, PatchContrast(beta=1.0).loss(prediction, target))
    assert (half > found[0][0]).all(), "the weights and what they weigh rise together, so their mean product is above"


def test_the_scale_of_features_changes_nothing() -> None:
    prediction, target = some_features()
    contrast = PatchContrast(beta=1.0)
    scale = torch.linspace(0.01, 100, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(contrast.loss(3 * prediction, scale * target), contrast.loss(prediction, target))


def shares_of_the_gradient(beta: float) -> Tensor:
    """[N, M, K]: the loss's slope by each negative's cosine over the sum of all, the most similar negative first."""
    prediction, target = some_features(keys=12)
    loss = PatchContrast(beta=beta, temperature=0.5).loss(prediction, target.requires_grad_())
    unit, keys = (torch.nn.functional.normalize(x.detach(), dim=2) for x in (prediction, target))
    shares = torch.zeros(2, 5, 11, dtype=torch.float64)
    for n in range(2):
        for i in range(5):
            (gradient,) = torch.autograd.grad(loss[n, i], target, retain_graph=True)
            cosines = keys[n] @ unit[n, i]
            # By the key itself, the cosine's gradient has the product 1 - cosine^2 with the prediction's direction.
            slopes = (gradient[n] * target[n].norm(dim=1, keepdim=True)) @ unit[n, i] / (1 - cosines.square())
            others = torch.tensor([j for j in range(12) if j != i])
            torch.testing.assert_close(slopes[others].sum(), -slopes[i])
            shares[n, i] = (slopes[others] / slopes[others].sum())[cosines[others].argsort(descending=True)]
    return shares.detach()


def test_harder_negatives_have_a_larger_share_of_the_gradient() -> None:
    shares = [shares_of_the_gradient(beta) for beta in (0.0, 0.25, 0.5, 1.0)]
    for less, more in itertools.pairwise(shares):
        assert (more[..., 0] > less[..., 0]).all(), "the hardest"
        assert (more[..., -1] < shares[0][..., -1]).all(), "the easiest"
    assert (shares_of_the_gradient(200.0)[..., 0] > 0.9).all()


def test_the_dictionary_is_the_moving_averages_features_of_the_full_image() -> None:
    images, mask = some_images(), random_mask(3, 16, 10)
    thrown = Mask(visible=mask.visible[:, 2:], masked=mask.masked, thrown=mask.visible[:, :2])
    for negatives, of, rows in (("image", mask, 16), ("image", thrown, 16), ("masked", mask, 10)):
        built = tiny_method(PatchContrast(negatives=negatives))
        built.initialize(torch.device("cpu"), autocast=None, seed=0)
        with torch.no_grad():
            built.student.encoder.cls_token.add_(1)  # the student is another now
            features = built.teacher.model.encoder(images)[:, 1:]
        target = built.target(images, of, 8, built.teacher)
        assert target.shape == (3, rows, 16)
        assert torch.equal(target[:, :10], of.gather_masked(features))
        places = [sorted((features[n] == row).all(dim=1).nonzero().item() for row in target[n]) for n in range(3)]
        assert places == ([list(range(16))] * 3 if negatives == "image" else mask.masked.tolist())
        prediction = torch.randn(3, 10, 16)
        similarity = built.target.similarities(prediction, target, of)
        cosines = torch.cosine_similarity(prediction.unsqueeze(2), features.unsqueeze(1), dim=3)
        known = torch.ones(3, 16, dtype=torch.bool) if negatives == "image" else of.to_bool()
        torch.testing.assert_close(
            similarity[known.unsqueeze(1).expand_as(similarity)], cosines[known.unsqueeze(1).expand_as(cosines)]
        )
        assert similarity.isnan().sum() == 10 * (~known).sum()


def test_an_images_loss_depends_on_that_image_alone() -> None:
    built = tiny_method(PatchContrast(beta=1.0))
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    images = some_images(4)
    noise = Noise.for_batch(seed=0, step=0, batch_size=4)
    together = built.losses(Batch(images, 8), 0.5, noise).true_NM
    for first in (0, 2):
        own = Noise.for_batch(seed=0, step=0, batch_size=2, first=first)
        apart = built.losses(Batch(images[first : first + 2].clone(), 8), 0.5, own).true_NM
        torch.testing.assert_close(apart, together[first : first + 2])


def test_one_masked_patch_without_others_teaches_nothing() -> None:
    prediction, target = some_features(masked=1, keys=1)
    loss = PatchContrast(negatives="masked", beta=1.0).loss(prediction.requires_grad_(), target)
    (gradient,) = torch.autograd.grad(loss.sum(), prediction)
    assert torch.equal(loss, torch.zeros(2, 1, dtype=torch.float64))
    assert gradient.abs().max() < 1e-14


def test_autocast_changes_the_prediction_and_not_the_loss() -> None:
    prediction, target = (x.float() for x in some_features(width=64))
    contrast = PatchContrast(beta=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within, of_bf16 = contrast.loss(prediction, target), contrast.loss(prediction.bfloat16(), target)
    assert torch.equal(within, contrast.loss(prediction, target))
    assert torch.equal(of_bf16, contrast.loss(prediction.bfloat16().float(), target))
    built = tiny_method(PatchContrast())
    built.initialize(torch.device("cpu"), autocast=torch.bfloat16, seed=0)
    losses = built.losses(Batch(some_images(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
    assert losses.true_NM.dtype == torch.float32
    assert (losses.true_NM > 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_beta_moves_without_recompiling(weighted: bool) -> None:
    target = PatchContrast(beta=Ramp(start=0.0, end=2.0))
    built = tiny_method(WeightedTargets(targets=[Pixels(), target], weights=[1.0, 0.5]) if weighted else target)
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    batch, noise = Batch(some_images(), 8), Noise.for_batch(seed=0, step=0, batch_size=3)
    plain = [built.losses(batch, progress, noise).total.item() for progress in (0.0, 0.4, 1.0)]
    torch._dynamo.reset()
    built.forward = torch.compile(built.forward, dynamic=False, fullgraph=True, backend="aot_eager")
    torch._dynamo.utils.counters.clear()
    compiled = [built.losses(batch, 0.0, noise).total.item()]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled += [built.losses(batch, progress, noise).total.item() for progress in (0.4, 1.0)]
    assert compiled == pytest.approx(plain)
    assert plain[0] < plain[1] < plain[2]
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs == 1


def test_beside_a_target_of_masked_patches_each_loss_is_its_own() -> None:
    contrast = PatchContrast(beta=1.0)
    built = tiny_method(WeightedTargets(targets=[Pixels(), contrast], weights=[0.5, 2.0]))
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    images, mask = some_images(), random_mask(3, 16, 12)
    wanted, prediction = built.target(images, mask, 8, built.teacher), torch.randn(3, 12, 192 + 16)
    pixels = Pixels().loss(prediction[..., :192], Pixels()(images, mask, 8))
    features = contrast(images, mask, 8, built.teacher)
    own = contrast.loss(prediction[..., 192:], features)
    torch.testing.assert_close(built.target.loss(prediction, wanted), 0.5 * pixels + 2 * own)
    similarity = built.target.similarities(prediction, wanted, mask)
    torch.testing.assert_close(similarity, contrast.similarities(prediction[..., 192:], features, mask))
    assert WeightedTargets(targets=[Pixels(), Pixels()], weights=[1.0, 1.0]).whole_image is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"temperature": 0.0}, r"PatchContrast\.temperature = 0\.0 must be at least 0\.01"),
        ({"negatives": "batch"}, r"PatchContrast\.negatives = 'batch' .*'image'.*'masked'"),
        ({"beta": -1.0}, r"PatchContrast\.beta = -1\.0 must lie in \[0, inf\)"),
        ({"beta": Ramp(start=1.0, end=-1.0)}, r"PatchContrast\.beta = .* must lie in"),
        ({"beta": math.inf}, r"PatchContrast\.beta = inf must lie in"),
        ({"beta": MetricPaced()}, r"PatchContrast\.beta = MetricPaced follows what is learned"),
    ],
)
def test_settings_that_cannot_be(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PatchContrast(**arguments)


def test_a_teacher_is_needed() -> None:
    with pytest.raises(ValueError, match=r"Method\.target = PatchContrast is what the moving average makes"):
        tiny_method(PatchContrast(), ema_decay=None)


@pytest.mark.parametrize("weighted", [False, True])
def test_masked_negatives_need_two_reconstructed_patches(weighted: bool) -> None:
    def method(negatives: str, share: float) -> None:
        contrast = PatchContrast(negatives=negatives)
        target = WeightedTargets(targets=[Pixels(), contrast], weights=[1.0, 1.0]) if weighted else contrast
        curriculum = Curriculum(
            scheduler=Constant(value=0.0),
            difficulty=Uniform(),
            sampler=Random(),
            mask_ratio=0.75,
            reconstruction=PartialReconstruction(share=share),
        )
        tiny_method(target, curriculum=curriculum)

    method("image", 0.1)
    method("masked", 0.2)
    with pytest.raises(ValueError, match=r"1 of its 16 is reconstructed; raise PartialReconstruction\.share or"):
        method("masked", 0.1)
