"""A memory of each patch's last training losses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from estimators import crop, score, train, training_context
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from curriculum import Batch, DifficultyEstimator, LossMemory, Mask, Mixture, Noise, Smoothed, Uniform
from curriculum.testing import DifficultyConformance, tiny_batch

WHOLE = [0.0, 0.0, 40.0, 40.0]


class TestLossMemory(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return LossMemory()


class TestMixtureWithMemory(DifficultyConformance):
    def build(self) -> DifficultyEstimator:
        return Mixture(estimators=[LossMemory(), Uniform()])


def memory(**changes: object) -> LossMemory:
    estimator = LossMemory(**changes)  # type: ignore[arg-type]
    estimator.prepare(training_context())
    return estimator


def masked(*rows: list[int]) -> Mask:
    """These patches of 16, in this order."""
    return Mask(
        torch.tensor([[patch for patch in range(16) if patch not in row] for row in rows]), torch.tensor(list(rows))
    )


def standardized(values: list[float]) -> Tensor:
    given = torch.tensor(values)
    return (given - given.mean()) / given.std(correction=0)


def test_the_masked_patches_keep_their_standardized_losses() -> None:
    estimator, batch = memory(), crop(tiny_batch(num_images=2), [7, 150], WHOLE)
    loss_NL = torch.arange(32.0).view(2, 16).square()
    train(estimator, batch, mask=masked([1, 4, 9], [0, 14, 15]), loss_NL=loss_NL)
    scores_NL = score(estimator, batch, step=1)
    assert torch.allclose(scores_NL[0, [1, 4, 9]], standardized([1.0, 16.0, 81.0]), atol=2e-3)
    assert torch.allclose(scores_NL[1, [0, 14, 15]], standardized([256.0, 900.0, 961.0]), atol=2e-3)
    assert scores_NL.isnan().sum(dim=1).tolist() == [13, 13]
    assert bool(score(estimator, replace(batch, indices=torch.tensor([8, 9])), step=1).isnan().all())


def test_a_patch_that_is_masked_again_takes_the_weighted_mean() -> None:
    estimator, batch = memory(momentum=0.75), crop(tiny_batch(num_images=1), [7], WHOLE)
    loss_NL = torch.arange(16.0).view(1, 16)
    train(estimator, batch, mask=masked([0, 1, 2]), loss_NL=loss_NL)
    train(estimator, batch, step=1, mask=masked([2, 1, 5]), loss_NL=-loss_NL)
    scores_L = score(estimator, batch, step=2)[0]
    first, second = standardized([0.0, 1.0, 2.0]), standardized([-2.0, -1.0, -5.0])
    assert scores_L[0] == pytest.approx(float(first[0]), abs=2e-3)
    assert scores_L[1] == pytest.approx(float(0.75 * first[1] + 0.25 * second[1]), abs=2e-3)
    assert scores_L[2] == pytest.approx(float(0.75 * first[2] + 0.25 * second[0]), abs=2e-3)
    assert scores_L[5] == pytest.approx(float(second[2]), abs=2e-3)


def test_a_cell_takes_the_mean_of_the_patches_in_it() -> None:
    """A crop of a quarter of the image has four patches in each cell of the image's map."""
    estimator, images = memory(momentum=0.0), tiny_batch(num_images=1)
    whole, part = crop(images, [7], WHOLE), crop(images, [7], [0.0, 20.0, 20.0, 20.0])
    everything = masked(list(range(16)))
    train(estimator, whole, mask=everything, loss_NL=torch.arange(16.0).view(1, 16))
    before_L = score(estimator, whole, step=1)[0]
    loss_NL = torch.rand(1, 16, generator=torch.Generator().manual_seed(0))
    train(estimator, part, step=1, mask=everything, loss_NL=loss_NL)
    after_L = score(estimator, whole, step=2)[0].view(4, 4)
    quarters = standardized(loss_NL[0].tolist()).view(2, 2, 2, 2).mean(dim=(1, 3))
    assert torch.allclose(after_L[2:, :2], quarters, atol=2e-3)
    assert torch.equal(after_L[:2], before_L.view(4, 4)[:2])
    assert torch.equal(after_L[2:, 2:], before_L.view(4, 4)[2:, 2:])


