"""Unsupervised segmentation: maps that are cut at a threshold, against objects that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from annotated import Annotated, AnnotatedSplit, boxed, boxes_of, mosaics, on
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import jaccard_score
from tiny_models import tiny_model
from torch import Tensor

from hpm.data import DigitScenes, ImageFolder
from hpm.data.sources.annotations import Objects, objects_from
from hpm.errors import UserError
from hpm.evaluation import EvaluationContext, UnsupervisedSegmentation
from hpm.evaluation.score_maps import cut_out
from hpm.evaluation.unsupervised_segmentation import highest, located
from hpm.models.base import MaskedModel
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin

PREFIX = "unsupervised_segmentation"
WITHOUT_MODEL = ("pixels", "edge_density", "center", "random")
OF_A_MODEL = ("predicted_loss", "true_loss", "attention", "features")
Box = tuple[int, int, int, int]


def names(*scores: str) -> set[str]:
    own = {"object_share"} | {f"{name}/{metric}" for name in scores for metric in ("iou", "corloc", "area")}
    return {f"{PREFIX}/{name}" for name in own}


def some_boxes(count: int, seed: int = 0, *, side: int = 12, step: int = 4, size: int = 32) -> list[list[Box]]:
    """A square for each image, whose corners are corners of patches where `step` is the side of a patch."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, (size - side) // step + 1, (count, 2)) * step
    return [[(int(x), int(y), int(x) + side, int(y) + side)] for x, y in corners]


@pytest.fixture
def small(context: EvaluationContext) -> Callable[[Annotated], EvaluationContext]:
    """Gives the context of images of 32 pixels in 8 by 8 patches."""
    return lambda source: on(context, source, tiny_model(patch_size=4, in_chans=source.in_chans))


# Thresholds


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.permutations(range(12)), st.floats(0.01, 0.99))
def test_of_patches_of_one_pixel_just_the_share_is_taken_that_scores_highest(order: list[int], area: float) -> None:
    taken_N43 = highest(torch.tensor([order]).float(), (4, 3), (4, 3), area)
    count = max(1, round(area * 12))
    assert taken_N43.flatten().tolist() == [score >= 12 - count for score in order]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.floats(0.01, 0.99))
