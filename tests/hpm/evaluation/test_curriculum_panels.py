"""What a picture shows of a curriculum: its scores, and the masks that it draws, on real models and in real runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from curriculum import (
    Batch,
    Constant,
    Curriculum,
    DifficultyEstimator,
    EdgeDensity,
    HardestFirst,
    Noise,
    PartialReconstruction,
    Parts,
    PredictedLoss,
    Quotas,
    Ramp,
    Random,
    Stream,
    TrueLoss,
    Uniform,
    UniformRatio,
    Weighted,
)
from curriculum.noise import hash_words
from curriculum.teacher import Teacher
from hpm.evaluation import EvaluationContext
from hpm.models.patches import patchify
from hpm.visualization import Panels, draw_sheet, look
from hpm.visualization.curriculum_panels import CurriculumPanels
from hpm.visualization.picture import held_out
from hpm.visualization.sheet import _columns

Hpm = Callable[..., int]
BLUE = torch.tensor([0, 0x72, 0xB2]) / 255
GRAY, WHITE = torch.tensor([0.5]), torch.tensor([1.0])


def under(context: EvaluationContext, difficulty: DifficultyEstimator, **settings: Any) -> EvaluationContext:
    """The same model under another curriculum, which follows half of the difficulty."""
    settings = {"scheduler": Constant(value=0.5), "sampler": HardestFirst()} | settings
    return replace(context, curriculum=Curriculum(difficulty=difficulty, **settings))


def shown_by(context: EvaluationContext, count: int = 5) -> tuple[Batch, Panels]:
    batch = held_out(context.source, 4, count)
    return batch, look(context, batch)


def followed(context: EvaluationContext) -> CurriculumPanels:
    panels = shown_by(context)[1].curriculum
    assert panels is not None
    return panels


def in_color(pixels: Tensor, color: Tensor) -> Tensor:
    """[N, 16]: the patches that are all of one color."""
    return (patchify(pixels, 4).unflatten(2, (16, 3)) - color).abs().amax(dim=(2, 3)) < 1e-6


def titles(panels: Panels) -> list[str]:
    return [column.title.replace("\n", " ") for column in _columns(panels)]


class Half(DifficultyEstimator):
    """Scores the left half of every image but the first, of which it scores nothing."""

    def __call__(self, batch: Batch, teacher: Teacher | None, *, num_masked: int, noise: Noise) -> Tensor:
        scores_NL = torch.arange(16.0).expand(len(batch), -1).clone()
        scores_NL[:, [place for place in range(16) if place % 4 > 1]] = math.nan
        scores_NL[0] = math.nan
        return scores_NL


# What is drawn.


def test_the_mask_is_the_one_that_the_curriculum_draws(context: EvaluationContext) -> None:
    """Alpha rises to 1 in 4 epochs, and one of them is over: 0.25 in its last step."""
    context = under(context, EdgeDensity(), scheduler=Ramp(start=0.0, end=1.0))
    assert context.pretraining is not None
    clock = context.pretraining.clock
    context = replace(context, pretraining=replace(context.pretraining, clock=clock.at(10)))
    batch, panels = shown_by(context)
    noise = Noise(hash_words(0, Stream.PICTURE_MASKS), 9, torch.arange(5))
    mask = context.curriculum.draw(batch, context.teacher, 0.25, noise)
    scores = EdgeDensity()(batch, None, num_masked=12, noise=noise)
    assert panels.curriculum is not None
    shown = panels.curriculum.masked
    blue, gray = in_color(shown, BLUE), in_color(shown, GRAY)
    assert torch.equal(blue | gray, mask.to_bool())
    visible = ~mask.to_bool()
    assert torch.equal(patchify(shown, 4)[visible], patchify(panels.pixels, 4)[visible])
    assert blue.sum(dim=1).tolist() == [3] * 5
    for image in range(5):
        assert set(scores[image].topk(3).indices.tolist()) == set(blue[image].nonzero().flatten().tolist())
    assert panels.curriculum.captions == (
        "Curriculum's mask: 3 of 12 masked patches are the hardest (blue, alpha 0.25), the others are random (gray).",
    )


def test_the_difficulty_is_what_is_masked_first(context: EvaluationContext) -> None:
    batch = held_out(context.source, 4, 5)
    edges = EdgeDensity()(batch, None, num_masked=12, noise=Noise(0, 0, torch.arange(5)))
    _, hardest = shown_by(under(context, EdgeDensity()))
    _, easiest = shown_by(under(context, EdgeDensity(), polarity="easiest"))
    assert hardest.curriculum is not None
    assert easiest.curriculum is not None
    torch.testing.assert_close(hardest.curriculum.difficulty, edges)
    torch.testing.assert_close(easiest.curriculum.difficulty, -edges)
    assert "minus difficulty" in titles(easiest)
    assert "6 of 12 masked patches are the easiest" in easiest.curriculum.captions[0]
    blue = in_color(easiest.curriculum.masked, BLUE)
    assert (edges.masked_fill(~blue, -1).amax(dim=1) <= edges.masked_fill(blue, 1e9).amin(dim=1)).all()
    with_chance = followed(under(context, TrueLoss(probes=2)))
    assert with_chance.difficulty is not None
    blue = in_color(with_chance.masked, BLUE)  # of the scores that are shown, not of others
    for scores, chosen in zip(with_chance.difficulty, blue, strict=True):
        assert set(scores.topk(6).indices.tolist()) == set(chosen.nonzero().flatten().tolist())


def test_all_of_a_mask_or_none_of_it(context: EvaluationContext) -> None:
    whole = followed(under(context, EdgeDensity(), scheduler=Constant(value=1.0)))
    assert in_color(whole.masked, BLUE).sum(dim=1).tolist() == [12] * 5
    assert whole.captions[0].endswith("12 of 12 masked patches are the hardest (blue, alpha 1.00).")
    none = followed(under(context, EdgeDensity(), scheduler=Constant(value=0.0)))
    assert in_color(none.masked, GRAY).sum(dim=1).tolist() == [12] * 5
    assert none.difficulty is not None
    assert none.captions[0].endswith(
        "0 of 12 masked patches are the hardest (alpha 0.00), the others are random (gray)."
    )


def test_the_caption_counts_what_is_hidden_and_not_reconstructed_too(context: EvaluationContext) -> None:
    part = PartialReconstruction(sampler=HardestFirst(), share=1 / 3, polarity="easiest")
    panels = followed(under(context, EdgeDensity(), reconstruction=part))
    assert panels.captions[0].startswith("Curriculum's mask: 6 of 12 masked patches are the hardest")
    assert in_color(panels.masked, WHITE).sum(dim=1).tolist() == [8] * 5
    alone = followed(under(context, EdgeDensity(), sampler=Random(), reconstruction=part))
    assert alone.captions[0].startswith("Curriculum's mask: follows no difficulty")
    assert alone.turned  # as what is reconstructed has it


def test_thrown_patches_are_white(context: EvaluationContext) -> None:
    """Brighter than any that the scenes have; and without a share of the mask nothing is blue."""
    panels = followed(under(context, EdgeDensity(), sampler=Weighted(), mask_ratio=0.5, throw_ratio=0.25))
    assert in_color(panels.masked, GRAY).sum(dim=1).tolist() == [8] * 5
    assert in_color(panels.masked, WHITE).sum(dim=1).tolist() == [4] * 5
    assert not in_color(panels.masked, BLUE).any()
    assert "follows the difficulty at alpha 0.50" in panels.captions[0]
    assert panels.captions[1].startswith("White patches are thrown away")


def test_gray_images_have_blue_masks(context: EvaluationContext) -> None:
    class OneChannel(type(context.source)):  # type: ignore[misc]
        def denormalize(self, images: Tensor) -> Tensor:
            return super().denormalize(images)[:, :1]

    source = OneChannel(img_size=16, train_size=40, validation_size=10, test_size=10)
    _, panels = shown_by(replace(under(context, EdgeDensity()), source=source))
    assert panels.curriculum is not None
    assert panels.curriculum.masked.shape == (5, 3, 16, 16)
    assert in_color(panels.curriculum.masked, BLUE).sum(dim=1).tolist() == [6] * 5


def test_a_step_between_scored_ones_shows_the_scored_one(context: EvaluationContext) -> None:
    """Step 3 was the last, where every second one follows the difficulty: step 2 is drawn."""
    panels = followed(under(context, EdgeDensity(), score_every=2))
    every = followed(under(context, EdgeDensity()))
    assert in_color(panels.masked, BLUE).sum(dim=1).tolist() == [6] * 5
    assert torch.equal(in_color(panels.masked, BLUE), in_color(every.masked, BLUE))
    assert not torch.equal(panels.masked, every.masked)
    assert "(blue, alpha 0.50 in one of 2 steps)" in panels.captions[0]


def test_the_mean_mask_ratio_where_chance_decides(context: EvaluationContext) -> None:
    panels = followed(under(context, EdgeDensity(), mask_ratio=UniformRatio(low=0.25, high=0.75)))
    assert (in_color(panels.masked, BLUE) | in_color(panels.masked, GRAY)).sum(dim=1).tolist() == [8] * 5


# What is left out.


def test_a_map_is_shown_once(context: EvaluationContext) -> None:
    _, published = shown_by(under(context, PredictedLoss()))
    assert titles(published) == [
        "image",
        "true loss",
        "difficulty: predicted loss",
        "curriculum's mask",
        "random mask (25% seen)",
        "reconstruction",
        "attention",
    ]
    _, probes = shown_by(under(context, PredictedLoss(probes=2)))
    assert titles(probes)[2:4] == ["difficulty", "curriculum's mask"]
    assert titles(probes)[-2:] == ["predicted loss", "attention"]


@pytest.mark.parametrize(
    "settings",
    [{"difficulty": Uniform(), "sampler": Random()}, {"difficulty": EdgeDensity(), "sampler": Random()}],
)
def test_random_masks_follow_nothing(context: EvaluationContext, settings: dict[str, Any], tmp_path: Path) -> None:
    _, panels = shown_by(under(context, **settings))
    assert panels.curriculum is None
    assert titles(panels)[1:3] == ["random mask (25% seen)", "reconstruction"]
    with Image.open(draw_sheet(panels, tmp_path / "sheet.png")) as image:
        assert image.size[0] > 300


def test_nothing_is_scored_or_can_be(context: EvaluationContext) -> None:
    class Nothing(Half):
        def __call__(self, *arguments: Any, **more: Any) -> Tensor:
            return torch.full_like(super().__call__(*arguments, **more), math.nan)

    assert shown_by(under(context, Nothing()))[1].curriculum is None
    context.model.loss_predictor = context.teacher.model.loss_predictor = None
    assert shown_by(under(context, PredictedLoss()))[1].curriculum is None


def test_masks_without_a_difficulty(context: EvaluationContext) -> None:
    """Numbers of parts are none, and neither is the same score everywhere; masks are drawn all the same."""
    parts = followed(under(context, Parts(parts=2), sampler=Quotas(parts=2)))
    assert parts.difficulty is None
    assert in_color(parts.masked, GRAY).sum(dim=1).tolist() == [12] * 5
    assert "follows the parts of the image at alpha 0.50" in parts.captions[0]
    assert followed(under(context, Uniform())).difficulty is None


def test_unscored_patches_are_gray_and_change_no_other_color(context: EvaluationContext, tmp_path: Path) -> None:
    """Half is scored from 0 to 13: dark below, bright above; the rest, and an image without a score, are gray."""
    _, panels = shown_by(under(context, Half()))
    assert panels.curriculum is not None
    assert panels.curriculum.captions[-1] == "Light gray patches are not scored."
    assert not in_color(panels.curriculum.masked, BLUE)[0].any()
    count, place = len(titles(panels)), titles(panels).index("difficulty")
    with Image.open(draw_sheet(panels, tmp_path / "sheet.png")) as image:
        pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8).view(
            image.height, image.width, 3
        )
    column = pixels[:, image.width * place // count : image.width * (place + 1) // count].flatten(0, 1)

    def share(red: int, green: int, blue: int) -> float:
        return float((column == torch.tensor([red, green, blue])).all(dim=1).float().mean())

    lowest, highest = share(68, 1, 84), share(253, 231, 36)  # viridis: one patch in each of four images
    assert lowest > 0.02
    assert highest == pytest.approx(lowest, rel=0.1)
    assert share(0xD9, 0xD9, 0xD9) == pytest.approx((16 + 4 * 8) / 4 * lowest, rel=0.1)


def test_it_leaves_everything_as_it_was(context: EvaluationContext) -> None:
    context = under(context, TrueLoss(probes=2))
    before = context.curriculum.scores = torch.zeros(2, 16)
    context.model.train()
    state = torch.get_rng_state()
    (_, one), (_, other) = shown_by(context), shown_by(context)
    assert context.curriculum.scores is before
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in context.model.modules())
    assert one.curriculum is not None
    assert other.curriculum is not None
    assert torch.equal(one.curriculum.masked, other.curriculum.masked)
