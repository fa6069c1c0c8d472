"""MainCluster against SciPy's eigenvectors, and which patches it calls the object."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from curriculum import Batch, Constant, Curriculum, HardestFirst, Hint, Noise
from curriculum.difficulty.bipartition import MainCluster
from curriculum.testing import DifficultyConformance, TinyTeacher, refuse_host_sync


class TestMainCluster(DifficultyConformance):
    def build(self) -> MainCluster:
        return MainCluster()


class Shown(TinyTeacher):
    """A teacher whose features are given, [N, L, D]."""

    def __init__(self, features_NLD: Tensor) -> None:
        super().__init__()
        self.shown_NLD = features_NLD

    def features(self, images_NCHW: Tensor) -> Tensor:
        return self.shown_NLD.clone()


def blank(num_images: int, grid: tuple[int, int]) -> Batch:
    return Batch(torch.zeros(num_images, 3, grid[0] * 4, grid[1] * 4), 4)


def scores_of(features_NLD: Tensor) -> Tensor:
    n, num_patches, _ = features_NLD.shape
    noise = Noise.for_batch(seed=0, step=0, batch_size=n)
    with refuse_host_sync():
        return MainCluster()(blank(n, (1, num_patches)), Shown(features_NLD), num_masked=1, noise=noise)


def kinds(object_patches: list[int], num_patches: int, noise: float, seed: int = 0) -> Tensor:
    """Features [L, 12] of two kinds of patches, which have much in common, and some noise."""
    generator = torch.Generator().manual_seed(seed)
    common, background, thing = torch.eye(12)[:3]
    features_LD = (5 * common + background).repeat(num_patches, 1)
    features_LD[object_patches] = 5 * common + thing
    return features_LD + noise * torch.randn(num_patches, 12, generator=generator)


def read(features_LD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Main cluster and scores of one image: the generalized eigenvector, then a mean over pairs."""
    centered = features_LD - features_LD.mean(axis=0)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    cosines = unit @ unit.T
    weights = (1 + cosines) / 2
    degrees = np.diag(weights.sum(axis=1))
    vector = linalg.eigh(degrees - weights, degrees)[1][:, 1]
    upper = vector >= vector.mean()
    main = upper if vector.max() > -vector.min() else ~upper
    scores = [np.mean([cosines[i, j] for j in range(len(main)) if main[j]]) for i in range(len(main))]
    return main, np.array(scores)


@pytest.mark.parametrize("noise", [0.02, 0.2, 0.5])
def test_scores_are_those_of_the_eigenvector_that_scipy_finds(noise: float) -> None:
    images = [kinds(list(range(start, start + 4 + start)), 36, noise, seed=start) for start in range(6)]
    found_NL = scores_of(torch.stack(images)).numpy()
    for features_LD, found_L in zip(images, found_NL, strict=True):
        main, expected = read(features_LD.double().numpy())
        assert 0 < main.sum() < 36
        np.testing.assert_allclose(found_L, expected, atol=2e-3)


def test_a_smaller_cluster_is_the_object_exactly() -> None:
    thing = [5, 6, 9, 10, 13]
    (scores_L,) = scores_of(kinds(thing, 16, noise=0.1).unsqueeze(0))
    assert sorted(scores_L.topk(5).indices.tolist()) == thing
    rest = [patch for patch in range(16) if patch not in thing]
    assert float(scores_L[thing].min()) > 0.8 > 0 > float(scores_L[rest].max())


def test_of_two_halves_the_one_without_the_first_patch_is_the_object() -> None:
    """Whatever the sign of the eigenvector, and whichever of its ends is larger by a rounding."""
    halves = [kinds(list(range(8, 16)), 16, noise=1e-3, seed=seed) for seed in range(8)]
    swapped = [kinds(list(range(8)), 16, noise=1e-3, seed=seed) for seed in range(8)]
    expected_L = torch.tensor([-1.0, 1.0]).repeat_interleave(8)
    for scores_L in scores_of(torch.stack([*halves, *swapped, -halves[0]])):
        torch.testing.assert_close(scores_L, expected_L, rtol=0, atol=1e-4)


def test_a_mask_covers_the_object_but_for_hints() -> None:
    """Of the quarter that is most like the object, which it is, two patches are shown and all others masked."""
    batch, thing = blank(50, (6, 6)), [14, 15, 16, 20, 21, 22, 26, 27, 28]
    teacher = Shown(torch.stack([kinds(thing, 36, noise=0.1, seed=seed) for seed in range(50)]))
    noise = Noise.for_batch(seed=1, step=0, batch_size=50)

    def masked(sampler: Hint | HardestFirst) -> Tensor:
        curriculum = Curriculum(scheduler=Constant(value=1.0), difficulty=MainCluster(), sampler=sampler)
        return curriculum.draw(batch, teacher, 1.0, noise).to_bool()[:, thing].sum(dim=1)

    assert masked(HardestFirst()).tolist() == [9] * 50
    assert masked(Hint(among=0.25, reveal=(0.25, 0.25))).tolist() == [7] * 50


def test_patches_that_are_all_alike_score_alike() -> None:
    features_NLD = torch.stack([torch.zeros(16, 12), torch.full((16, 12), 0.1), 3 + kinds([4], 16, 0.0)])
    blank_L, gray_L, one_L = scores_of(features_NLD)
    for scores_L in (blank_L, gray_L):
        assert float(scores_L.amax() - scores_L.amin()) < 1e-6
        assert bool(scores_L.isfinite().all())
    assert int(one_L.argmax()) == 4


def test_an_image_whose_features_are_not_finite_is_not_scored() -> None:
    fine = kinds([2, 3, 7], 16, noise=0.1)
    broken = fine.clone()
    broken[4, 2] = torch.inf
    scores_NL = scores_of(torch.stack([fine, broken, torch.full_like(fine, torch.nan)]))
    assert bool(scores_NL[1:].isnan().all())
    torch.testing.assert_close(scores_NL[:1], scores_of(fine.unsqueeze(0)))
