"""How often images are shown, against a reading one image at a time."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from curriculum import ImageShare, ImageWeights, Ramp, SelfPaced

SCORES = torch.tensor([0.7, 0.1, math.nan, 0.4, 0.9, 0.4, 0.2])


def test_a_share_shows_the_lowest_scores_and_what_is_not_scored() -> None:
    known = sorted((score, place) for place, score in enumerate(SCORES.tolist()) if score == score)
    for share in (0.01, 0.3, 0.5, 0.67, 1.0):
        shown = {place for _, place in known[: math.ceil(share * 6)]} | {2}
        assert ImageShare(share=share).weigh(SCORES).tolist() == [float(place in shown) for place in range(7)]


def test_a_share_moves_with_a_scheduler() -> None:
    part = ImageShare(share=Ramp(start=0.5, end=1.0))
    assert [part.at(progress).weigh(SCORES).sum().item() for progress in (0.0, 1.0)] == [4, 7]


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0])
def test_weights_fall_exponentially_with_the_standardized_score(beta: float) -> None:
    known = [score for score in SCORES.tolist() if score == score]
    mean = math.fsum(known) / len(known)
    deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in known) / len(known))
    weights = [math.exp(-beta * (score - mean) / deviation) for score in known]
    weights.insert(2, math.fsum(weights) / len(weights))  # what is not scored counts as the mean
    found = ImageWeights(beta=beta).weigh(SCORES)
    torch.testing.assert_close(found, torch.tensor(weights, dtype=torch.float64), rtol=1e-6, atol=0)


def test_no_single_image_fills_an_epoch() -> None:
    scores = torch.zeros(1000)
    scores[0] = -1e6  # 31 standard deviations
    weights = ImageWeights(beta=1.0).weigh(scores)
    assert weights[0] / weights[1] < math.exp(3.1)


def test_equal_scores_are_shown_alike() -> None:
    assert ImageWeights(beta=2.0).weigh(torch.full((5,), 0.3)).unique().numel() == 1


def test_self_paced_learning_lets_the_threshold_grow_by_a_factor() -> None:
    part = SelfPaced(share=0.5, growth=1.5)
    losses = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    shown = [part.weigh(losses).sum().item() for _ in range(3)]
    assert shown == [3, 4, 6]  # below 0.3, 0.45 and 0.675


def test_self_paced_learning_shows_at_least_the_easiest_and_what_is_not_scored() -> None:
    part = SelfPaced(share=0.5)
    part.weigh(torch.tensor([0.1, 0.2]))
    assert part.weigh(torch.tensor([5.0, 4.0, math.nan])).tolist() == [0, 1, 1]


def test_the_threshold_is_kept_in_what_a_checkpoint_holds() -> None:
    part, losses = SelfPaced(), torch.rand(20)
    part.weigh(losses)
    assert part.module is not None
    other = SelfPaced()
    assert other.module is not None
    other.module.load_state_dict(copy.deepcopy(part.module.state_dict()))
    assert torch.equal(part.weigh(losses), other.weigh(losses))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageShare(share=0.0), r"ImageShare.share = 0.0 must lie in \(0, 1\]"),
        (lambda: ImageShare(share=Ramp(start=0.5, end=1.5)), r"ImageShare.share = 1.01 must lie in \(0, 1\]"),
        (lambda: ImageWeights(beta=-1.0), r"ImageWeights.beta = -1.0 must lie in \[0, 10\]"),
        (lambda: SelfPaced(share=0.0), r"SelfPaced.share = 0.0 must lie in \(0, 1\]"),
        (lambda: SelfPaced(growth=1.0), r"SelfPaced.growth = 1.0 must be above 1"),
    ],
)
def test_a_setting_that_cannot_be_is_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