def test_of_larger_patches_the_share_is_taken_with_what_ties(seed: int, area: float) -> None:
    """Within half a patch of the border pixels tie; without the lowest level of what is taken it would be too few."""
    scores_NL = torch.rand(2, 12, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    taken_NSS = highest(scores_NL, (3, 4), (9, 8), area)
    maps_NSS = torch.nn.functional.interpolate(scores_NL.view(2, 1, 3, 4), (9, 8), mode="bilinear").squeeze(1)
    for taken_SS, map_SS in zip(taken_NSS, maps_NSS, strict=True):
        count = max(1, round(area * 72))
        least = map_SS[taken_SS].min()
        assert taken_SS.sum() >= count > (map_SS > least).sum()
        assert bool((map_SS[~taken_SS] < least).all())


def test_where_all_score_the_same_all_is_taken() -> None:
    assert bool(highest(torch.ones(1, 4), (2, 2), (8, 8), 0.1).all())


# Boxes


def objects(*boxes: Box, crowd: tuple[int, ...] = (), size: int = 10) -> Objects:
    masks = []
    for left, top, right, bottom in boxes:
        mask = torch.zeros(size, size, dtype=torch.bool)
        mask[top:bottom, left:right] = True
        masks.append(mask)
    return objects_from(masks, [0] * len(boxes), [n in crowd for n in range(len(boxes))], height=size, width=size)


def mask(*rows: str) -> Tensor:
    return torch.tensor([[letter == "#" for letter in row] for row in rows])


BLOCK = mask(*[".........."] * 2, *["..####...."] * 4, *[".........."] * 4)  # the box (2, 2, 6, 6)


@pytest.mark.parametrize(
    ("found", "boxes", "expected"),
    [
        ([(2, 2, 6, 6)], (), True),
        ([(2, 2, 6, 4)], (), True),  # just a half
        ([(2, 2, 6, 3)], (), False),
        ([(4, 4, 8, 8)], (), False),  # 4 of 28 pixels
        ([(3, 2, 7, 6)], (), True),  # 12 of 20
        ([(0, 0, 1, 1), (2, 2, 6, 5)], (), True),  # any of the objects
        ([(0, 0, 1, 1), (2, 2, 6, 6)], (1,), False),  # but no crowd
        ([(0, 0, 10, 10)], (), False),
    ],
)
def test_a_box_is_found_by_half(found: list[Box], boxes: tuple[int, ...], expected: bool) -> None:
    assert located(BLOCK, objects(*found, crowd=boxes)) == expected


def test_the_largest_region_counts_and_corners_do_not_join() -> None:
    regions = mask(
        "###.......",
        "###.......",
        "...##.....",
        "...##.....",
        *[".........."] * 5,
        "..........",
    )
    assert located(regions, objects((0, 0, 3, 2)))
    assert not located(regions, objects((3, 2, 5, 4)))
    assert not located(regions, objects((0, 0, 5, 4)))  # what both would be together
    regions[1, 3] = True  # now they meet along an edge
    assert located(regions, objects((0, 0, 5, 4)))


# Cuts


def test_a_cut_is_the_second_eigenvector_of_the_generalized_problem() -> None:
    """TokenCut's, solved as it is written: (D - W) y = lambda D y."""
    features_NLD = torch.randn(4, 30, 6, generator=torch.Generator().manual_seed(0))
    for scores_L, features_LD in zip(cut_out(features_NLD), features_NLD.double().numpy(), strict=True):
        centered = features_LD - features_LD.mean(axis=0)
        unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
        weights = np.where(unit @ unit.T >= 0.2, 1.0, 1e-5)
        degrees = np.diag(weights.sum(axis=1))
        second = scipy.linalg.eigh(degrees - weights, degrees)[1][:, 1]
        second *= np.sign(second[np.abs(second).argmax()])
        np.testing.assert_allclose(scores_L.numpy(), second, atol=1e-8)


@pytest.mark.parametrize("bright", [True, False])
def test_a_cut_takes_the_smaller_of_two_kinds_of_patches_for_the_object(bright: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    belongs_L = torch.zeros(36, dtype=torch.bool)
    belongs_L[[7, 8, 9, 13, 14, 15]] = True
    kinds = torch.tensor([[1.0, 0.0, 5.0], [-1.0, 1.0, 5.0]])[(belongs_L == bright).long()]
    scores_L = cut_out((kinds + 0.05 * torch.randn(36, 3, generator=generator)).unsqueeze(0))[0]
    assert scores_L[belongs_L].min() > 0 > scores_L[~belongs_L].max()


# The evaluation


def test_the_map_of_the_object_finds_as_much_as_the_grid_allows_and_chance_little(
    small: Callable[[Annotated], EvaluationContext],
) -> None:
    """Bright squares on dark ground, which a cut of the pixels sets apart: nine of 64 patches."""
    validation, test = (boxed(some_boxes(60, seed)) for seed in (0, 1))
    context = small(boxes_of(validation, test))
    areas = [round(0.02 * n, 2) for n in range(1, 50)]
    metrics = UnsupervisedSegmentation(areas=areas)(context)
    truth_NSS = torch.stack([of_image.masks_OHW[0] for of_image in test.objects_K])
    shares_NL = torch.nn.functional.avg_pool2d(truth_NSS.float().unsqueeze(1), 4).flatten(1)

    def iou(area: float) -> float:
        taken_NSS = highest(shares_NL, (8, 8), (32, 32), area)
        both, either = (both.flatten(1).sum(dim=1) for both in (taken_NSS & truth_NSS, taken_NSS | truth_NSS))
        return float((both / either).mean())

    allowed = max(iou(area) for area in areas)
    assert 0.8 < allowed <= 1
    assert metrics[f"{PREFIX}/pixels/iou"] == pytest.approx(allowed, abs=0.05)
    assert metrics[f"{PREFIX}/pixels/corloc"] == 1
    share = (12 / 32) ** 2
    assert metrics[f"{PREFIX}/object_share"] == pytest.approx(share)
    area = metrics[f"{PREFIX}/random/area"]
    assert metrics[f"{PREFIX}/random/iou"] == pytest.approx(area * share / (area + share - area * share), abs=0.03)
    assert metrics[f"{PREFIX}/random/corloc"] < 0.2


def test_scenes_by_scikit_learn(context: EvaluationContext, source: DigitScenes) -> None:
    context = replace(context, splits=("validation", "test"))
    metrics = UnsupervisedSegmentation(images=200)(context)
    own = names(*(f"{of}/{name}" for of in ("teacher", "student") for name in OF_A_MODEL), *WITHOUT_MODEL, "position")
    assert metrics.keys() == own | {f"validation/{name}" for name in own}
    for which, split in (("validation/", source.validation()), ("", source.test())):
        indices = torch.arange(len(split))
        truth_NSS = source.object_masks(split, indices)
        images = source.load(split, indices)
        for name, scores_NL in (
            ("teacher/predicted_loss", context.teacher.predicted_loss(images)),
            ("student/attention", context.model.attention(images).mean(dim=1).detach()),
        ):
            area = metrics[f"{PREFIX}/{name}/area"]
            taken_NSS = highest(scores_NL, (4, 4), (16, 16), area)
            pairs = zip(truth_NSS.flatten(1), taken_NSS.flatten(1), strict=True)
            iou = np.mean([jaccard_score(truth, taken) for truth, taken in pairs])
            assert metrics[f"{which}{PREFIX}/{name}/iou"] == pytest.approx(iou, abs=2e-3)  # rounding may break a tie
            assert metrics[f"validation/{PREFIX}/{name}/area"] == area
        share = truth_NSS.double().mean().item()
        assert metrics[f"{which}{PREFIX}/object_share"] == pytest.approx(share)


def test_the_area_is_what_does_best_on_the_validation_images(small: Callable[[Annotated], EvaluationContext]) -> None:
    """The test images' objects are larger, and would have had the larger area."""
    source = boxes_of(boxed(some_boxes(12, side=8)), boxed(some_boxes(12, side=20)))
    metrics = UnsupervisedSegmentation(areas=[0.4, 0.06])(small(source))
    for name in ("pixels", "edge_density"):
        assert metrics[f"{PREFIX}/{name}/area"] == metrics[f"validation/{PREFIX}/{name}/area"] == 0.06
        larger = UnsupervisedSegmentation(areas=[0.4])(small(source))
        assert larger[f"{PREFIX}/{name}/iou"] > metrics[f"{PREFIX}/{name}/iou"]
        assert larger[f"validation/{PREFIX}/{name}/iou"] < metrics[f"validation/{PREFIX}/{name}/iou"]


def test_a_single_area_is_chosen_by_nobody(context: EvaluationContext) -> None:
    """So that no validation images are needed, which these data have none of."""

    class WithoutValidation(DigitScenes):
        @property
        def has_own_validation(self) -> bool:
            return False

    source = WithoutValidation(img_size=16, train_size=40, test_size=20)
    source.validation_images = 0
    alone = replace(context, source=source, splits=("test",))
    metrics = UnsupervisedSegmentation(areas=[0.2])(alone)
    assert {value for name, value in metrics.items() if name.endswith("/area")} == {0.2}
    with pytest.raises(UserError, match="leaves no validation images"):
        UnsupervisedSegmentation(areas=[0.2, 0.3])(alone)


def center(side: int = 8) -> Tensor:
    """The scores `center`, which are the same for every image."""
    middles = torch.arange(side) - (side - 1) / 2
    return -(middles.square().unsqueeze(1) + middles.square()).view(1, -1)


def test_crowds_do_not_count(small: Callable[[Annotated], EvaluationContext]) -> None:
    """What is taken of a crowd is no mistake, what is left of it no omission, and its box is nothing to be found."""
    boxes = [[(0, 0, 16, 16), (12, 12, 32, 32)], [(4, 4, 12, 28), (8, 0, 28, 28)]]
    crowds = [[1], [1]]
    metrics = UnsupervisedSegmentation(areas=[0.5])(small(boxes_of(boxed(boxes, crowds=crowds))))
    taken_SS = highest(center(), (8, 8), (32, 32), 0.5)[0]
    ious = []
    for (left, top, right, bottom), crowd in boxes:
        thing_SS, crowd_SS = (torch.zeros(32, 32, dtype=torch.bool) for _ in range(2))
        thing_SS[top:bottom, left:right] = True
        crowd_SS[crowd[1] : crowd[3], crowd[0] : crowd[2]] = True
        counted_SS = thing_SS | ~crowd_SS
        ious.append(jaccard_score(thing_SS[counted_SS], taken_SS[counted_SS]))
    assert metrics[f"validation/{PREFIX}/center/iou"] == pytest.approx(np.mean(ious))
    assert metrics[f"validation/{PREFIX}/center/corloc"] == 0
    things = UnsupervisedSegmentation(areas=[0.5])(small(boxes_of(boxed(boxes))))
    assert things[f"validation/{PREFIX}/center/iou"] != pytest.approx(np.mean(ious))
    assert things[f"validation/{PREFIX}/center/corloc"] > 0


def test_images_without_an_object_are_left_out(small: Callable[[Annotated], EvaluationContext]) -> None:
    """Without any, or with crowds alone; the others have the same figures as by themselves."""
    boxes, crowds = some_boxes(6), [[], [0]] * 3
    mixed = [of_image for pair in zip([[], [(0, 0, 8, 8)]] * 3, boxes, strict=True) for of_image in pair]
    context = small(boxes_of(boxed(mixed, crowds=[c for of_none in crowds for c in (of_none, [])])))
    found = UnsupervisedSegmentation()(context)
    alone = UnsupervisedSegmentation()(small(boxes_of(boxed(boxes))))
    for name in ("object_share", *(f"{scores}/{what}" for scores in WITHOUT_MODEL[:3] for what in ("iou", "corloc"))):
        assert found[f"validation/{PREFIX}/{name}"] == pytest.approx(alone[f"validation/{PREFIX}/{name}"]), name
    gallery = context.galleries["unsupervised-segmentation"]
    assert gallery.panels[0].outlines is not None
    assert gallery.panels[0].outlines.tolist() == [
        of_image.masks_OHW[0].tolist() for of_image in boxed(boxes).objects_K
    ]
    for shown_CSS, outlined_SS in zip(gallery.pixels, gallery.panels[0].outlines, strict=True):
        assert torch.equal(shown_CSS[0] > 0.5, outlined_SS)  # the row's own image


@pytest.mark.parametrize("which", ["validation", "test"])
def test_images_none_of_which_shows_an_object_are_named(
    small: Callable[[Annotated], EvaluationContext], which: str
) -> None:
    splits = {"validation": boxed(some_boxes(3)), "test": boxed(some_boxes(4))}
    count = len(splits[which])
    splits[which] = boxed([[(0, 0, 8, 8)], *[[]] * (count - 1)], crowds=[[0], *[[]] * (count - 1)])
    expected = f"none of the {count} {which} images of Annotated that were looked at shows an object"
    with pytest.raises(UserError, match=expected):
        UnsupervisedSegmentation()(small(boxes_of(splits["validation"], splits["test"])))


@pytest.mark.parametrize(("validation", "test"), [(1, 3), (3, 1), (1, 1)])
def test_of_a_single_image_there_are_no_others_at_whose_positions_to_look(
    small: Callable[[Annotated], EvaluationContext], validation: int, test: int
) -> None:
    context = small(boxes_of(boxed(some_boxes(validation)), boxed(some_boxes(test, 1))))
    metrics = UnsupervisedSegmentation()(context)
    assert f"{PREFIX}/pixels/iou" in metrics
    assert f"{PREFIX}/position/iou" not in metrics
    assert (f"validation/{PREFIX}/position/iou" in metrics) == (validation > 1)


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (
            lambda: tiny_model(in_chans=1, patch_size=4),
            lambda: boxes_of(boxed(some_boxes(4), channels=1)),
        ),
        (
            lambda: tiny_model(img_size=(16, 48), patch_size=4),
            lambda: boxes_of(boxed(some_boxes(4, size=16), size=(16, 48))),
        ),
        (lambda: tiny_model(patch_size=(4, 2)), lambda: boxes_of(boxed(some_boxes(4)))),
        (
            lambda: SimMIM(
                encoder=Swin(img_size=32, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4)
            ),
            lambda: boxes_of(boxed(some_boxes(4))),
        ),
    ],
    ids=["gray", "wide", "narrow patches", "swin"],
)
def test_all_kinds_of_images_patches_and_encoders(
    context: EvaluationContext, make: Callable[[], MaskedModel], source: Callable[[], Annotated]
) -> None:
    context = on(context, source(), make())
    metrics = UnsupervisedSegmentation()(context)
    assert {f"validation/{PREFIX}/student/features/iou", f"validation/{PREFIX}/student/true_loss/iou"} <= metrics.keys()
    assert metrics[f"validation/{PREFIX}/pixels/iou"] > 0.6


