"""Real files in each published layout: the same predictions after loading, and every misfit refused by name."""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from curriculum import Mask
from hpm.errors import Notice, UserError
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import sincos_positions
from hpm.models.pretrained import load_into
from hpm.models.published import load_published

VECTORS = Path(__file__).parents[2] / "parity" / "hpm_tiny.safetensors"
PREDICTOR = "decoder_blocks_losspred", "decoder_norm_losspred", "decoder_pred_losspred"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    with safe_open(VECTORS, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


@pytest.fixture
def weights(vectors: dict[str, Tensor]) -> dict[str, Tensor]:
    """In the published key layout."""
    prefix = "state_dict."
    return {key.removeprefix(prefix): value.clone() for key, value in vectors.items() if key.startswith(prefix)}


def model(**changes: Any) -> MaskedAutoencoder:
    """Of the vectors' shape, at an initialization of its own."""
    with safe_open(VECTORS, "pt") as file:
        saved = file.metadata()
    names = (
        "img_size",
        "patch_size",
        "in_chans",
        "embed_dim",
        "depth",
        "num_heads",
        "decoder_embed_dim",
        "decoder_depth",
        "decoder_num_heads",
    )
    shape: dict[str, Any] = {name: int(saved[name]) for name in names}
    shape |= {"loss_predictor_depth": shape["decoder_depth"], "mlp_ratio": float(saved["mlp_ratio"])}
    return MaskedAutoencoder(**shape | changes)


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def load(loaded: MaskedAutoencoder, path: Path) -> str:
    """Load a file; what a notice tells."""
    found = load_published(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Notice)
        load_into(loaded, found.student, found.path, said=found.said)
    assert len(told) <= 1
    return "".join(str(notice.message) for notice in told)


def check_predictions(loaded: MaskedAutoencoder, vectors: dict[str, Tensor]) -> None:
    output = loaded(vectors["input.images"], Mask.from_bool(vectors["input.mask"].bool()))
    close = {"rtol": 1e-4, "atol": 1e-5}
    expected = vectors["student.pixel_prediction_masked"]
    torch.testing.assert_close(output.reconstruction_NMP.reshape(expected.shape), expected, **close)
    if output.predicted_loss_NM is not None:
        expected = vectors["student.loss_prediction_masked"]
        torch.testing.assert_close(output.predicted_loss_NM.reshape(expected.shape), expected, **close)


def layouts(weights: dict[str, Tensor]) -> dict[str, Any]:
    wrapped = {f"module.{key}": value for key, value in weights.items()}
    options = argparse.Namespace(model="mae_vit_base_patch16", betas=(0.9, 0.95), resume=None)
    return {
        "hpm": {"model": "mae_vit_base_patch16", "state_dict": wrapped, "ema_state_dict": weights, "epoch": 199},
        "mae": {"model": weights, "optimizer": {"state": {}}, "scaler": {"scale": 1.0}, "epoch": 3, "args": options},
        "plain": weights,
        "compiled": {f"_orig_mod.{key}": value for key, value in wrapped.items()},
    }


@pytest.mark.parametrize("layout", ["hpm", "mae", "plain", "compiled"])
def test_predictions_are_the_originals(
    layout: str, weights: dict[str, Tensor], vectors: dict[str, Tensor], tmp_path: Path
) -> None:
    loaded = model()
    assert load(loaded, save(layouts(weights)[layout], tmp_path / "weights.pth")) == ""
    check_predictions(loaded, vectors)


def test_safetensors(weights: dict[str, Tensor], vectors: dict[str, Tensor], tmp_path: Path) -> None:
    loaded = model()
    save_file(weights, tmp_path / "weights.safetensors")
    load(loaded, tmp_path / "weights.safetensors")
    check_predictions(loaded, vectors)


def test_our_own_state_dict(vectors: dict[str, Tensor], tmp_path: Path) -> None:
    original, loaded = model(), model()
    load(loaded, save(original.state_dict(), tmp_path / "weights.pth"))
    assert all(torch.equal(a, b) for a, b in zip(original.parameters(), loaded.parameters(), strict=True))


def test_hpm_holds_a_teacher(weights: dict[str, Tensor], tmp_path: Path) -> None:
    content = layouts(weights)["hpm"]
    content["ema_state_dict"] = {f"module.{key}": value + 1 for key, value in weights.items()}
    file = load_published(save(content, tmp_path / "weights.pth"))
    assert file.layout == "HPM's checkpoint"
    assert file.teacher is not None
    assert file.student.keys() == file.teacher.keys() == model().state_dict().keys()
    torch.testing.assert_close(file.teacher["mask_token"], file.student["mask_token"] + 1)
    content["ema_state_dict"] = None
    assert load_published(save(content, tmp_path / "weights.pth")).teacher is None


def test_an_mae_without_loss_predictor(weights: dict[str, Tensor], vectors: dict[str, Tensor], tmp_path: Path) -> None:
    path = save({"model": {k: v for k, v in weights.items() if not k.startswith(PREDICTOR)}}, tmp_path / "mae.pth")
    plain = model(loss_predictor_depth=None)
    assert load(plain, path) == ""
    check_predictions(plain, vectors)
    hpm = model()
    before = {name: value.clone() for name, value in hpm.loss_predictor.named_parameters()}  # type: ignore[union-attr]
    assert load(hpm, path) == f"{path}: as initialized: 28 loss_predictor.*"
    assert all(
        torch.equal(before[name], value)
        for name, value in hpm.loss_predictor.named_parameters()  # type: ignore[union-attr]
    )


def test_an_encoder_alone(weights: dict[str, Tensor], vectors: dict[str, Tensor], tmp_path: Path) -> None:
    """As MAE releases them and as timm stores them, with a classifier's head."""
    encoder = {key: value for key, value in weights.items() if "decoder" not in key and key != "mask_token"}
    encoder |= {"head.weight": torch.zeros(10, encoder["cls_token"].shape[2]), "head.bias": torch.zeros(10)}
    save_file(encoder, tmp_path / "encoder.safetensors")
    loaded = model()
    told = load(loaded, tmp_path / "encoder.safetensors")
    assert "left out: 2 head.*; as initialized: 2 decoder_embed.*, 28 loss_predictor.*, 1 mask_token" in told
    latent = loaded.encoder(vectors["input.images"], Mask.from_bool(vectors["input.mask"].bool()))
    torch.testing.assert_close(latent, vectors["student.latent"], rtol=1e-4, atol=1e-5)


def test_a_timm_encoder(tmp_path: Path) -> None:
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=0)
    same = MaskedAutoencoder(img_size=64, embed_dim=192, depth=2, num_heads=3, decoder_depth=1, loss_predictor_depth=1)
    vit.pos_embed.data = same.encoder.pos_embed.clone()
    for norm in (module for module in vit.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = 1e-6
    load(same, save(vit.state_dict(), tmp_path / "vit.pth"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(same.encoder(images), vit.eval().forward_features(images), rtol=1e-4, atol=1e-5)


def test_sincos_positions_of_another_grid_are_computed(weights: dict[str, Tensor], tmp_path: Path) -> None:
    larger = model(img_size=64)
    told = load(larger, save(weights, tmp_path / "weights.pth"))
    assert "encoder.pos_embed computed for 8 x 8 patches, 4 x 4 there" in told
    width = weights["pos_embed"].shape[2]
    assert torch.equal(larger.encoder.pos_embed[0], sincos_positions(width, larger.grid))


def test_learned_positions_are_interpolated(weights: dict[str, Tensor], tmp_path: Path) -> None:
    learned = torch.randn(weights["pos_embed"].shape, generator=torch.Generator().manual_seed(0)) * 0.02
    path = save(weights | {"pos_embed": learned}, tmp_path / "weights.pth")
    same, larger = model(), model(img_size=64)
    assert load(same, path) == ""
    assert torch.equal(same.encoder.pos_embed, learned)
    assert "encoder.pos_embed interpolated for 8 x 8 patches, 4 x 4 there" in load(larger, path)
    assert torch.equal(larger.encoder.pos_embed, resample_abs_pos_embed(learned, [8, 8]))
    larger.init_weights()
    assert torch.equal(larger.encoder.pos_embed[0], sincos_positions(learned.shape[2], (8, 8))), "as before training"


def test_a_grid_that_is_not_square_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["pos_embed"] = torch.zeros(1, 1 + 12, weights["pos_embed"].shape[2])
    with pytest.raises(UserError, match=r"encoder\.pos_embed \[1, 13, 48\] is of no square grid"):
        load(model(), save(weights, tmp_path / "weights.pth"))


@pytest.mark.parametrize(
    ("changes", "parameter", "binding"),
    [
        ({"embed_dim": 24}, "encoder.cls_token is", "MaskedAutoencoder.embed_dim = 48 would fit"),
        ({"depth": 5}, "is missing", "MaskedAutoencoder.depth = 2 would fit"),
        ({"depth": 1}, "encoder.blocks.1.", "MaskedAutoencoder.depth = 2 would fit"),
        ({"patch_size": 16}, "encoder.patch_embed.proj.weight is", "MaskedAutoencoder.patch_size = 8 would fit"),
        ({"in_chans": 1}, "encoder.patch_embed.proj.weight is", "MaskedAutoencoder.in_chans = 3 would fit"),
        ({"decoder_embed_dim": 8}, "mask_token is", "MaskedAutoencoder.decoder_embed_dim = 32 would fit"),
        ({"decoder_depth": 3}, "reconstructor.blocks.2.", "MaskedAutoencoder.decoder_depth = 2 would fit"),
        ({"mlp_ratio": 1.0}, "mlp.fc1.weight is", "MaskedAutoencoder.mlp_ratio = 4.0 would fit"),
        ({"loss_predictor_depth": 1}, "loss_predictor.", "MaskedAutoencoder.loss_predictor_depth = 2 would fit"),
    ],
    ids=str,
)
def test_a_misfit_names_the_binding_that_would_be_right(
    changes: dict[str, Any], parameter: str, binding: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    wrong = model(**changes)
    before = {name: value.clone() for name, value in wrong.state_dict().items()}
    with pytest.raises(UserError) as error:
        load(wrong, save(weights, tmp_path / "weights.pth"))
    message = str(error.value)
    assert parameter in message
    assert binding in message
    assert "weights.pth" in message
    assert all(torch.equal(before[name], value) for name, value in wrong.state_dict().items()), "something was loaded"


def test_what_is_left_over_or_missing_is_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gate \[2\] has no place in this model$"):
        load(model(), save(weights | {"gate": torch.zeros(2)}, tmp_path / "weights.pth"))
    del weights["blocks.0.attn.proj.bias"]
    with pytest.raises(UserError, match=r"encoder\.blocks\.0\.attn\.proj\.bias .* is missing"):
        load(model(), save(weights, tmp_path / "weights.pth"))
    decoder = {key: value for key, value in weights.items() if key.startswith("decoder")}
    with pytest.raises(UserError, match="holds no encoder"):
        load(model(), save(decoder, tmp_path / "weights.pth"))


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_pickle_is_refused_and_not_run(weights: dict[str, Tensor], tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = save({"model": weights, "args": Malicious(trap)}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=r"evil\.pth holds more than weights: .*mkdir.* refused"):
        load_published(path)
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap works where files are trusted"


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_damaged_files(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_published(tmp_path / name)


def test_a_file_cut_short(weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(weights, tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match="is damaged"):
        load_published(path)


def test_what_is_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no file"):
        load_published(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="holds a list"):
        load_published(save([1, 2], tmp_path / "list.pth"))
    with pytest.raises(UserError, match="'epoch' is of type int, and no tensor"):
        load_published(save({"epoch": 3}, tmp_path / "dict.pth"))
