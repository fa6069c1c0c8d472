"""Soft assignments to prototypes, against direct readings, and the targets that are made of them."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import random_mask, some_images, tiny_method, tiny_model
from torch import Tensor, nn

from curriculum import Piecewise, Plateau, Ramp
from hpm.methods.method import Method
from hpm.methods.teacher import EMATeacher
from hpm.models.heads import CosineLinear, ProjectionHead
from hpm.models.simmim import SimMIM
from hpm.models.vit import ViT
from hpm.runtime.distributed import DistributedContext
from hpm.targets import DistilledTokens, OnlineClusters, Pixels, WeightedTargets
from hpm.targets.assignments import Centering, Sinkhorn

ALONE = DistributedContext()


def some_logits(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


def balanced(scores_RK: Tensor, iterations: int) -> list[list[float]]:
    """Sinkhorn and Knopp's iterations as they are published: columns first, rows last."""
    rows, columns = scores_RK.shape
    m = [[math.exp(scores_RK[r, k]) for k in range(columns)] for r in range(rows)]
    for _ in range(iterations):
        sums = [sum(m[r][k] for r in range(rows)) for k in range(columns)]
        m = [[m[r][k] / sums[k] for k in range(columns)] for r in range(rows)]
        m = [[value / sum(row) for value in row] for row in m]
    return m


@pytest.mark.parametrize("iterations", [1, 3])
def test_tokens_are_balanced_as_published_at_each_position_or_all_together(iterations: int) -> None:
    logits, temperature = some_logits(6, 3, 4), 0.3
    apart = Sinkhorn(4, groups=3, iterations=iterations).double().learn(logits, temperature, ALONE)
    for position in range(3):
        expected = torch.tensor(balanced(logits[:, position] / temperature, iterations), dtype=torch.float64)
        torch.testing.assert_close(apart[:, position], expected)
    together = Sinkhorn(4, groups=1, iterations=iterations).double().learn(logits, temperature, ALONE)
    expected = torch.tensor(balanced(logits.view(-1, 4) / temperature, iterations), dtype=torch.float64)
    torch.testing.assert_close(together.view(-1, 4), expected)


def test_every_prototype_has_its_share_in_the_end_and_every_token_is_one() -> None:
    logits = some_logits(12, 2, 4) + torch.tensor([9.0, 0.0, 0.0, 0.0])  # of which one would take all
    assigned = Sinkhorn(4, groups=2, iterations=200).double().learn(logits, 0.5, ALONE)
    torch.testing.assert_close(assigned.sum(dim=0), torch.full((2, 4), 3.0, dtype=torch.float64))
    torch.testing.assert_close(assigned.sum(dim=2), torch.ones(12, 2, dtype=torch.float64))


@pytest.mark.parametrize("groups", [1, 5])
def test_what_is_kept_assigns_a_steps_images_as_the_step_did(groups: int) -> None:
    sinkhorn, logits = Sinkhorn(6, groups=groups, iterations=3), some_logits(8, 5, 6, dtype=torch.float32)
    assigned = sinkhorn.learn(logits, 0.06, ALONE)
    torch.testing.assert_close(sinkhorn(logits, 0.06), assigned)
    kept = sinkhorn.potentials.clone()
    torch.testing.assert_close(sinkhorn(logits[2:4], 0.06), assigned[2:4])
    assert torch.equal(sinkhorn.potentials, kept), "an evaluation changes nothing"


def test_no_logits_are_too_far_apart_to_be_balanced() -> None:
    logits = 100 * some_logits(8, 1, 6, dtype=torch.float32)
    assigned = Sinkhorn(6, groups=1, iterations=3).learn(logits, 0.01, ALONE)
    assert assigned.isfinite().all()
    torch.testing.assert_close(assigned.sum(dim=-1), torch.ones(8, 1))


def test_the_center_is_a_moving_average_that_a_step_sees_before_its_own_mean() -> None:
    centering, center = Centering(4, momentum=0.9).double(), [0.0] * 4
    for number in range(3):
        logits = some_logits(5, 2, 4) + number
        assigned = centering.learn(logits, 0.07, ALONE)
        for n in range(5):
            for place in range(2):
                powers = [math.exp((logits[n, place, k].item() - center[k]) / 0.07) for k in range(4)]
                expected = torch.tensor([power / sum(powers) for power in powers], dtype=torch.float64)
                torch.testing.assert_close(assigned[n, place], expected)
        means = [sum(logits[n, place, k].item() for n in range(5) for place in range(2)) / 10 for k in range(4)]
        center = [0.9 * old + 0.1 * new for old, new in zip(center, means, strict=True)]
        torch.testing.assert_close(centering.center, torch.tensor(center, dtype=torch.float64))


