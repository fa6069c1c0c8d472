from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.mask import Mask, count_masked
from curriculum.noise import Noise
from curriculum.testing import refuse_host_sync


@pytest.mark.parametrize(
    ("num_patches", "mask_ratio", "masked"),
    [(196, 0.75, 147), (196, 0.6, 118), (196, 0.5, 98), (100, 0.9, 91), (64, 0.75, 48), (2, 0.5, 1), (256, 0.85, 218)],
)
def test_count_masked(num_patches: int, mask_ratio: float, masked: int) -> None:
    assert count_masked(num_patches, mask_ratio) == masked


def test_floating_point_decides_the_rounding_as_in_the_original() -> None:
    """100 * (1 - 0.9) is 9.999..., so that 9 patches stay visible and not 10."""
    assert 100 - count_masked(100, 0.9) == 9
    assert 10 - count_masked(10, 0.5) == 5


@pytest.mark.parametrize(
    ("num_patches", "mask_ratio", "masked"),
    [(196, 0.75, 147), (196, 0.6, 117), (196, 0.45, 88), (100, 0.9, 90), (49, 0.75, 36), (196, 0.3, 58)],
)
def test_the_number_of_masked_patches_may_be_rounded_down(num_patches: int, mask_ratio: float, masked: int) -> None:
    assert count_masked(num_patches, mask_ratio, "masked") == masked == int(num_patches * mask_ratio)


def test_an_unknown_rounding_is_named() -> None:
    with pytest.raises(ValueError, match=r"rounding = 'up' is unknown; choose 'visible', 'masked'"):
        count_masked(196, 0.75, "up")


@pytest.mark.parametrize("mask_ratio", [-0.1, 0.0, 1.0, 1.5, float("nan")])
def test_count_masked_refuses_a_ratio_outside_the_open_interval(mask_ratio: float) -> None:
    with pytest.raises(ValueError, match=r"mask_ratio = .* strictly between 0 and 1"):
        count_masked(196, mask_ratio)


@pytest.mark.parametrize(("num_patches", "mask_ratio", "visible"), [(4, 0.9, 0), (1, 0.5, 0), (10, 0.9, 0)])
def test_count_masked_refuses_to_leave_nothing_visible(num_patches: int, mask_ratio: float, visible: int) -> None:
    with pytest.raises(ValueError, match=f"of {num_patches} patches leaves {visible} visible"):
        count_masked(num_patches, mask_ratio)


def test_count_masked_refuses_to_leave_nothing_masked() -> None:
    with pytest.raises(ValueError, match="of 4 patches leaves 4 visible"):
        count_masked(4, 0.2, "masked")


@settings(deadline=None, derandomize=True)
@given(num_patches=st.integers(2, 400), mask_ratio=st.floats(0.01, 0.99))
def test_count_masked_leaves_some_of_both_or_refuses(num_patches: int, mask_ratio: float) -> None:
    try:
        masked = count_masked(num_patches, mask_ratio)
    except ValueError:
        assert num_patches * (1 - mask_ratio) < 1 + 1e-6
    else:
        assert 1 <= masked < num_patches
        assert num_patches - masked <= num_patches * (1 - mask_ratio) < num_patches - masked + 1


def random_mask(num_images: int, num_patches: int, num_masked: int, seed: int = 0) -> Mask:
    noise = Noise.for_batch(seed=seed, step=0, batch_size=num_images)
    return Mask.from_keys(noise.bits(num_patches), num_masked)