def test_the_last_row_of_an_image_that_comes_twice_counts() -> None:
    """One stands in for an image that cannot be read."""
    twice, once = memory(), memory()
    batch = crop(tiny_batch(num_images=3), [7, 20, 7], WHOLE)
    batch = replace(batch, boxes=torch.tensor([WHOLE, WHOLE, [10.0, 10.0, 20.0, 20.0]]))
    mask, loss_NL = masked([1, 2, 3], [4, 5, 6], [7, 8, 9]), torch.arange(48.0).view(3, 16).sin()
    train(twice, batch, mask=mask, loss_NL=loss_NL)
    last = Batch(batch.images[1:], 4, batch.indices[1:], batch.boxes[1:], batch.flips[1:])  # type: ignore[index]
    train(once, last, mask=Mask(mask.visible[1:], mask.masked[1:]), loss_NL=loss_NL[1:])
    assert torch.equal(score(twice, last).nan_to_num(99.0), score(once, last).nan_to_num(99.0))


def test_the_masks_of_one_image_are_remembered_together() -> None:
    """Patches of one mask keep its loss, those of several the mean; older scores weigh as against one mask."""
    estimator = LossMemory(momentum=0.75)
    estimator.prepare(training_context(masks_per_image=2))
    batch = crop(tiny_batch(num_images=4), [7, 7, 150, 150], WHOLE)
    loss_NL = torch.arange(64.0).view(4, 16).sin()
    rows = [[0, 1, 2], [2, 3, 5], [8, 9, 10], [11, 12, 13]]
    train(estimator, batch, mask=masked(*rows), loss_NL=loss_NL)
    first = [standardized(loss_NL[row, patches].tolist()) for row, patches in enumerate(rows)]
    scores_NL = score(estimator, batch, step=1)
    for rows_of_image in (scores_NL[:2], scores_NL[2:]):
        assert torch.equal(rows_of_image[0].nan_to_num(99.0), rows_of_image[1].nan_to_num(99.0))
    assert torch.allclose(scores_NL[0, [0, 1, 3, 5]], torch.cat([first[0][:2], first[1][1:]]), atol=2e-3)
    assert scores_NL[0, 2] == pytest.approx(float(first[0][2] + first[1][0]) / 2, abs=2e-3)
    assert torch.allclose(scores_NL[2, 8:14], torch.cat(first[2:]), atol=2e-3)
    assert scores_NL.isnan().sum(dim=1).tolist() == [11, 11, 10, 10]
    train(estimator, batch, step=1, mask=masked([0, 1, 4], [4, 6, 7], *rows[2:]), loss_NL=-loss_NL)
    again = standardized((-loss_NL[0, [0, 1, 4]]).tolist())
    after_L = score(estimator, batch, step=2)[0]
    assert after_L[0] == pytest.approx(float(0.75 * first[0][0] + 0.25 * again[0]), abs=2e-3)
    other = standardized((-loss_NL[1, [4, 6, 7]]).tolist())
    assert after_L[4] == pytest.approx(float(again[2] + other[0]) / 2, abs=2e-3)