def test_a_step_that_is_not_finite_leaves_the_center_as_it_is() -> None:
    centering, logits = Centering(4, momentum=0.9), torch.randn(2, 3, 4)
    centering.learn(logits, 0.07, DistributedContext())
    center = centering.center.clone()
    assert center.abs().min() > 0
    logits[1, 2, 3] = math.inf
    centering.learn(logits, 0.07, DistributedContext())
    assert torch.equal(centering.center, center)


def test_a_cosine_head_is_a_weight_normed_layer_on_normalized_tokens() -> None:
    """And iBOT's head is three layers before it."""
    tokens = some_logits(3, 5, 8, dtype=torch.float32)
    head = CosineLinear(8, 7)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(8, 7, bias=False))
    with torch.no_grad():
        layer.parametrizations.weight.original1.copy_(head.weight)
        layer.parametrizations.weight.original0.fill_(1.0)
    torch.testing.assert_close(head(tokens), layer(nn.functional.normalize(tokens, dim=-1)))
    projection = ProjectionHead(8, hidden=6, bottleneck=4, outputs=5)
    first, second, third, last = (m for m in projection if isinstance(m, nn.Linear))
    hidden = nn.functional.gelu(second(nn.functional.gelu(first(tokens))))
    torch.testing.assert_close(projection(tokens), last(third(hidden)))
    assert projection(tokens).abs().max() <= 1 + 1e-6


def distilled(**settings: object) -> DistilledTokens:
    small: dict = {"prototypes": 12, "hidden": 10, "bottleneck": 6}
    return DistilledTokens(**small | settings)


def method_of(target: DistilledTokens | OnlineClusters) -> Method:
    """With a student that differs from its moving average."""
    model: object = tiny_model(loss_predictor_depth=None)
    if isinstance(target, DistilledTokens):
        encoder = ViT(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2)
        model = SimMIM(encoder=encoder, loss_predictor_depth=None)
    method = tiny_method(target, model=model)
    method.initialize(torch.device("cpu"), autocast=None, seed=0)
    generator = torch.Generator().manual_seed(5)
    for parameter in method.student.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method


def cross_entropy(assigned_NMP: Tensor, logits_NMP: Tensor) -> Tensor:
    """[N, M], term by term."""
    rows = []
    for p, z in zip(assigned_NMP.flatten(0, 1).tolist(), logits_NMP.flatten(0, 1).tolist(), strict=True):
        total = sum(math.exp(value) for value in z)
        rows.append(-sum(share * math.log(math.exp(value) / total) for share, value in zip(p, z, strict=True)))
    return torch.tensor(rows).view(assigned_NMP.shape[:2])


def test_a_student_learns_what_the_averages_own_head_says_of_patches_that_it_sees() -> None:
    method = method_of(distilled(teacher_temperature=0.07, student_temperature=0.1))
    images, mask, average = some_images(), random_mask(3, 16, 12), method.teacher.averaged_model
    assert isinstance(average, SimMIM)
    with torch.no_grad():
        logits = average.head(average.encoder(images)[:, 1:])
        prediction = method.student(images, mask).reconstruction_NMP
    assigned = mask.gather_masked((logits / 0.07).softmax(dim=-1))  # the center is 0 at first
    target = method.target.learn(images, mask, 8, method.teacher, ALONE)
    torch.testing.assert_close(target, assigned)
    torch.testing.assert_close(method.target.loss(prediction, target), cross_entropy(assigned, prediction / 0.1))
    again = method.target.learn(images, mask, 8, method.teacher, ALONE)
    center = 0.1 * logits.mean(dim=(0, 1))
    torch.testing.assert_close(again, mask.gather_masked(((logits - center) / 0.07).softmax(dim=-1)))


