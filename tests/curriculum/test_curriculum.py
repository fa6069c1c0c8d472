"""How a curriculum draws masks, and what of it survives a restart."""

from __future__ import annotations

import pytest
import torch
from curricula import build, noise_for

import curriculum as curriculum_package
from curriculum import (
    Attention,
    Bandit,
    Batch,
    Bonus,
    Constant,
    Curriculum,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    MetricPaced,
    Noise,
    Pool,
    PredictedLoss,
    Ramp,
    Random,
    Sampler,
    TrueLoss,
    Uniform,
    hardest,
)
from curriculum.testing import TinyTeacher, tiny_batch, typical_feedback


def test_a_drawn_mask_holds_the_hardest_patches() -> None:
    batch = tiny_batch()
    teacher = TinyTeacher()
    noise = noise_for(tiny_batch())
    curriculum = build()
    mask = curriculum.draw(batch, teacher, 0.0, noise)
    assert (mask.num_masked, mask.num_visible) == (12, 4)
    assert curriculum.scores is not None
    assert torch.equal(curriculum.scores, TinyTeacher().predicted_loss(batch.images))
    hard_NL = hardest(curriculum.scores, 6, noise)
    assert hard_NL.sum(dim=1).tolist() == [6] * 4
    assert bool(mask.to_bool()[hard_NL].all())
    assert teacher.calls == ["predicted_loss"]


def test_the_teacher_is_not_run_where_no_patch_is_hard() -> None:
    """M = 12, so that the default ramp asks for the first hard patch at progress 1/6."""
    batch = tiny_batch()
    curriculum, teacher = build(scheduler=Ramp()), TinyTeacher()
    early = curriculum.draw(batch, teacher, 0.16, noise_for(batch))
    assert not curriculum.needs_scores_at(0.16, batch.num_patches)
    assert teacher.calls == []
    assert curriculum.scores is None
    random = build(sampler=Random()).draw(batch, None, 0.16, noise_for(batch))
    assert torch.equal(early.masked, random.masked)

    curriculum.draw(batch, teacher, 0.17, noise_for(batch))
    assert curriculum.needs_scores_at(0.17, batch.num_patches)
    assert teacher.calls == ["predicted_loss"]
    assert curriculum.scores is not None

    curriculum.draw(batch, teacher, 0.0, noise_for(batch))
    assert curriculum.scores is None, "the scores of an earlier batch are kept"
    assert len(teacher.calls) == 1


def test_random_sampling_never_runs_the_teacher() -> None:
    batch, teacher = tiny_batch(), TinyTeacher()
    curriculum = build(scheduler=Constant(value=1.0), sampler=Random())
    curriculum.draw(batch, teacher, 1.0, noise_for(batch))
    assert teacher.calls == []
    assert not curriculum.needs_scores_at(1.0, 16)


@pytest.mark.parametrize("difficulty", [PredictedLoss(), Attention(), TrueLoss(), TrueLoss(probes=1), Uniform()])
@pytest.mark.parametrize("sampler", [HardestFirst(), Random()])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_masks_do_not_depend_on_how_the_global_batch_is_split(
    difficulty: DifficultyEstimator, sampler: Sampler, alpha: float
) -> None:
    curriculum = build(Constant(value=alpha), difficulty, sampler)
    batch = tiny_batch(num_images=8, grid=(3, 5))
    whole = curriculum.draw(batch, TinyTeacher(), 0.5, noise_for(batch, seed=1, step=2, first=16))
    for start in (0, 3):
        part = Batch(batch.images[start : start + 5], batch.patch_size)
        noise = noise_for(part, seed=1, step=2, first=16 + start)
        mask = curriculum.draw(part, TinyTeacher(), 0.5, noise)
        assert torch.equal(mask.masked, whole.masked[start : start + 5])
        assert torch.equal(mask.visible, whole.visible[start : start + 5])


def test_seed_and_step_decide_the_mask() -> None:
    batch, curriculum = tiny_batch(), build()

    def draw(seed: int, step: int) -> torch.Tensor:
        return curriculum.draw(batch, TinyTeacher(), 0.5, noise_for(batch, seed=seed, step=step)).masked

    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(1, 3))
    assert not torch.equal(draw(1, 2), draw(2, 2))


