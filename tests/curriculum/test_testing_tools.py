from __future__ import annotations

import itertools

import pytest
import torch

from curriculum import Mask, Noise
from curriculum import teacher as teacher_module
from curriculum.testing import TinyTeacher, refuse_host_sync, tiny_batch, typical_feedback
from curriculum.testing.difficulty import CAPABILITIES

WAITING = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool((x > 2).any()),
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 2),
    "boolean index": lambda x: x[x > 2],
    "boolean assignment": lambda x: x.__setitem__(x > 2, x[:3].clone()),
    "masked_select": lambda x: x.masked_select(x > 2),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("what", WAITING)
def test_waits_for_the_device_are_refused(what: str) -> None:
    x = torch.arange(6.0)
    with pytest.raises(AssertionError, match="waits for the device"), refuse_host_sync():
        WAITING[what](x)
    WAITING[what](x)


def test_what_does_not_wait_is_let_through() -> None:
    x = torch.arange(6.0)
    with refuse_host_sync():
        y = torch.where(x > 2, x, -x)[torch.tensor([5, 0])].masked_fill(torch.tensor([True, False]), 1.0).cumsum(0)
    assert y.tolist() == [1.0, 1.0]


def test_tiny_teacher_judges_each_image_alone() -> None:
    batch = tiny_batch(num_images=4, grid=(2, 3), channels=2)
    mask = Mask.from_keys(Noise.for_batch(seed=0, step=0, batch_size=4).bits(6), 4)
    teacher = TinyTeacher()
    answers = {
        "predicted_loss": teacher.predicted_loss(batch.images),
        "attention": teacher.attention(batch.images),
        "sampled_attention": teacher.sampled_attention(batch.images, torch.tensor([[0, 5]] * 4)),
        "features": teacher.features(batch.images),
        "reconstruction_loss": teacher.reconstruction_loss(batch.images, mask),
    }
    assert teacher.calls == list(answers)
    shapes = {name: tuple(answer.shape) for name, answer in answers.items()}
    assert shapes == {
        "predicted_loss": (4, 6),
        "attention": (4, 2, 6),
        "sampled_attention": (4, 6),
        "features": (4, 6, 8),
        "reconstruction_loss": (4, 4),
    }
    second = slice(1, 2)
    alone = TinyTeacher().reconstruction_loss(batch.images[second], Mask(mask.visible[second], mask.masked[second]))
    torch.testing.assert_close(alone, answers["reconstruction_loss"][second])
    torch.testing.assert_close(answers["attention"].sum(dim=2), torch.ones(4, 2))
    torch.testing.assert_close(answers["sampled_attention"].sum(dim=1), torch.full((4,), 2.0))
    for name, answer in answers.items():
        assert answer.flatten(1).std(dim=1).min() > 1e-3, f"{name} is the same for every patch"


def test_tiny_teacher_lacks_what_it_is_told_to() -> None:
    teacher = TinyTeacher(lacks={"attention": "there is no class token"})
    assert teacher.unsupported_reason("attention") == "there is no class token"
    assert teacher.unsupported_reason("features") is None
    with pytest.raises(RuntimeError, match="asked for attention, but there is no class token"):
        teacher.attention(tiny_batch().images)


def test_capabilities_are_the_methods_of_a_teacher() -> None:
    methods = {name for name in vars(teacher_module.Teacher) if not name.startswith("_")} - {"unsupported_reason"}
    assert set(CAPABILITIES) == methods


def test_typical_feedback_moves_what_it_measures() -> None:
    stream = typical_feedback()
    for feedback in stream:
        assert list(feedback) == [
            "loss",
            "reconstruction_loss",
            "prediction_loss",
            "prediction_accuracy",
            "probe_loss",
        ]
        assert feedback["loss"] == pytest.approx(feedback["reconstruction_loss"] + feedback["prediction_loss"])
    losses = [feedback["reconstruction_loss"] for feedback in stream]
    assert losses[-1] < losses[0] / 2
    assert any(later > earlier for earlier, later in itertools.pairwise(losses))
    assert stream[-1]["prediction_accuracy"] > 1.5 * stream[0]["prediction_accuracy"]
