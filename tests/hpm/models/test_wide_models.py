"""Models of images and patches that are not square: positions, timm's features, weights of other grids, targets."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from curriculum import Mask, Noise
from hpm.errors import Notice, UserError
from hpm.models.architecture import whole_architecture
from hpm.models.base import MaskedModel
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import patchify, resample_positions, sincos_positions, unpatchify
from hpm.models.pretrained import load_into
from hpm.models.published import load_published
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.targets import HOG, NormalizedPixels, Pixels, TimmFeatures

SIZE, PATCH = (16, 40), (4, 8)
SMALL: dict[str, Any] = {"embed_dim": 16, "depth": 1, "num_heads": 2}
DECODER: dict[str, Any] = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}


def model(**changes: Any) -> MaskedAutoencoder:
    return MaskedAutoencoder(**{"img_size": SIZE, "patch_size": PATCH, **SMALL, **DECODER, **changes})


def images() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def half(student: MaskedModel) -> Mask:
    bits_NL = Noise.for_batch(seed=0, step=0, batch_size=2).bits(student.num_patches)
    return Mask.from_keys(bits_NL, student.num_patches // 2, 0)


def load(into: MaskedAutoencoder, state: dict[str, Tensor], **said: Any) -> str:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Notice)
        load_into(into, state, Path("weights"), said=said)
    return "".join(str(notice.message) for notice in told)


def test_patches_are_cut_and_put_together() -> None:
    patches = patchify(images(), PATCH)
    assert patches.shape == (2, 20, 4 * 8 * 3)
    assert torch.equal(patches[0, 7].view(4, 8, 3).permute(2, 0, 1), images()[0, :, 4:8, 16:24])
    assert torch.equal(unpatchify(patches, PATCH, (4, 5)), images())


def test_positions_are_those_of_a_square_that_is_cut() -> None:
    """As MAE's are: the place in patches counts, not the share of the side."""
    square = sincos_positions(16, (5, 5))[1:].view(5, 5, 16)
    assert torch.equal(sincos_positions(16, (4, 5))[1:].view(4, 5, 16), square[:4])
    assert torch.equal(sincos_positions(16, (5, 2))[1:].view(5, 2, 16), square[:, :2])


@pytest.mark.parametrize(
    "student",
    [
        model(),
        SimMIM(encoder=ViT(img_size=SIZE, patch_size=PATCH, relative_positions=True, **SMALL)),
        SimMIM(
            encoder=Swin(img_size=SIZE, patch_size=2, embed_dim=8, depths=(1, 2, 1), num_heads=(1, 2, 2), window_size=3)
        ),
    ],
    ids=["sin-cos", "relative", "swin"],
)
def test_an_encoder_is_timms(student: MaskedModel) -> None:
    mask = half(student)
    output = student(images(), mask)
    assert output.reconstruction_NMP.shape == (2, mask.num_masked, student.patch_pixels)
    with torch.no_grad():
        theirs = student.encoder.timm_model(pool="avg").eval()(images())
        torch.testing.assert_close(theirs, student.eval().features(images()).mean(dim=1), rtol=1e-5, atol=1e-5)


def test_what_windows_and_cells_cannot_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Swin\.img_size = \(64, 80\) must be a multiple of 32"):
        Swin(img_size=(64, 80))
    with pytest.raises(ValueError, match=r"ViT\.patch_size = \(16, 12\) does not divide ViT\.img_size = \(64, 80\)"):
        ViT(img_size=(64, 80), patch_size=(16, 12))


def test_weights_of_another_grid_of_as_many_patches() -> None:
    """4 x 9 patches are as many as 6 x 6; positions that were learned are interpolated in either direction."""
    wide, square = model(img_size=(16, 72)), model(img_size=(24, 48))
    learned = torch.randn(1, 37, 16, generator=torch.Generator().manual_seed(0))
    state = wide.state_dict() | {"encoder.pos_embed": learned}
    assert "encoder.pos_embed interpolated for 6 x 6 patches, 4 x 9 there" in load(square, state, grid=(4, 9))
    expected = resample_positions(learned, (6, 6), (4, 9))
    assert torch.equal(square.encoder.pos_embed, expected)
    assert not torch.equal(expected, learned)
    assert torch.equal(square.decoder_pos_embed[0], sincos_positions(8, (6, 6)))
    assert load(model(img_size=(16, 72)), state, grid=(4, 9)) == ""
    told = load(model(img_size=(16, 72)), square.state_dict() | {"encoder.pos_embed": learned})
    assert "encoder.pos_embed interpolated for 4 x 9 patches, 6 x 6 there" in told, "a square, where nobody says else"


