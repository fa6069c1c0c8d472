"""Hierarchy against SciPy's average linkage, and how its parts are masked and move with a schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.cluster import hierarchy
from torch import Tensor

from curriculum import Batch, Constant, Curriculum, HardestFirst, Noise, Piecewise, Quotas, Ramp
from curriculum.difficulty.hierarchy import Hierarchy, joined
from curriculum.testing import DifficultyConformance, TinyTeacher, refuse_host_sync, tiny_batch


class TestHierarchy(DifficultyConformance):
    def build(self) -> Hierarchy:
        return Hierarchy(depth=2.0)


class TestHierarchyOfManyParts(DifficultyConformance):
    def build(self) -> Hierarchy:
        return Hierarchy(depth=3.3)


def parts_of(features_NLD: Tensor, depth: float) -> Tensor:
    class Shown(TinyTeacher):
        def features(self, images_NCHW: Tensor) -> Tensor:
            return features_NLD.clone()

    n, num_patches, _ = features_NLD.shape
    batch = Batch(torch.zeros(n, 3, 4, 4 * num_patches), 4)
    noise = Noise.for_batch(seed=0, step=0, batch_size=n)
    with refuse_host_sync():
        return Hierarchy(depth=depth)(batch, Shown(), num_masked=1, noise=noise).long()


def random_features(n: int, num_patches: int) -> Tensor:
    return 2 + torch.randn(n, num_patches, 10, generator=torch.Generator().manual_seed(3))


def numbered(labels: np.ndarray) -> list[int]:
    """The same parts, numbered in the order of their first members."""
    first = {label: place for place, label in reversed(list(enumerate(labels)))}
    order = sorted(first.values())
    return [order.index(first[label]) for label in labels]


@pytest.mark.parametrize("depth", [0.0, 1.0, 2.3, 4.0, 5.0])
def test_parts_are_those_of_scipys_average_linkage(depth: float) -> None:
    features_NLD = random_features(6, 40)
    for features_LD, found_L in zip(features_NLD.double().numpy(), parts_of(features_NLD, depth), strict=True):
        tree = hierarchy.linkage(features_LD - features_LD.mean(axis=0), method="average", metric="cosine")
        labels = hierarchy.cut_tree(tree, n_clusters=round(2**depth)).ravel()
        assert found_L.tolist() == numbered(labels)


def test_parts_at_a_depth_are_unions_of_those_below() -> None:
    features_NLD = random_features(8, 49)
    coarse_NL = parts_of(features_NLD, 0.0)
    assert not bool(coarse_NL.any())
    for depth in (1.0, 1.6, 2.0, 3.0, 4.5, 5.6):
        fine_NL = parts_of(features_NLD, depth)
        for coarse, fine in zip(coarse_NL.tolist(), fine_NL.tolist(), strict=True):
            assert set(fine) == set(range(min(49, round(2**depth))))
            assert len({*zip(coarse, fine, strict=True)}) == len(set(fine))  # each in one of the coarse
        coarse_NL = fine_NL


def test_kinds_of_patches_are_found_exactly() -> None:
    """Five patches of one kind among patches of two others, of whatever number."""
    kind_L = torch.tensor([0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 2, 2, 2, 0, 0, 0])
    jitter_NLD = torch.randn(4, 16, 6, generator=torch.Generator().manual_seed(0))
    features_NLD = torch.eye(6)[kind_L] + 0.05 * jitter_NLD
    assert parts_of(features_NLD, 1.585).tolist() == [kind_L.tolist()] * 4


def test_the_closest_are_joined_first_and_of_equals_the_first() -> None:
    close = torch.zeros(4, 4)
    close[1, 3], close[3, 1] = 0.9, 0.9001  # by rounding; then {1, 3} is as close to 0 as 2 is
    close[0, 1] = close[1, 0] = 0.8
    close[0, 2] = close[2, 0] = 0.4
    both = torch.stack([close, torch.full((4, 4), torch.nan)])
    found = [joined(both, parts).tolist() for parts in (4, 3, 2, 1)]
    assert [one for one, _ in found] == [[0, 1, 2, 3], [0, 1, 2, 1], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert [none for _, none in found] == [[0, 1, 2, 3], [0, 0, 1, 2], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert both[0].equal(close)


def test_an_image_of_few_patches_has_a_part_for_each() -> None:
    assert parts_of(random_features(2, 9), 7.0).tolist() == [list(range(9))] * 2
    difficulty = Hierarchy(depth=7.0)
    assert difficulty.num_parts == 128
    Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=Quotas(parts=128)).check(TinyTeacher(), 9)


def test_the_number_of_parts_moves_with_a_schedule() -> None:
    difficulty = Hierarchy(depth=Ramp(start=4.0, end=1.0))
    batch = tiny_batch(num_images=5)
    curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=Quotas(parts=16))
    curriculum.check(TinyTeacher(), 16)
    assert difficulty.num_parts == 16
    for progress, parts in ((0.0, 16), (0.5, 6), (1.0, 2)):
        curriculum.draw(batch, TinyTeacher(), progress, Noise.for_batch(seed=0, step=0, batch_size=5))
        assert curriculum.scores is not None
        assert [len(set(row)) for row in curriculum.scores.tolist()] == [parts] * 5


def test_all_but_one_of_the_parts_are_masked_whole_or_left() -> None:
    batch, teacher = tiny_batch(num_images=200, grid=(6, 6)), TinyTeacher()
    curriculum = Curriculum(
        scheduler=Constant(value=1.0), difficulty=Hierarchy(depth=3.0), sampler=Quotas(parts=8), mask_ratio=0.5
    )
    masked_NL = curriculum.draw(batch, teacher, 1.0, Noise.for_batch(seed=0, step=0, batch_size=200)).to_bool()
    assert curriculum.scores is not None
    first = set()
    for masked_L, part_L in zip(masked_NL, curriculum.scores, strict=True):
        shares = [float(masked_L[part_L == part].float().mean()) for part in range(8)]
        assert sum(0 < share < 1 for share in shares) <= 1
        first.add(shares.index(max(shares)))
    assert len(first) > 3  # in a random order


def test_depths_and_samplers_that_do_not_fit_are_refused() -> None:
    for depth in (-1.0, 14.0, Ramp(start=3.0, end=13.5), Piecewise(points=[(0.0, 1.0), (1.0, -0.5)])):
        with pytest.raises(ValueError, match=r"Hierarchy\.depth = .* must lie in \[0, 13\]"):
            Hierarchy(depth=depth)
    difficulty = Hierarchy(depth=Ramp(start=7.0, end=3.0))
    with pytest.raises(ValueError, match=r"Quotas\.parts = 8 must be at least 128, the parts that Hierarchy numbers"):
        Curriculum(scheduler=Constant(), difficulty=difficulty, sampler=Quotas(parts=8)).check(TinyTeacher(), 196)
    with pytest.raises(ValueError, match="the scores of Hierarchy are the numbers of parts"):
        Curriculum(scheduler=Constant(value=1.0), difficulty=difficulty, sampler=HardestFirst()).check(None, 196)
    with pytest.raises(ValueError, match=r"Curriculum.difficulty = Hierarchy cannot be turned round"):
        Curriculum(scheduler=Constant(), difficulty=difficulty, sampler=HardestFirst(), polarity="easiest")