@pytest.mark.parametrize("masks", [2, 4])
def test_complementary_masks_are_remembered_as_one_mask_of_all_patches(masks: int) -> None:
    """At crops, where several patches fall into one cell; of losses that are standardized alike in every mask."""
    together, apart = memory(momentum=0.5), LossMemory(momentum=0.5)
    apart.prepare(training_context(masks_per_image=masks))
    images = tiny_batch(num_images=2 * masks)
    for step, box in enumerate((WHOLE, [0.0, 20.0, 20.0, 20.0], [10.0, 0.0, 30.0, 40.0])):
        order_KL = torch.rand(2, 16, generator=torch.Generator().manual_seed(step)).argsort(dim=1)
        loss_KL = torch.empty(2, 16).scatter_(1, order_KL, (torch.arange(16.0) % (16 // masks)).expand(2, 16))
        one = crop(Batch(images.images[:2], 4), [7, 150], box)
        train(together, one, step=step, mask=masked(*order_KL.sort(dim=1).values.tolist()), loss_NL=loss_KL)
        rows = crop(images, [7] * masks + [150] * masks, box)
        parts = order_KL.view(2 * masks, -1).sort(dim=1).values.tolist()
        train(apart, rows, step=step, mask=masked(*parts), loss_NL=loss_KL.repeat_interleave(masks, dim=0))
        assert torch.allclose(score(apart, rows)[::masks], score(together, one), atol=2e-3, equal_nan=True)


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    estimator, batch = memory(), crop(tiny_batch(num_images=1), [7], WHOLE)
    loss_NL = torch.arange(16.0).view(1, 16)
    train(estimator, batch, mask=masked([0, 1, 2]), loss_NL=loss_NL)
    before_NL = score(estimator, batch, step=1)
    train(estimator, batch, step=1, mask=masked([1, 2, 3]), loss_NL=torch.full((1, 16), float("nan")))
    train(estimator, batch, step=2, mask=masked([1, 2, 3]), loss_NL=torch.full((1, 16), float("inf")))
    assert torch.equal(score(estimator, batch, step=3).nan_to_num(99.0), before_NL.nan_to_num(99.0))


def test_predicted_losses_are_kept_where_asked() -> None:
    estimator, batch = memory(predicted=True), crop(tiny_batch(num_images=1), [7], WHOLE)
    assert estimator.needs_predictions
    assert not memory().needs_predictions
    train(estimator, batch, mask=masked([0, 1, 2]), predicted_NL=-torch.arange(16.0).view(1, 16))
    assert torch.allclose(score(estimator, batch)[0, :3], standardized([0.0, -1.0, -2.0]), atol=2e-3)


class _Marked:
    """An image of 64 x 64 pixels of which one square is hard wherever it is seen, at random crops.

    The grid is 4 x 4, so that a patch of a crop of w pixels is w / 4 pixels wide.
    """

    def __init__(self, left: int, top: int, *, size: int = 8) -> None:
        self.left, self.top, self.size = left, top, size

    def holds(self, box: list[float], flip: bool) -> tuple[Tensor, Tensor]:
        """Per patch: whether its center lies in the square; whether it touches the square at all. Bool [16] each."""
        x, y, width, height = box
        right, bottom = self.left + self.size, self.top + self.size
        inside, touches = [], []
        for row in range(4):
            for column in range(4):
                place = 3 - column if flip else column
                x0, x1 = x + place * width / 4, x + (place + 1) * width / 4
                y0, y1 = y + row * height / 4, y + (row + 1) * height / 4
                middle = (x0 + x1) / 2, (y0 + y1) / 2
                inside.append(self.left <= middle[0] < right and self.top <= middle[1] < bottom)
                touches.append(x0 < right and x1 > self.left and y0 < bottom and y1 > self.top)
        return torch.tensor(inside), torch.tensor(touches)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[list[float], bool]:
    width, height = draw(st.integers(24, 64)), draw(st.integers(24, 64))
    left, top = draw(st.integers(0, 64 - width)), draw(st.integers(0, 64 - height))
    return [float(left), float(top), float(width), float(height)], draw(st.booleans())


@settings(max_examples=150, deadline=None)
@given(st.tuples(st.integers(0, 56), st.integers(0, 56)), boxes(), boxes())
def test_a_marked_patch_is_found_again_through_crops_and_flips(
    corner: tuple[int, int], first: tuple[list[float], bool], second: tuple[list[float], bool]
) -> None:
    """All patches of a first crop are masked, those that touch the mark cost 1 and others 0.

    In a second crop a patch whose center lies in the mark is recalled as hard where the first crop showed that pixel,
    and a patch whose center lies a whole patch of the first crop away from the mark as easy.
    """
    mark = _Marked(*corner)
    _, touches = mark.holds(*first)
    if bool(touches.all()) or not bool(touches.any()):
        return  # standardized losses that are all the same say nothing
    estimator, images = memory(), tiny_batch(num_images=1)
    seen = crop(images, [3], first[0], flip=first[1])
    train(estimator, seen, mask=masked(list(range(16))), loss_NL=touches.float().unsqueeze(0))
    scores_L = score(estimator, crop(images, [3], second[0], flip=second[1]), step=1)[0]
    inside, _ = mark.holds(*second)
    x, y, width, height = first[0]
    for patch in range(16):
        column, row = patch % 4, patch // 4
        column = 3 - column if second[1] else column
        center = (
            second[0][0] + (column + 0.5) * second[0][2] / 4,
            second[0][1] + (row + 0.5) * second[0][3] / 4,
        )
        shown = x < center[0] < x + width and y < center[1] < y + height
        beyond = not (x <= center[0] <= x + width and y <= center[1] <= y + height)
        if beyond:
            assert bool(scores_L[patch].isnan())
        elif shown and bool(inside[patch]):
            assert scores_L[patch] > 0
        elif shown and (
            abs(center[0] - corner[0] - 4) > 4 + width / 4 or abs(center[1] - corner[1] - 4) > 4 + height / 4
        ):
            assert scores_L[patch] < 0


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(0, 40), st.integers(0, 40)), st.lists(boxes(), min_size=1, max_size=5), boxes())
def test_a_map_grows_over_many_crops_and_keeps_the_mark(
    corner: tuple[int, int], crops: list[tuple[list[float], bool]], last: tuple[list[float], bool]
) -> None:
    """The mark is 24 pixels wide, a patch at most 16: what its middle lies in is hard, what is far from it easy."""
    mark = _Marked(*corner, size=24)
    estimator, images = memory(), tiny_batch(num_images=1)
    shown: list[list[float]] = []
    for box, flip in crops:
        _, touches = mark.holds(box, flip)
        if not bool(touches.all()) and bool(touches.any()):
            shown.append(box)
            seen = crop(images, [3], box, flip=flip)
            train(estimator, seen, mask=masked(list(range(16))), loss_NL=touches.float().unsqueeze(0))
    scores_L = score(estimator, crop(images, [3], last[0], flip=last[1]), step=1)[0]
    for patch in range(16):
        column, row = patch % 4, patch // 4
        column = 3 - column if last[1] else column
        x, y = last[0][0] + (column + 0.5) * last[0][2] / 4, last[0][1] + (row + 0.5) * last[0][3] / 4
        away = max(abs(x - corner[0] - 12), abs(y - corner[1] - 12))
        if any(box[0] + 8 < x < box[0] + box[2] - 8 and box[1] + 8 < y < box[1] + box[3] - 8 for box in shown):
            assert not bool(scores_L[patch].isnan())  # half a cell from the border of a crop, its center was in it
        if not bool(scores_L[patch].isnan()):
            assert scores_L[patch] > 0 or away > 3
            assert scores_L[patch] < 0 or away <= 36


def test_scores_move_when_a_map_grows() -> None:
    """From the right half of an image to all of it: each old cell lies under the centers of no cell or of one."""
    estimator, images = memory(), tiny_batch(num_images=1)
    right, left = crop(images, [7], [20.0, 0.0, 20.0, 40.0]), crop(images, [7], [0.0, 0.0, 20.0, 40.0])
    everything = masked(list(range(16)))
    train(estimator, right, mask=everything, loss_NL=torch.arange(16.0).view(1, 16))
    before_RK = score(estimator, right, step=1)[0].view(4, 4)
    train(estimator, left, step=1, mask=everything, loss_NL=torch.zeros(1, 16))
    after_RK = score(estimator, crop(images, [7], WHOLE), step=2)[0].view(4, 4)
    assert torch.allclose(after_RK[:, 2:], before_RK[:, 1::2], atol=2e-3)
    assert torch.allclose(after_RK[:, :2], torch.zeros(4, 2), atol=2e-3)


def test_what_is_remembered_survives_a_checkpoint() -> None:
    first, second = memory(), memory()
    batch = crop(tiny_batch(num_images=3), [7, 150, 20], [3.0, 5.0, 40.0, 30.0])
    train(first, batch, loss_NL=torch.arange(48.0).view(3, 16))
    assert first.module is not None
    assert second.module is not None
    second.module.load_state_dict(first.module.state_dict())
    assert torch.equal(score(first, batch).nan_to_num(99.0), score(second, batch).nan_to_num(99.0))


def test_a_memory_may_be_part_of_a_combination() -> None:
    estimator = Smoothed(estimator=LossMemory(), sigma=0.5)
    estimator.prepare(training_context())
    assert estimator.stateful
    assert estimator.module is not None
    assert set(estimator.module.state_dict()) == {"0.scores", "0.scale", "0.boxes", "0.flips"}
    batch = crop(tiny_batch(num_images=1), [7], WHOLE)
    loss_NL = torch.zeros(1, 16)
    loss_NL[0, 5] = 1.0
    train(estimator, batch, mask=masked(list(range(16))), loss_NL=loss_NL)
    scores_L = score(estimator, batch, step=1)[0]
    assert int(scores_L.argmax()) == 5
    assert scores_L[6] > scores_L[15]


def test_what_is_kept_is_counted() -> None:
    estimator = memory()
    assert estimator.module is not None
    kept = sum(buffer.numel() * buffer.element_size() for buffer in estimator.module.buffers())
    assert estimator.kept_bytes(200, 16) == kept
    assert LossMemory().kept_bytes(1_281_167, 196) == pytest.approx(0.53e9, rel=0.01)


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_cannot_be_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=r"LossMemory\.momentum"):
        LossMemory(momentum=momentum)


def test_rows_of_a_batch_do_not_depend_on_each_other() -> None:
    batch = crop(tiny_batch(num_images=4), [7, 150, 20, 3], [3.0, 5.0, 40.0, 30.0])
    keys_NL = Noise.for_batch(seed=1, step=0, batch_size=4).bits(16)
    mask, loss_NL = Mask.from_keys(keys_NL, 12), torch.arange(64.0).view(4, 16).sin()
    whole, halves = memory(), memory()
    train(whole, batch, mask=mask, loss_NL=loss_NL)
    for rows in (slice(0, 2), slice(2, 4)):
        part = Batch(batch.images[rows], 4, batch.indices[rows], batch.boxes[rows], batch.flips[rows])  # type: ignore[index]
        train(halves, part, mask=Mask(mask.visible[rows], mask.masked[rows]), loss_NL=loss_NL[rows])
    assert torch.equal(score(whole, batch).nan_to_num(99.0), score(halves, batch).nan_to_num(99.0))
