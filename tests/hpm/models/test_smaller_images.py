"""Images smaller than those that a model is made for: it computes what a model made for them would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tiny_models import random_mask, some_images, tiny_model
from torch import Tensor

from curriculum import Mask
from curriculum.sizes import Size, pair
from hpm.models.base import MaskedModel
from hpm.models.cross_mae import CrossMAE
from hpm.models.patches import first_positions, sincos_positions
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT

WHOLE: Size = (40, 32)
SMALL: Size = (24, 16)
ROWS, COLUMNS = 3, 2


def vit(img_size: Size, **settings: object) -> ViT:
    arguments: dict = {"patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return ViT(img_size=img_size, **arguments | settings)


def cross_mae(img_size: Size) -> CrossMAE:
    return CrossMAE(
        encoder=vit(img_size), decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2, loss_predictor_depth=0
    )


MODELS: dict[str, Callable[[Size], MaskedModel]] = {
    "MaskedAutoencoder": lambda size: tiny_model(img_size=size),
    "blanks": lambda size: tiny_model(img_size=size, blank_token=True, loss_predictor_depth=0),
    "class tokens": lambda size: tiny_model(img_size=size, class_tokens=3),
    "CrossMAE": cross_mae,
    "SimMIM": lambda size: SimMIM(encoder=vit(size), loss_predictor_depth=1),
    "relative": lambda size: SimMIM(encoder=vit(size, relative_positions=True), loss_predictor_depth=1),
}


def of_offsets(table_KH: Tensor, whole: tuple[int, int], small: tuple[int, int]) -> Tensor:
    """The biases of a smaller grid's table: those of the same distances, entry by entry."""
    rows = []
    for down in range(1 - small[0], small[0]):
        for right in range(1 - small[1], small[1]):
            rows.append(table_KH[(down + whole[0] - 1) * (2 * whole[1] - 1) + right + whole[1] - 1])
    return torch.stack([*rows, *table_KH[-3:]])


def pair_of(name: str) -> tuple[MaskedModel, MaskedModel]:
    """A model of whole images, and one of the same weights that is made for small ones."""
    whole, small = MODELS[name](WHOLE), MODELS[name](SMALL)
    whole.init_weights(torch.Generator().manual_seed(3))
    state = {key: value for key, value in whole.state_dict().items() if "pos_embed" not in key}
    table = "encoder.shared_rel_pos.relative_position_bias_table"
    if table in state:
        state[table] = of_offsets(state[table], whole.grid, small.grid)
    missing = small.load_state_dict(state, strict=False).missing_keys
    assert all("pos_embed" in key for key in missing)
    return whole.eval(), small.eval()


def small_images() -> Tensor:
    return some_images(4, 24)[..., :16].contiguous()


def small_mask(*, blanks: bool = False) -> Mask:
    drawn = random_mask(4, ROWS * COLUMNS, 3)
    blanked = torch.zeros(4, 3, dtype=torch.bool)
    blanked[:, 1] = True
    return Mask(drawn.visible, drawn.masked, blanked=blanked if blanks else None)


@pytest.mark.parametrize("name", MODELS)
def test_a_pass_is_that_of_a_model_made_for_small_images(name: str) -> None:
    whole, small = pair_of(name)
    images, mask = small_images(), small_mask(blanks=name == "blanks")
    for one, other in (
        (whole(images, mask), small(images, mask)),
        ((whole.predict_loss(images),), (small.predict_loss(images),)),
        ((whole.predict_loss(images, mask),), (small.predict_loss(images, mask),)),
        ((whole.reconstruct(images, mask),), (small.reconstruct(images, mask),)),
        ((whole.features(images),), (small.features(images),)),
        ((whole.attention(images),), (small.attention(images),)),
        ((whole.sampled_attention(images, mask.masked),), (small.sampled_attention(images, mask.masked),)),
    ):
        for mine, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_its_gradients_too(name: str) -> None:
    whole, small = pair_of(name)
    images, mask = small_images(), small_mask(blanks=name == "blanks")
    for model in (whole, small):
        model(images, mask).reconstruction_NMP.square().mean().backward()
    for key, parameter in small.named_parameters():
        mine = whole.get_parameter(key).grad
        if parameter.grad is None:
            assert mine is None
        elif "relative_position_bias_table" in key:
            assert mine is not None
            torch.testing.assert_close(of_offsets(mine, whole.grid, small.grid), parameter.grad, rtol=0, atol=1e-6)
            assert (mine != 0).sum() <= parameter.grad.numel()  # distances that no pair lies at have none
        else:
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-4, atol=1e-6)


def test_first_positions_are_those_that_are_computed() -> None:
    whole = sincos_positions(16, (5, 7), num_prefix_tokens=2).unsqueeze(0)
    for grid in ((1, 1), (3, 7), (5, 2), (4, 6), (5, 7)):
        found = first_positions(whole, grid, (5, 7), num_prefix_tokens=2)
        assert torch.equal(found[0], sincos_positions(16, grid, num_prefix_tokens=2))


@pytest.mark.parametrize("name", MODELS)
def test_a_view_of_smaller_images_counts_as_a_model_made_for_them(name: str) -> None:
    whole, small = pair_of(name)
    view = whole.at_size(SMALL)
    assert (view.img_size, view.grid, view.num_patches) == (SMALL, (ROWS, COLUMNS), 6)
    assert view.block_sizes(3, 1) == small.block_sizes(3, 1)
    assert view.kept_beside_blocks(3, 1) == small.kept_beside_blocks(3, 1)
    counts = {"masked": 3, "thrown": 1}
    assert view.macs_published_code_adds(**counts) == small.macs_published_code_adds(**counts)
    assert whole.img_size == WHOLE  # which is left as it is
    assert next(view.parameters()) is next(whole.parameters())


def test_a_swin_takes_images_of_one_size() -> None:
    encoder = Swin(img_size=64, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)
    with pytest.raises(ValueError, match="Swin takes images of one size alone, 64 pixels"):
        SimMIM(encoder=encoder).at_size(32)
    assert pair(encoder.img_size) == (64, 64)
