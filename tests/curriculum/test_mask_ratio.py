"""A mask ratio that is drawn in each step: AttMask's setting."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from curriculum import (
    Attention,
    Batch,
    Constant,
    Curriculum,
    HardestFirst,
    Hint,
    MaskRatio,
    Noise,
    Ramp,
    Random,
    Sampler,
    Uniform,
    UniformRatio,
    count_masked,
    hardest,
)
from curriculum.noise import hash_words
from curriculum.streams import Stream
from curriculum.testing import TinyTeacher, refuse_host_sync, tiny_batch


def noise_at(step: int, *, seed: int = 5, first: int = 0, batch_size: int = 4) -> Noise:
    return Noise.for_batch(seed=seed, step=step, batch_size=batch_size, first=first)


def drawn(ratio: UniformRatio, steps: int = 8000) -> list[float]:
    return [ratio.draw(noise_at(step, batch_size=1)) for step in range(steps)]


def random_masks(ratio: float | Ramp | UniformRatio, **arguments: Any) -> Curriculum:
    return Curriculum(
        scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random(), mask_ratio=ratio, **arguments
    )


def test_the_published_setting() -> None:
    ratio = UniformRatio()
    assert ratio.values == pytest.approx([0.125, 0.175, 0.225, 0.275, 0.325, 0.375, 0.425, 0.475])
    assert ratio.mean() == pytest.approx(0.3)
    assert [count_masked(196, value, "masked") for value in ratio.values] == [24, 34, 44, 53, 63, 73, 83, 93]


def test_every_level_is_as_likely() -> None:
    ratio = UniformRatio()
    values = drawn(ratio)
    counts = [values.count(value) for value in ratio.values]
    assert sum(counts) == 8000
    assert stats.chisquare(counts).pvalue > 1e-3
    # One step says nothing about the next.
    pairs = [[0] * 8 for _ in range(8)]
    for one, other in zip(values[::2], values[1::2], strict=True):
        pairs[ratio.values.index(one)][ratio.values.index(other)] += 1
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_many_levels_are_attmasks_uniform_ratio() -> None:
    """As the same number of patches of 196 is masked as by a ratio drawn from all between 0.1 and 0.5."""
    generator = random.Random(0)
    read = [generator.uniform(0.1, 0.5) for _ in range(8000)]
    values = drawn(UniformRatio(levels=10_000))
    assert stats.ks_2samp(values, read).pvalue > 1e-3
    ours, theirs = [count_masked(196, ratio, "masked") for ratio in values], [int(196 * ratio) for ratio in read]
    table = [[counts.count(masked) for masked in range(19, 98)] for counts in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@settings(deadline=None, derandomize=True, max_examples=100)
@given(
    bounds=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)).filter(lambda pair: pair[1] - pair[0] > 1e-6),
    levels=st.integers(2, 40),
    seed=st.integers(0, 2**63),
    step=st.integers(0, 10**7),
)
def test_values_lie_evenly_within_the_bounds(bounds: tuple[float, float], levels: int, seed: int, step: int) -> None:
    ratio = UniformRatio(low=bounds[0], high=bounds[1], levels=levels)
    assert len(set(ratio.values)) == levels
    assert bounds[0] < min(ratio.values) < max(ratio.values) < bounds[1]
    steps = torch.tensor(ratio.values, dtype=torch.float64).diff()
    torch.testing.assert_close(steps, torch.full_like(steps, (bounds[1] - bounds[0]) / levels))
    assert sum(ratio.values) / levels == pytest.approx(ratio.mean())
    # Whatever the rows, and in another process: (seed, step) alone decide.
    one, other = noise_at(step, seed=seed), noise_at(step, seed=seed, first=64, batch_size=1)
    assert ratio.draw(one) == UniformRatio(low=bounds[0], high=bounds[1], levels=levels).draw(other)
    assert ratio.draw(one) in ratio.values


def test_seeds_differ() -> None:
    ratio = UniformRatio()
    one, other = ([ratio.draw(noise_at(step, seed=seed)) for step in range(50)] for seed in (0, 1))
    assert one != other


def test_every_image_of_a_step_masks_as_many_patches_and_other_steps_others() -> None:
    curriculum, batch = random_masks(UniformRatio(levels=4)), tiny_batch(num_images=6, grid=(5, 5))
    seen = []
    for step in range(40):
        with refuse_host_sync():
            mask = curriculum.draw(batch, None, 0.5, noise_at(step, batch_size=6))
        part = Batch(batch.images[4:], batch.patch_size)
        assert torch.equal(
            curriculum.draw(part, None, 0.5, noise_at(step, first=4, batch_size=2)).masked, mask.masked[4:]
        )
        assert mask.num_masked == curriculum.count_masked(25, noise=noise_at(step))
        assert mask.num_masked + mask.num_visible == 25
        seen.append(mask.num_masked)
    assert set(seen) == {4, 7, 9, 12}  # 25 - int(25 * (1 - ratio)) of 0.15, 0.25, 0.35 and 0.45
    assert curriculum.count_masked(25) == 8  # of 0.3, the mean


@pytest.mark.parametrize(
    ("sampler", "polarity"), [(HardestFirst(), "hardest"), (Hint(), "hardest"), (HardestFirst(), "easiest")]
)
def test_attmask_masks_what_is_attended_to_most_or_least(sampler: Sampler, polarity: str) -> None:
    """High masks the M hardest of the step; Hint those that come next for those which it shows; Low the M easiest."""
    curriculum = Curriculum(
        scheduler=Constant(value=1.0),
        difficulty=Attention(),
        sampler=sampler,
        mask_ratio=UniformRatio(),
        rounding="masked",
        polarity=polarity,
    )
    batch, teacher = tiny_batch(num_images=4, grid=(14, 14)), TinyTeacher()
    for step in range(20):
        mask = curriculum.draw(batch, teacher, 0.0, noise_at(step))
        assert mask.num_masked == int(196 * UniformRatio().draw(noise_at(step)))
        revealed = sampler.count_revealed(196, noise_at(step)) if isinstance(sampler, Hint) else 0
        scores_NL = teacher.attention(batch.images).mean(dim=1) * (1 if polarity == "hardest" else -1)
        # Fewer may be masked than the top 10 % holds: the rest of the mask is what is the hardest but revealed.
        most_NL = hardest(scores_NL, mask.num_masked + revealed, noise_at(step))
        assert not bool((mask.to_bool() & ~most_NL).any())
        assert (most_NL & ~mask.to_bool()).sum(dim=1).tolist() == [revealed] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 0.0}, r"UniformRatio\.low = 0\.0 and UniformRatio\.high = 0\.5"),
        ({"low": 0.5}, r"UniformRatio\.low = 0\.5 and UniformRatio\.high = 0\.5"),
        ({"high": 1.0}, r"UniformRatio\.high = 1\.0"),
        ({"levels": 1}, r"UniformRatio\.levels = 1 must lie in"),
    ],
)
def test_bad_bounds_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UniformRatio(**arguments)


@pytest.mark.parametrize(
    ("ratio", "description", "first_and_last", "means"),
    [
        (0.75, "0.75", (0.75, 0.75), (0.75, 0.75)),
        (Ramp(start=0.5, end=0.9), "0.50 -> 0.90", (0.5, 0.9), (0.5, 0.9)),
        (UniformRatio(low=0.2, high=0.6, levels=4), "0.25 to 0.55", (0.25, 0.55), (0.4, 0.4)),
    ],
)
def test_a_mask_ratio_answers_for_itself(
    ratio: float | Ramp | UniformRatio,
    description: str,
    first_and_last: tuple[float, float],
    means: tuple[float, float],
) -> None:
    curriculum = random_masks(ratio)
    assert isinstance(curriculum.mask_ratio, MaskRatio)
    assert curriculum.mask_ratio.describe() == description
    ratios = curriculum.mask_ratios()
    assert (ratios[0], ratios[-1]) == pytest.approx(first_and_last)
    assert [curriculum.mask_ratio.mean(progress) for progress in (0.0, 1.0)] == pytest.approx(list(means))


def test_without_chance_every_step_masks_as_many() -> None:
    settled = UniformRatio().without_chance()
    assert {settled.draw(noise_at(step)) for step in range(20)} == {UniformRatio().mean()}
    curriculum = random_masks(Ramp(start=0.5, end=0.9))
    assert curriculum.mask_ratio.without_chance() is curriculum.mask_ratio
    assert curriculum.count_masked(16, 0.0, noise_at(3)) == 8


def test_every_level_is_checked_before_training() -> None:
    random_masks(UniformRatio()).check(None, 16)
    with pytest.raises(ValueError, match=r"mask_ratio = 0\.93\d* of 10 patches leaves 0 visible"):
        random_masks(UniformRatio(low=0.1, high=0.99)).check(None, 10)
    with pytest.raises(ValueError, match=r"throw_ratio = 0\.55 must .* Curriculum\.mask_ratio = 0\.475"):
        random_masks(UniformRatio(), throw_ratio=0.55)
    with pytest.raises(ValueError, match=r"blank_ratio = 0\.1 hides none of the 9 patches"):
        random_masks(UniformRatio(), blank_ratio=0.1, rounding="masked").check(None, 16)


def of_group(ratio: UniformRatio, step: int, group: int, *, seed: int = 5, each: int = 1) -> list[float]:
    """What every part of a group of a step's images is given, of `each` parts."""
    parts, found = ratio.groups * each, []
    for part in range(group * each, group * each + each):
        noise = Noise.for_batch(seed=seed, step=step, batch_size=4, first=4 * part, of=4 * parts)
        assert noise.part == (part, parts)
        found.append(ratio.draw(noise))
    return found