def test_clusters_are_of_the_averages_tokens_and_learn_their_own_assignments() -> None:
    method = method_of(OnlineClusters(clusters=6, teacher_temperature=0.1, student_temperature=0.2))
    target, images, mask, average = method.target, some_images(5), random_mask(5, 16, 12), method.teacher.averaged_model
    assert isinstance(target, OnlineClusters)
    assert average is not None
    with torch.no_grad():
        tokens = nn.functional.normalize(average.encoder(images)[:, 1:], dim=-1)
        logits = tokens @ target.layer.weight.T + target.layer.bias
    assigned = torch.stack([torch.tensor(balanced(logits[:, place] / 0.1, 3)) for place in range(16)], dim=1)
    values = target.learn(images, mask, 8, method.teacher, ALONE)
    torch.testing.assert_close(values, mask.gather_masked(assigned), rtol=1e-4, atol=1e-5)
    assert not values.requires_grad
    loss = target.own_loss(logits, assigned)
    torch.testing.assert_close(loss, cross_entropy(assigned, logits / 0.2).mean(), rtol=1e-5, atol=1e-5)
    # Its gradient reaches the layer alone, and is that of a cross-entropy to assignments that stand still.
    assert all(parameter.grad is None for model in (method.student, average) for parameter in model.parameters())
    error = (((logits / 0.2).softmax(dim=-1) - assigned) / 0.2).flatten(0, 1) / (5 * 16)
    torch.testing.assert_close(target.layer.weight.grad, error.T @ tokens.flatten(0, 1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(target.layer.bias.grad, error.sum(dim=0), rtol=1e-3, atol=1e-6)


def test_seeds_decide_the_clusters() -> None:
    weights = []
    for seed in (0, 0, 1):
        target = OnlineClusters(clusters=400)
        tiny_method(target).initialize(torch.device("cpu"), autocast=None, seed=seed)
        weights.append(target.layer.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[0].std().item() == pytest.approx(1, abs=0.05)


def test_low_precision_rounds_logits_and_no_distribution() -> None:
    """Sums of bf16 would be off by a hundredth, and equal assignments would tie."""
    for target in (distilled(assignment="sinkhorn"), distilled(), OnlineClusters(clusters=12)):
        method = method_of(target)
        target.prepare(torch.device("cpu"), autocast=torch.bfloat16)
        teacher = EMATeacher(method.student, target, autocast=torch.bfloat16)
        values = target.learn(some_images(), random_mask(3, 16, 12), 8, teacher, ALONE)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.sum(dim=-1), torch.ones(3, 12), rtol=0, atol=1e-5)
        loss = target.loss(torch.randn(3, 12, 12).bfloat16(), values)
        assert loss.dtype == torch.float32


def test_the_averages_temperature_rises_with_time() -> None:
    target = distilled(teacher_temperature=Ramp(start=0.04, end=0.07, until=0.5))
    assert target.temperature == 0.07, "what a finished model is judged by"
    for progress, temperature in ((0.0, 0.04), (0.25, 0.055), (0.5, 0.07), (0.8, 0.07)):
        target.advance(progress)
        assert target.temperature == pytest.approx(temperature)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prototypes": 1}, r"DistilledTokens\.prototypes = 1 must lie in"),
        ({"hidden": 0}, r"DistilledTokens\.hidden = 0 must lie in"),
        ({"bottleneck": 70000}, r"DistilledTokens\.bottleneck = 70000 must lie in"),
        ({"student_temperature": 0.0}, r"DistilledTokens\.student_temperature = 0\.0 must be at least 0\.001"),
        ({"teacher_temperature": 0.0}, r"DistilledTokens\.teacher_temperature = 0\.0 must be at least 0\.001"),
        (
            {"teacher_temperature": Piecewise(points=[(0.0, 0.0), (1.0, 0.1)])},
            r"DistilledTokens\.teacher_temperature = 0\.0 must be at least 0\.001",
        ),
        ({"teacher_temperature": Plateau()}, r"teacher_temperature = Plateau follows what is learned; it can follow"),
        ({"assignment": "softmax"}, r"DistilledTokens\.assignment = 'softmax' .*centering.*sinkhorn"),
        ({"center_momentum": 1.0}, r"DistilledTokens\.center_momentum = 1\.0 must lie in \[0, 1\)"),
        ({"assignment": "sinkhorn", "iterations": 0}, r"DistilledTokens\.iterations = 0 must lie in"),
        (
            {"iterations": 3},
            r"iterations = 3 does nothing where DistilledTokens\.assignment = 'centering'",
        ),
        ({"assignment": "sinkhorn", "center_momentum": 0.9}, r"center_momentum = 0\.9 does nothing where"),
    ],
)
def test_settings_of_distilled_tokens_that_cannot_be(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        distilled(**settings)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"clusters": 1}, r"OnlineClusters\.clusters = 1 must lie in"),
        ({"iterations": 0}, r"OnlineClusters\.iterations = 0 must lie in"),
        ({"lr_scale": 0.0}, r"OnlineClusters\.lr_scale = 0\.0 must be"),
        ({"weight_decay": -0.1}, r"OnlineClusters\.weight_decay = -0\.1 must be at least 0"),
        ({"betas": (0.9, 1.0)}, r"OnlineClusters\.betas = 1\.0 must lie in \[0, 1\)"),
    ],
)
def test_settings_of_clusters_that_cannot_be(settings: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OnlineClusters(**settings)


def test_where_these_targets_do_not_fit() -> None:
    with pytest.raises(
        ValueError, match=r"DistilledTokens needs head_outputs, but the head of a MaskedAutoencoder reads"
    ):
        tiny_method(distilled())
    with pytest.raises(ValueError, match=r"Method\.ema_decay = None means that there is none"):
        tiny_method(OnlineClusters(clusters=8), ema_decay=None)
    with pytest.raises(ValueError, match=r"WeightedTargets\.targets\[1\] = OnlineClusters keeps what it learns"):
        WeightedTargets(targets=[Pixels(), OnlineClusters()], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="reads what its decoder makes"):
        tiny_model().head_outputs(torch.zeros(1, 16, 16))