def test_repeats_and_leaves_everything_as_it_was(context: EvaluationContext) -> None:
    evaluation = UnsupervisedSegmentation(images=40)
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    assert evaluation(context) == evaluation(context)
    assert torch.equal(torch.get_rng_state(), state)
    assert context.model.training
    assert all(parameter.requires_grad for parameter in context.model.encoder.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "UnsupervisedSegmentation.images = 0 must be at least 1"),
        ({"areas": 0.5}, "UnsupervisedSegmentation.areas = 0.5 must be a sequence of one number or more"),
        ({"areas": []}, r"UnsupervisedSegmentation.areas = \[\] must be a sequence of one number or more"),
        ({"areas": [0.5, 1.0]}, r"UnsupervisedSegmentation.areas = 1.0 must lie in \(0, 1\)"),
        ({"areas": [0.0]}, r"UnsupervisedSegmentation.areas = 0.0 must lie in \(0, 1\)"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UnsupervisedSegmentation(**arguments)


def test_refuses_data_without_objects_or_validation_images(context: EvaluationContext, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a" / "a.png")
    evaluation = UnsupervisedSegmentation()
    for source in (ImageFolder(root=str(tmp_path), img_size=16), mosaics()):
        with pytest.raises(
            ValueError, match=rf"objects are annotated, and {type(source).__name__} knows none; use Coco"
        ):
            evaluation.check(source, context.model)
    alone: dict[str, AnnotatedSplit] = {name: boxed(some_boxes(3, size=16), size=16) for name in ("train", "test")}
    with pytest.raises(UserError, match="Annotated has no validation images"):
        evaluation.check(Annotated(alone, kinds=["box"], things=True), context.model)