def test_one_group_draws_as_ever() -> None:
    """Numbers of before there were groups, whatever part of a batch is asked for."""
    ratio, same = UniformRatio(), UniformRatio(groups=1)
    indices = [ratio.values.index(ratio.draw(noise_at(step, seed=0))) for step in range(12)]
    assert indices == [hash_words(0, step, Stream.MASK_RATIO) % 8 for step in range(12)]
    for step in range(12):
        noise = Noise.for_batch(seed=0, step=step, batch_size=4, first=8, of=16)
        assert same.draw(noise) == ratio.draw(noise_at(step, seed=0))


def test_each_group_has_another_part_of_the_range() -> None:
    ratio = UniformRatio(groups=4)
    orders = set()
    for step in range(400):
        values = [of_group(ratio, step, group)[0] for group in range(4)]
        quarters = [ratio.values.index(value) // 2 for value in values]
        assert sorted(quarters) == [0, 1, 2, 3]
        orders.add(tuple(quarters))
    assert orders == {(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)}


def test_every_level_is_as_likely_in_each_group_and_one_says_nothing_of_anothers_within_its_part() -> None:
    ratio = UniformRatio(groups=2)
    drawn_by = [[ratio.values.index(of_group(ratio, step, group)[0]) for step in range(8000)] for group in range(2)]
    for levels in drawn_by:
        assert stats.chisquare([levels.count(level) for level in range(8)]).pvalue > 1e-3
    pairs = [[0] * 4 for _ in range(4)]
    for one, other in zip(*drawn_by, strict=True):
        assert {one // 4, other // 4} == {0, 1}
        pairs[one % 4][other % 4] += 1
    assert stats.chi2_contingency(pairs).pvalue > 1e-3


def test_a_group_has_one_ratio_however_it_is_divided() -> None:
    ratio = UniformRatio(groups=2)
    for step in range(20):
        whole = [of_group(ratio, step, group)[0] for group in range(2)]
        for each in (2, 3, 8):
            assert [of_group(ratio, step, group, each=each) for group in range(2)] == [
                [value] * each for value in whole
            ]
    other_seed = [of_group(ratio, step, 0, seed=6) for step in range(20)]
    assert other_seed != [of_group(ratio, step, 0) for step in range(20)]


def test_groups_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match=r"UniformRatio\.levels = 8 must be a multiple of UniformRatio\.groups = 3"):
        UniformRatio(groups=3)
    with pytest.raises(ValueError, match=r"UniformRatio\.groups = 0 must be at least 1"):
        UniformRatio(groups=0)
    ratio = UniformRatio(groups=2)
    assert ratio.describe() == "0.12 to 0.47 in 2 groups"
    ratio.check_parts(6)
    with pytest.raises(
        ValueError, match=r"groups = 2 needs a step that is computed in 2 parts or a multiple, each of on"
    ):
        ratio.check_parts(3)
    with pytest.raises(ValueError, match=r"here the parts are 1: choose Schedule\.accumulate so that, times the"):
        ratio.draw(noise_at(0))
    assert random_masks(ratio).for_measuring().count_masked(16, noise=noise_at(0)) == 5  # of 0.3, the mean
