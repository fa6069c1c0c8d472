"""What a run that is too short for its settings says before it trains."""

from __future__ import annotations

import pytest
import torch

from hpm.config import parse_config
from hpm.methods.loss_prediction import AbsoluteLoss, ContrastiveLoss, ListwiseLoss, PredictionLoss, RelativeLoss
from hpm.training.cautions import cautions
from hpm.training.trainer import Trainer


@pytest.mark.parametrize(
    ("every", "told"),
    [
        (1, None),
        (207, None),
        (208, "Method.dense_prediction_every = 208, and the run has 208 steps: the loss predictor learns"),
        (3000, "Method.dense_prediction_every = 3000, and the run has 208 steps: the loss predictor learns"),
    ],
)
def test_dense_prediction_that_comes_once_is_told(every: int, told: str | None) -> None:
    bindings = ["Schedule.epochs = 1", "Schedule.warmup_epochs = 0.1", f"Method.dense_prediction_every = {every}"]
    trainer: Trainer = parse_config(["quickstart", "curricula/hpm_dense"], bindings).build()
    assert trainer.clock.total_steps == 208
    found = [caution for caution in cautions(trainer.method, trainer.clock, trainer.image_sizes) if "dense" in caution]
    assert [caution.startswith(told or "-") for caution in found] == [True] * (told is not None)


@pytest.mark.parametrize(
    ("share", "depth", "weight", "told"),
    [(0.1, 1, 1.0, True), (0.3, 1, 1.0, False), (0.1, None, 1.0, False), (0.1, 1, 0.0, False)],
)
def test_a_loss_predictor_that_has_nothing_to_compare_is_told(
    share: float, depth: int | None, weight: float, told: bool
) -> None:
    bindings = [
        "Curriculum.reconstruction = @PartialReconstruction()",
        f"PartialReconstruction.share = {share}",
        f"MaskedAutoencoder.loss_predictor_depth = {depth}",
        f"Method.prediction_weight = {weight}",
    ]
    trainer: Trainer = parse_config(["quickstart", "curricula/random"], bindings).build()
    assert (trainer.method.curriculum.counts(16, 12).reconstructed == 1) == (share == 0.1)
    told_of = cautions(trainer.method, trainer.clock, trainer.image_sizes)
    found = [caution for caution in told_of if "compares them" in caution]
    assert len(found) == told
    if told:
        assert "raise PartialReconstruction.share or Curriculum.mask_ratio, or do without it, MaskedAuto" in found[0]


@pytest.mark.parametrize("loss", [RelativeLoss(), AbsoluteLoss(), ListwiseLoss(), ContrastiveLoss()])
def test_of_one_patch_no_prediction_loss_learns_which_is_harder(loss: PredictionLoss) -> None:
    """What the caution says: the gradient is the same whatever the true losses are, and finite."""
    predicted_NM = torch.tensor([[0.5], [-2.0]], requires_grad=True)
    gradients = []
    for true_NM in (torch.tensor([[0.1], [3.0]]), torch.tensor([[3.0], [0.1]])):
        total, _ = loss(predicted_NM, true_NM)
        gradients.append(torch.autograd.grad(total, predicted_NM)[0])
    assert gradients[0].isfinite().all()
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("name", "epochs", "binding", "mend"),
    [
        ("hard_images", 1, "ImageLoss.momentum = 0.0", "train for more"),
        ("hard_images", 2, "ImageLoss.momentum = 0.0", None),
        ("self_paced", 1, "ImageLoss.every = 1", "train for more"),
        ("self_paced", 2, "ImageLoss.every = 1", None),
        ("prototypes", 3, "PrototypeDistance.first_epoch = 3", "for more, or lower PrototypeDistance.first_epoch"),
        ("prototypes", 4, "PrototypeDistance.first_epoch = 3", None),
        ("prototypes", 1, "PrototypeDistance.first_epoch = 0", None),
    ],
)
def test_an_image_curriculum_that_never_knows_an_image_is_told(
    name: str, epochs: int, binding: str, mend: str | None
) -> None:
    bindings = [f"Schedule.epochs = {epochs}", "Schedule.warmup_epochs = 0.1", binding]
    trainer: Trainer = parse_config(["quickstart", f"image_curricula/{name}"], bindings).build()
    told = cautions(trainer.method, trainer.clock, trainer.image_sizes)
    found = [caution for caution in told if caution.startswith("ImageCurriculum.difficulty = ")]
    assert len(found) == (mend is not None)
    if mend is not None:
        assert f"Schedule.epochs = {epochs}: every epoch shows each image once" in found[0]
        assert found[0].endswith(mend)