def test_our_own_positions_need_not_be_told_of() -> None:
    assert load(model(), model().state_dict()) == ""


def test_a_patch_that_is_turned_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"MaskedAutoencoder\.patch_size = \(4, 8\) would fit"):
        load(model(patch_size=(8, 4)), model().state_dict(), grid=(4, 5))


@pytest.mark.parametrize("where", ["timm", "hugging face", "nowhere"])
def test_published_files_say_their_grid(where: str, tmp_path: Path) -> None:
    """In the config.json beside them; else they are taken for a square's."""
    state = {name.removeprefix("encoder."): value for name, value in model().state_dict().items() if "encoder." in name}
    save_file(state, tmp_path / "model.safetensors")
    config = {"timm": {"model_args": {"img_size": SIZE}}, "hugging face": {"image_size": SIZE}, "nowhere": {}}[where]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = load_published(tmp_path)
    settings = whole_architecture(found.student, found.said)
    assert settings["patch_size"] == PATCH
    assert settings.get("img_size") == (None if where == "nowhere" else SIZE)
    larger = model(img_size=(32, 40))
    if where == "nowhere":
        with pytest.raises(UserError, match=r"is of no square grid, and no config\.json beside it says of which"):
            load(larger, found.student, **found.said)
    else:
        assert "computed for 8 x 5 patches, 4 x 5 there" in load(larger, found.student, **found.said)


@pytest.mark.parametrize("target", [Pixels(), NormalizedPixels(), HOG(cell=2), HOG(cell=4)])
def test_targets_of_wide_patches(target: Any) -> None:
    student = model()
    mask = half(student)
    assert target(images(), mask, PATCH).shape == (2, 10, target.outputs(student))
    restored = target.restore(target(images(), mask, PATCH), images(), mask, PATCH)
    if restored is not None:
        pixels = mask.gather_masked(patchify(images(), PATCH))
        torch.testing.assert_close(restored, pixels, rtol=1e-4, atol=1e-4)


def test_histograms_of_a_wide_patch_are_those_of_its_cells() -> None:
    hog, mask = HOG(cell=4), half(model())
    cells_NBRK = hog.histograms(images())
    expected = mask.gather_masked(patchify(cells_NBRK, (1, 2)))
    assert torch.equal(hog(images(), mask, PATCH), expected)
    with pytest.raises(ValueError, match=r"HOG\.cell = 8 does not divide the model's patches of 4 x 8 pixels"):
        HOG(cell=8).outputs(model())


def test_features_of_a_frozen_network() -> None:
    target, student = TimmFeatures(model="vit_tiny_patch16_224", img_size=(32, 64), pretrained=False), model()
    assert target.outputs(student) == 192
    assert (target.network.img_size, target.network.grid) == ((32, 64), (2, 4))
    assert target.features(images(), None).shape == (2, 20, 192)
    with pytest.raises(ValueError, match=r"gives a map of 1 x 3 at 16 x 48 pixels, .* student's 4 x 5 patches"):
        TimmFeatures(model="vit_tiny_patch16_224", pretrained=False).outputs(student)


@pytest.mark.parametrize("grid", [(4, 5), (8, 3), (3, 3)])
def test_interpolated_positions_are_timms(grid: tuple[int, int]) -> None:
    positions = torch.randn(1, 17, 8, generator=torch.Generator().manual_seed(0))
    theirs = resample_abs_pos_embed(positions, list(grid), [2, 8])
    assert torch.equal(resample_positions(positions, grid, (2, 8)), theirs)
