"""Dense prediction: in every k-th step the loss predictor also learns on the full image, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_models import tiny_model

from curriculum import Batch, Constant, Curriculum, HardestFirst, Noise, PredictedLoss
from hpm.methods.decay import HorizonDecay
from hpm.methods.loss_prediction import ListwiseLoss, PredictionLoss, RelativeLoss
from hpm.methods.method import Method
from hpm.models.base import MaskedModel
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.optim.schedule import Schedule
from hpm.runtime.settings import Runtime
from hpm.targets import NormalizedPixels
from hpm.training.checks import check_method

STEP, OTHER = 6, 7  # one that is dense at every third step, and one that is not
MODELS: dict[str, Callable[[], MaskedModel]] = {
    "decoder of two blocks": lambda: tiny_model(loss_predictor_depth=2),
    "head on the reconstructor": lambda: tiny_model(loss_predictor_depth=0),
    "blanked patches": lambda: tiny_model(blank_token=True),
    "SimMIM": lambda: SimMIM(
        encoder=ViT(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2), loss_predictor_depth=1
    ),
    "SimMIM with a Swin": lambda: SimMIM(
        encoder=Swin(img_size=32, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
    ),
}


def method(
    name: str = "decoder of two blocks", every: int = 3, *, autocast: torch.dtype | None = None, **changes: object
) -> Method:
    curriculum = Curriculum(
        scheduler=Constant(value=0.5),
        difficulty=PredictedLoss(),
        sampler=HardestFirst(),
        blank_ratio=0.5 if name == "blanked patches" else 0.0,
    )
    arguments: dict = {"ema_decay": HorizonDecay(), "dense_prediction_every": every} | changes
    built = Method(model=MODELS[name](), curriculum=curriculum, target=NormalizedPixels(), **arguments)
    built.initialize(torch.device("cpu"), autocast=autocast, seed=0)
    # As little as the heads start with would hide what the gradient of a norm before them is.
    with torch.no_grad():
        for parameter in built.student.loss_predictor.parameters():  # type: ignore[union-attr]
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)), alpha=0.1)
    return built


def batch(count: int = 4) -> Batch:
    return Batch(torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 8)


def noise(step: int = STEP, count: int = 4) -> Noise:
    return Noise.for_batch(seed=0, step=step, batch_size=count)


def gradients(trained: Method, step: int = STEP) -> dict[str, torch.Tensor]:
    trained.student.zero_grad()
    trained.losses(batch(), 0.5, noise(step)).total.backward()
    return {name: p.grad.clone() for name, p in trained.student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", [RelativeLoss(), ListwiseLoss()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("name", MODELS)
def test_the_dense_loss_is_that_of_the_full_images_tokens(name: str, loss: PredictionLoss) -> None:
    """By an independent reading: patch by patch from the model's own answer about the full image."""
    trained = method(name, prediction_loss=loss, prediction_weight=0.7)
    losses = trained.losses(batch(), 0.5, noise())
    with torch.no_grad():
        predicted_NL = trained.student.predict_loss(batch().images)
    rows = [
        torch.stack([predicted_NL[image, patch] for patch in losses.mask.masked[image]])
        for image in range(len(predicted_NL))
    ]
    total, count = loss(torch.stack(rows), losses.true_NM)
    assert losses.predicted_NM is not None
    assert not torch.allclose(torch.stack(rows), losses.predicted_NM)
    expected = losses.reconstruction + 0.7 * (losses.prediction + total / count)
    torch.testing.assert_close(losses.total, expected)


@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_reaches_the_loss_predictor_alone(name: str) -> None:
    with_it, without = gradients(method(name)), gradients(method(name, every=0))
    assert with_it.keys() == without.keys()
    changed = {parameter for parameter in with_it if not torch.equal(with_it[parameter], without[parameter])}
    own = {parameter for parameter in with_it if parameter.startswith("loss_predictor.")}
    # A shift of all predictions changes no rank: the head's bias has no gradient but rounding.
    assert own - {"loss_predictor.head.bias"} <= changed <= own


@pytest.mark.parametrize("name", MODELS)
def test_its_gradient_is_that_of_the_loss(name: str) -> None:
    """Against differences in double precision, along a random direction of the predictor's parameters."""
    trained = method(name)
    trained.student.double()
    trained.teacher.model.double()
    images, eps = Batch(batch().images.double(), 8), 1e-6
    own = [p for key, p in trained.student.named_parameters() if key.startswith("loss_predictor.")]
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in own]

    def dense_part() -> torch.Tensor:
        losses = trained.losses(images, 0.5, noise())
        return losses.total - losses.reconstruction - losses.prediction

    dense_part().backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(own, direction, strict=True) if p.grad is not None)
    ends = []
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, change in zip(own, direction, strict=True):
                parameter.add_(change, alpha=sign * eps)
        ends.append(float(dense_part().detach()))
    assert abs(slope) > 1e-4
    assert (ends[0] - ends[1]) / (2 * eps) == pytest.approx(slope, rel=1e-5)


def test_other_steps_are_as_without_it() -> None:
    one, other = gradients(method(), OTHER), gradients(method(every=0), OTHER)
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert method(every=1).losses(batch(), 0.5, noise(OTHER)).total > method().losses(batch(), 0.5, noise(OTHER)).total


def test_curves_stay_comparable() -> None:
    """The prediction loss that a step reports is that at mask tokens."""
    one, other = (method(every=every).losses(batch(), 0.5, noise()) for every in (3, 0))
    assert torch.equal(one.prediction, other.prediction)
    assert torch.equal(one.reconstruction, other.reconstruction)
    assert one.total > other.total


def test_a_predictor_that_nothing_teaches_is_not_followed() -> None:
    with pytest.raises(ValueError, match=r"PredictedLoss follows the loss predictor, which Method\.prediction_weight"):
        method(every=0, prediction_weight=0.0)
    with pytest.raises(
        ValueError, match=r"dense_prediction_every = 3 .* Method\.prediction_weight = 0 gives no weight"
    ):
        method(every=3, prediction_weight=0.0)


def test_autocast_computes_the_same_and_every_parameter_learns() -> None:
    """Weights that are cast without gradients must not stand in for those of the student's own pass."""
    for name in ("decoder of two blocks", "head on the reconstructor"):
        found, expected = gradients(method(name, autocast=torch.bfloat16)), gradients(method(name))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            if not key.endswith("bias"):
                assert torch.nn.functional.cosine_similarity(found[key].flatten(), value.flatten(), dim=0) > 0.9, key


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"every": -1}, r"Method\.dense_prediction_every = -1 must be at least 0"),
        (
            {"model": None},
            r"Method\.dense_prediction_every = 3 trains a loss predictor, and MaskedAutoencoder\.loss_predictor_depth "
            "is None; set it to a number of blocks, or Method.dense_prediction_every = 0",
        ),
    ],
)
def test_what_cannot_be(settings: dict, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "model" in settings:
        monkeypatch.setitem(MODELS, "plain", lambda: tiny_model(loss_predictor_depth=None))
        settings = {"name": "plain"}
    with pytest.raises(ValueError, match=words):
        method(**settings)


def test_a_recorded_step_is_refused() -> None:
    runtime = Runtime(cuda_graphs=True)
    check_method(method(every=0), runtime, Schedule())
    with pytest.raises(ValueError, match=r"Runtime\.cuda_graphs = True needs Method\.dense_prediction_every = 0"):
        check_method(method(), runtime, Schedule())