def test_from_keys_masks_the_largest_in_raster_order() -> None:
    keys_NL = torch.tensor([[0.3, 0.9, 0.1, 0.5, 0.7], [5.0, 4.0, 3.0, 2.0, 1.0]])
    mask = Mask.from_keys(keys_NL, 2)
    assert mask.masked.tolist() == [[1, 4], [0, 1]]
    assert mask.visible.tolist() == [[0, 2, 3], [2, 3, 4]]
    assert (mask.num_patches, mask.num_masked, mask.num_visible) == (5, 2, 3)
    assert mask.to_bool().tolist() == [[False, True, False, False, True], [True, True, False, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_from_keys_takes_any_type_that_sorts(dtype: torch.dtype) -> None:
    keys_NL = torch.tensor([[3, -1, 7, 0]]).to(dtype)
    assert Mask.from_keys(keys_NL, 2).masked.tolist() == [[0, 2]]


def test_from_keys_keeps_the_count_under_ties() -> None:
    mask = Mask.from_keys(torch.zeros(3, 10), 4)
    assert mask.to_bool().sum(dim=1).tolist() == [4, 4, 4]


def test_from_keys_does_not_wait_for_the_device() -> None:
    keys_NL = Noise.for_batch(seed=0, step=0, batch_size=3).bits(16)
    with refuse_host_sync():
        Mask.from_keys(keys_NL, 12)


@settings(deadline=None, derandomize=True)
@given(st.data())
def test_index_and_boolean_views_agree(data: st.DataObject) -> None:
    num_patches = data.draw(st.integers(2, 60))
    num_masked = data.draw(st.integers(1, num_patches - 1))
    mask = random_mask(data.draw(st.integers(1, 4)), num_patches, num_masked, data.draw(st.integers(0, 100)))
    mask_NL = mask.to_bool()
    for bools_L, masked_M, visible_V in zip(mask_NL.tolist(), mask.masked.tolist(), mask.visible.tolist(), strict=True):
        assert masked_M == [place for place, masked in enumerate(bools_L) if masked]
        assert visible_V == [place for place, masked in enumerate(bools_L) if not masked]
    again = Mask.from_bool(mask_NL)
    assert torch.equal(again.masked, mask.masked)
    assert torch.equal(again.visible, mask.visible)
    assert mask.masked.dtype == mask.visible.dtype == torch.int64


def test_from_bool_refuses_unequal_counts() -> None:
    with pytest.raises(ValueError, match=r"same number of patches, got \[1, 2\]"):
        Mask.from_bool(torch.tensor([[True, True, False], [True, False, False]]))


@pytest.mark.parametrize("shape", [(), (5,)])
def test_scatter_inverts_the_gathers(shape: tuple[int, ...]) -> None:
    mask = random_mask(4, 16, 12)
    x = torch.arange(4 * 16 * (5 if shape else 1)).reshape(4, 16, *shape).float()
    visible, masked = mask.gather_visible(x), mask.gather_masked(x)
    assert visible.shape == (4, 4, *shape)
    assert masked.shape == (4, 12, *shape)
    assert torch.equal(mask.scatter(visible, masked), x)
    assert torch.equal(masked[2], x[2][mask.to_bool()[2]])
    assert torch.equal(visible[2], x[2][~mask.to_bool()[2]])


def test_gradients_pass_through_scatter_and_gather() -> None:
    mask = random_mask(2, 8, 6)
    visible = torch.zeros(2, 2, 3, requires_grad=True)
    masked = torch.zeros(2, 6, 3, requires_grad=True)
    weight = torch.arange(48.0).reshape(2, 8, 3)
    (mask.scatter(visible, masked) * weight).sum().backward()
    assert visible.grad is not None
    assert masked.grad is not None
    assert torch.equal(visible.grad, mask.gather_visible(weight))
    assert torch.equal(masked.grad, mask.gather_masked(weight))


def test_to_moves_both_parts() -> None:
    moved = random_mask(2, 8, 6).to("meta")
    assert moved.masked.device.type == moved.visible.device.type == "meta"
    assert moved.num_patches == 8


def test_to_moves_what_is_thrown_and_blanked() -> None:
    whole = Mask.from_keys(torch.rand(2, 8), 4, 2)
    mask = Mask(whole.visible, whole.masked, whole.thrown, torch.tensor([[True, False], [False, True]]))
    moved = mask.to("meta")
    assert moved.thrown is not None
    assert moved.blanked is not None
    assert moved.thrown.device.type == moved.blanked.device.type == "meta"
    assert mask.to("cpu").blanked is not None


def test_thrown_patches_are_neither_seen_nor_reconstructed() -> None:
    keys = Noise.for_batch(seed=12, step=34, batch_size=40).bits(36)
    mask = Mask.from_keys(keys, 18, 9)
    assert mask.thrown is not None
    assert (mask.num_visible, mask.num_masked, mask.thrown.shape[1], mask.num_patches) == (9, 18, 9, 36)
    every = torch.cat([mask.visible, mask.masked, mask.thrown], dim=1).sort(dim=1).values
    assert torch.equal(every, torch.arange(36).expand(40, 36))
    for index in (mask.visible, mask.masked, mask.thrown):
        assert bool((index.diff(dim=1) > 0).all())
    assert torch.equal(mask.masked, Mask.from_keys(keys, 18).masked)
    assert float(keys.gather(1, mask.thrown).amin(dim=1).sub(keys.gather(1, mask.visible).amax(dim=1)).min()) > 0
