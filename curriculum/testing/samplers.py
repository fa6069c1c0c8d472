"""The conformance tests of samplers.

Shape suffixes: N images, L patches, M masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.samplers import Sampler
from curriculum.streams import Stream
from curriculum.testing.host_sync import refuse_host_sync

_NUM_IMAGES = 6


@dataclass(frozen=True)
class _Case:
    """One call of a sampler."""

    name: str
    scores_NL: Tensor
    alpha: float
    num_masked: int
    grid: tuple[int, int]
    noise: Noise

    def rows(self, start: int, stop: int) -> _Case:
        """Return the same call for some of the images."""
        noise = replace(self.noise, rows_N=self.noise.rows_N[start:stop])
        return replace(self, scores_NL=self.scores_NL[start:stop], noise=noise)


def _score_kinds(noise: Noise, num_patches: int) -> dict[str, Tensor]:
    """Return scores of every kind that a sampler may be given."""
    distinct_NL = noise.fold(Stream.TESTING_SCORES).uniform(num_patches) - 0.5
    chance_NL = noise.fold(Stream.TESTING_UNSCORED).uniform(num_patches)
    infinity = float("inf")
    return {
        "distinct": distinct_NL,
        "constant": torch.zeros_like(distinct_NL),
        "tied": (distinct_NL * 4).round(),
        "partly NaN": distinct_NL.masked_fill(chance_NL < 0.5, float("nan")),
        "all NaN": torch.full_like(distinct_NL, float("nan")),
        "partly infinite": distinct_NL.masked_fill(chance_NL < 0.3, infinity).masked_fill(chance_NL > 0.7, -infinity),
    }


class SamplerConformance(ABC):
    """The tests that every sampler must pass: subclass it as `Test...` and define how to `build` the sampler.

    Attributes:
        grids: rows and columns of patches that it is tested on.
        mask_ratios: the masked shares of the patches.
        alphas: how much of the mask follows the difficulty.
        device: the device of the scores and the noise.
    """

    grids: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (3, 7), (12, 1), (14, 14))
    mask_ratios: ClassVar[tuple[float, ...]] = (0.25, 0.5, 0.75, 0.9)
    alphas: ClassVar[tuple[float, ...]] = (0.0, 0.05, 0.5, 1.0)
    device: ClassVar[str] = "cpu"

    @abstractmethod
    def build(self) -> Sampler:
        """Build a new sampler, configured the same each time."""

    def cases(self, alphas: tuple[float, ...] | None = None) -> Iterator[_Case]:
        """Yield scores of every kind on every grid, each with every ratio and with every alpha.

        Every pair of a ratio and an alpha is tested somewhere, but not with all scores on all grids, which would take
        several times as long.
        """
        noise = Noise.for_batch(seed=7, step=11, batch_size=_NUM_IMAGES, first=4, device=self.device)
        ratios, alphas = self.mask_ratios, self.alphas if alphas is None else alphas
        for number, grid in enumerate(self.grids):
            num_patches = grid[0] * grid[1]
            for turn, (kind, scores_NL) in enumerate(_score_kinds(noise, num_patches).items(), start=number):
                for place in range(max(len(ratios), len(alphas))):
                    ratio, alpha = ratios[place % len(ratios)], alphas[(place + turn) % len(alphas)]
                    name = f"{kind} scores, a grid of {grid[0]} x {grid[1]}, a ratio of {ratio} and alpha = {alpha}"
                    yield _Case(name, scores_NL, alpha, count_masked(num_patches, ratio), grid, noise)

    def draw(self, sampler: Sampler, case: _Case, *, with_scores: bool = True) -> Mask:
        """Draw the masks of one call."""
        scores_NL = case.scores_NL if with_scores else None
        return sampler(scores_NL, alpha=case.alpha, num_masked=case.num_masked, grid=case.grid, noise=case.noise)

    def test_every_patch_is_visible_or_masked_in_the_right_number(self) -> None:
        """Ties, NaN and infinities in the scores included."""
        sampler = self.build()
        for case in self.cases():
            mask = self.draw(sampler, case)
            num_images, num_patches = case.scores_NL.shape
            counts = {
                "masked": (mask.masked, case.num_masked),
                "visible": (mask.visible, num_patches - case.num_masked),
            }
            for name, (index, count) in counts.items():
                shape = tuple(index.shape)
                assert shape == (num_images, count), (
                    f"{name} has shape {shape}, not {(num_images, count)}, with {case.name}"
                )
                assert index.dtype == torch.int64, f"{name} is {index.dtype} instead of int64 with {case.name}"
                ascending = bool((index.diff(dim=1) > 0).all())
                assert ascending, f"{name} is not in ascending order with {case.name}"
            order_NL = torch.cat([mask.visible, mask.masked], dim=1).sort(dim=1).values
            complete = bool((order_NL == torch.arange(num_patches, device=order_NL.device)).all())
            assert complete, f"some patch is missing or given twice with {case.name}"

    def test_the_same_noise_gives_the_same_masks(self) -> None:
        sampler = self.build()
        for case in self.cases():
            first = self.draw(sampler, case).to_bool()
            for name, other in (("a second draw", sampler), ("another instance", self.build())):
                same = torch.equal(self.draw(other, case).to_bool(), first)
                assert same, f"{name} under the same noise gives other masks with {case.name}"

    def test_other_noise_gives_other_masks(self) -> None:
        """At alpha = 0, where nothing follows the difficulty: by another step, another seed and for another image."""
        sampler = self.build()
        for case in self.cases(alphas=(0.0,)):
            masks = self.draw(sampler, case).to_bool()
            same_image = bool((masks == masks[:1]).all())
            assert not same_image, f"every image has the same mask with {case.name}"
            for name, noise in (
                ("step", replace(case.noise, step=case.noise.step + 1)),
                ("seed", replace(case.noise, seed=case.noise.seed + 1)),
            ):
                other = self.draw(sampler, replace(case, noise=noise)).to_bool()
                assert not torch.equal(other, masks), f"another {name} gives the same masks with {case.name}"

    def test_a_mask_does_not_depend_on_the_rest_of_the_batch(self) -> None:
        """However a global batch is divided among devices, its masks stay the same."""
        sampler = self.build()
        for case in self.cases():
            whole = self.draw(sampler, case).to_bool()
            parts = [self.draw(sampler, part).to_bool() for part in (case.rows(0, 1), case.rows(1, _NUM_IMAGES))]
            assert torch.equal(torch.cat(parts), whole), f"drawing in two parts gives other masks with {case.name}"

    def test_scores_are_ignored_where_they_are_not_needed(self) -> None:
        sampler = self.build()
        for case in self.cases():
            if not sampler.needs_scores(case.alpha, case.num_masked):
                without = self.draw(sampler, case, with_scores=False).to_bool()
                same = torch.equal(self.draw(sampler, case).to_bool(), without)
                assert same, f"needs_scores says no, yet the scores change the mask, with {case.name}"

    def test_inputs_are_left_as_they_were(self) -> None:
        sampler = self.build()
        for case in self.cases():
            scores_NL, rows_N = case.scores_NL.clone(), case.noise.rows_N.clone()
            self.draw(sampler, case)
            same = torch.allclose(case.scores_NL, scores_NL, rtol=0, atol=0, equal_nan=True)
            assert same, f"drawing changes the scores with {case.name}"
            assert torch.equal(case.noise.rows_N, rows_N), f"drawing changes the noise with {case.name}"

    def test_drawing_does_not_wait_for_the_device(self) -> None:
        sampler = self.build()
        for case in self.cases():
            with refuse_host_sync():
                self.draw(sampler, case)