def test_the_noise_of_the_difficulty_is_not_the_noise_of_the_sampler() -> None:
    class NoiseAsScore(DifficultyEstimator):
        def __call__(self, batch: Batch, teacher: object, *, num_masked: int, noise: Noise) -> torch.Tensor:
            return noise.uniform(batch.num_patches)

    batch = tiny_batch(num_images=500)
    curriculum = build(difficulty=NoiseAsScore())
    curriculum.draw(batch, None, 0.0, noise_for(batch))
    assert curriculum.scores is not None
    both = torch.stack([curriculum.scores.flatten(), noise_for(batch).uniform(16).flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05  # 8000 pairs: a standard deviation is 0.011


def test_state_survives_a_restart() -> None:
    stream = typical_feedback()
    original = build(MetricPaced())
    for feedback in stream[:8]:
        original.observe(feedback)
    resumed = build(MetricPaced())
    resumed.load_state_dict(original.state_dict())
    assert 0 < resumed.alpha(0.5) == original.alpha(0.5) < 0.5
    for feedback in stream[8:]:
        original.observe(feedback)
        resumed.observe(feedback)
    assert resumed.alpha(0.5) == original.alpha(0.5)
    assert resumed.state_dict() == original.state_dict()


def test_curricula_differ_in_state_by_their_scheduler_alone() -> None:
    assert build().state_dict() == {"scheduler": {}}
    assert build(difficulty=TrueLoss(), sampler=Random()).state_dict() == {"scheduler": {}}


def test_polarity_masks_the_easiest() -> None:
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    hard, easy = (
        Curriculum(
            scheduler=Constant(value=1.0),
            difficulty=EdgeDensity(),
            sampler=HardestFirst(),
            mask_ratio=0.5,
            polarity=polarity,
        )
        .draw(batch, None, 0.0, noise)
        .to_bool()
        for polarity in ("hardest", "easiest")
    )
    assert torch.equal(hard, ~easy)


def test_the_mask_ratio_may_move() -> None:
    curriculum = Curriculum(
        scheduler=Constant(), difficulty=Uniform(), sampler=Random(), mask_ratio=Ramp(start=0.5, end=0.9)
    )
    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    assert [curriculum.draw(batch, None, progress, noise).num_masked for progress in (0.0, 0.5, 1.0)] == [8, 12, 15]
    assert curriculum.count_masked(16) == 15
    with pytest.raises(ValueError, match=r"Curriculum\.mask_ratio = 0.0 must lie strictly between"):
        Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), mask_ratio=Ramp(start=0.0, end=0.9))


def test_some_patches_may_be_thrown_away() -> None:
    def build(ratio: float) -> Curriculum:
        return Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), throw_ratio=ratio)

    batch, noise = tiny_batch(), Noise.for_batch(seed=1, step=0, batch_size=4)
    mask = build(0.125).draw(batch, None, 0.0, noise)
    assert mask.thrown is not None
    assert (mask.num_visible, mask.num_masked, mask.thrown.shape[1]) == (2, 12, 2)
    assert torch.equal(mask.masked, build(0.0).draw(batch, None, 0.0, noise).masked)
    with pytest.raises(ValueError, match=r"Curriculum\.throw_ratio = 0.25 must be at least 0 and leave something"):
        build(0.25)
    with pytest.raises(ValueError, match="leaves none of 5 patches visible"):
        build(0.24).check(None, 5)
    with pytest.raises(ValueError, match=r"Curriculum\.polarity = 'hard' is unknown"):
        Curriculum(scheduler=Constant(), difficulty=Uniform(), sampler=Random(), polarity="hard")


def test_a_scheduler_in_two_places_observes_once() -> None:
    bandit = Bandit(values=[0.5, 0.7])
    shared = Curriculum(scheduler=bandit, difficulty=Uniform(), sampler=HardestFirst(), mask_ratio=bandit)
    alone = Bandit(values=[0.5, 0.7])
    for loss in (1.0, 0.5, 0.4):
        shared.observe({"probe_loss": loss})
        alone.observe({"probe_loss": loss})
    assert bandit.state_dict() == alone.state_dict()


@pytest.mark.parametrize(
    ("sampler", "polarity", "share", "names"),
    [
        (HardestFirst(), "hardest", "hard", ["Constant", "EdgeDensity", "HardestFirst"]),
        (HardestFirst(), "easiest", "easy", ["Constant", "EdgeDensity", "HardestFirst", "easiest"]),
        (Random(), "hardest", None, ["Constant", "EdgeDensity", "Random"]),
        (Bonus(), "easiest", None, ["Constant", "EdgeDensity", "Bonus", "easiest"]),
        (Pool(), "hardest", None, ["Constant", "EdgeDensity", "Pool"]),
    ],
)
def test_what_alpha_is_the_share_of(sampler: Sampler, polarity: str, share: str | None, names: list[str]) -> None:
    curriculum = Curriculum(scheduler=Constant(), difficulty=EdgeDensity(), sampler=sampler, polarity=polarity)
    assert curriculum.alpha_share == share
    assert curriculum.component_names() == names


def test_alpha_is_the_share_that_it_is_said_to_be() -> None:
    """Of 12 masked patches a half is the hardest, or the easiest."""
    batch = tiny_batch()
    for polarity in ("hardest", "easiest"):
        curriculum = Curriculum(
            scheduler=Constant(value=0.5), difficulty=EdgeDensity(), sampler=HardestFirst(), polarity=polarity
        )
        mask_NL = curriculum.draw(batch, None, 0.0, noise_for(batch)).to_bool()
        assert curriculum.scores is not None
        order_NL = curriculum.scores.argsort(dim=1, descending=curriculum.alpha_share == "hard")
        assert bool(mask_NL.gather(1, order_NL[:, :6]).all())


def test_everything_public_is_exported() -> None:
    missing = [name for name in curriculum_package.__all__ if not hasattr(curriculum_package, name)]
    assert not missing
