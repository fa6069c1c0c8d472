"""Weights of each layout that others publish: the features are those of the layout's own forward pass."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from hpm.errors import Notice, UserError
from hpm.models.architecture import standard_heads, whole_architecture
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.pretrained import load_into
from hpm.models.published import load_published
from hpm.models.simmim import SimMIM
from hpm.models.vit import ViT

WIDTH, HEADS, SIDE, PATCH = 32, 2, 32, 8
IMAGES = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def loaded_from(path: Path, **changes: Any) -> tuple[MaskedAutoencoder, str]:
    """A model of the sizes that a file tells, with its weights, and what a notice tells."""
    found = load_published(path)
    model = MaskedAutoencoder(**whole_architecture(found.student, found.said) | changes)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", Notice)
        load_into(model, found.student, found.path, said=found.said)
    return model.eval(), "; ".join(str(notice.message) for notice in told)


def vit(**options: Any) -> Any:
    """timm's ViT, whose positions, norms and biases are not as at the start."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224",
        **{"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS} | options,
    )
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return model.eval()


def hugging_face(state: dict[str, Tensor], prefix: str = "vit.") -> dict[str, Tensor]:
    """timm's names and fused projections -> those of Hugging Face's ViTMAE."""
    renamed = {
        f"{prefix}embeddings.cls_token": state["cls_token"],
        f"{prefix}embeddings.position_embeddings": state["pos_embed"],
    }
    for kind in ("weight", "bias"):
        renamed[f"{prefix}embeddings.patch_embeddings.projection.{kind}"] = state[f"patch_embed.proj.{kind}"]
        renamed[f"{prefix}layernorm.{kind}"] = state[f"norm.{kind}"]
        for block in range(2):
            layer, own = f"{prefix}encoder.layer.{block}", f"blocks.{block}"
            parts = state[f"{own}.attn.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                renamed[f"{layer}.attention.attention.{name}.{kind}"] = part.clone()
            for theirs, ours in (
                ("attention.output.dense", "attn.proj"),
                ("intermediate.dense", "mlp.fc1"),
                ("output.dense", "mlp.fc2"),
                ("layernorm_before", "norm1"),
                ("layernorm_after", "norm2"),
            ):
                renamed[f"{layer}.{theirs}.{kind}"] = state[f"{own}.{ours}.{kind}"]
    return renamed


def hugging_face_features(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The forward pass of Hugging Face's ViTMAE without masks: query, key and value apart."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (WIDTH,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-6)

    embeddings = "vit.embeddings"
    projection = f"{embeddings}.patch_embeddings.projection"
    x = F.conv2d(images, state[f"{projection}.weight"], state[f"{projection}.bias"], stride=PATCH)
    x = torch.cat([state[f"{embeddings}.cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    x = x + state[f"{embeddings}.position_embeddings"]
    for block in range(2):
        layer = f"vit.encoder.layer.{block}"
        normed = norm(x, f"{layer}.layernorm_before")
        q, k, v = (
            linear(normed, f"{layer}.attention.attention.{name}").unflatten(2, (HEADS, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        weights = (q @ k.transpose(2, 3) / (WIDTH / HEADS) ** 0.5).softmax(dim=3)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{layer}.attention.output.dense")
        hidden = F.gelu(linear(norm(x, f"{layer}.layernorm_after"), f"{layer}.intermediate.dense"))
        x = x + linear(hidden, f"{layer}.output.dense")
    return norm(x, "vit.layernorm")


def folder_of(path: Path, state: dict[str, Tensor], config: dict[str, Any]) -> Path:
    path.mkdir()
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


HF_CONFIG = {"model_type": "vit_mae", "hidden_size": WIDTH, "num_attention_heads": HEADS, "image_size": SIDE}


@torch.no_grad()
@pytest.mark.parametrize("named", ["folder", "model.safetensors"])
def test_hugging_face(named: str, tmp_path: Path) -> None:
    state = hugging_face(vit().state_dict())
    folder = folder_of(tmp_path / "hf", state, HF_CONFIG)
    model, _ = loaded_from(folder if named == "folder" else folder / named)
    assert (model.img_size, model.patch_size, model.encoder.num_heads) == (SIDE, PATCH, HEADS)
    torch.testing.assert_close(model.encoder(IMAGES), hugging_face_features(state, IMAGES), rtol=1e-5, atol=1e-5)


def test_hugging_face_with_its_decoder_and_without_prefix(tmp_path: Path) -> None:
    original = MaskedAutoencoder(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=2,
        num_heads=HEADS,
        decoder_embed_dim=16,
        decoder_depth=2,
        decoder_num_heads=4,
        loss_predictor_depth=None,
    )
    own = original.state_dict()
    state = hugging_face({name.removeprefix("encoder."): value for name, value in own.items()})
    decoder = {name.replace("reconstructor.", ""): v for name, v in own.items() if name.startswith("reconstructor.")}
    decoder |= {"cls_token": own["mask_token"], "pos_embed": own["decoder_pos_embed"]}
    decoder |= {f"patch_embed.proj.{kind}": own[f"decoder_embed.{kind}"] for kind in ("weight", "bias")}
    for name, value in hugging_face(decoder, prefix="").items():
        ours = name.replace("encoder.layer", "decoder_layers").replace("layernorm.", "decoder_norm.")
        ours = ours.replace("embeddings.cls_token", "mask_token")
        ours = ours.replace("embeddings.position_embeddings", "decoder_pos_embed")
        state["decoder." + ours.replace("embeddings.patch_embeddings.projection", "decoder_embed")] = value
    state |= {f"decoder.decoder_pred.{kind}": decoder[f"head.{kind}"] for kind in ("weight", "bias")}
    config = HF_CONFIG | {"decoder_num_attention_heads": 4}
    model, told = loaded_from(folder_of(tmp_path / "hf", state, config))
    assert told == ""
    assert model.state_dict().keys() == own.keys()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert model.reconstructor.blocks[0].attn.num_heads == 4
    bare = {name.removeprefix("vit."): value for name, value in state.items() if name.startswith("vit.")}
    encoder, _ = loaded_from(folder_of(tmp_path / "bare", bare, HF_CONFIG))
    assert torch.equal(encoder.encoder(IMAGES), original.encoder(IMAGES))


@torch.no_grad()
@pytest.mark.parametrize("side", [SIDE, 48, 24])
@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"no_embed_class": True}], ids=str)
def test_timm_with_learned_positions(options: dict[str, Any], side: int, tmp_path: Path) -> None:
    """At another size too, as timm itself interpolates."""
    original = vit(**options)
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": HEADS}}
    folder = folder_of(tmp_path / "timm", original.state_dict(), config)
    model, told = loaded_from(folder, img_size=side)
    assert "left out: 2 head.*" in told
    assert ("encoder.pos_embed interpolated" in told) == (side != SIDE)
    images = F.interpolate(IMAGES, (side, side))
    original.set_input_size((side, side))
    torch.testing.assert_close(model.encoder(images), original.forward_features(images), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("side", [SIDE, 48])
@pytest.mark.parametrize("decoder", [False, True])
def test_pixios_class_tokens_lie_in_one_parameter(side: int, decoder: bool, tmp_path: Path) -> None:
    """Its positions are learned, those of class tokens too, and are interpolated for another grid."""
    original = vit(reg_tokens=7, num_classes=0)
    state = original.state_dict()
    state["cls_token"] = torch.cat([state["cls_token"], state.pop("reg_token")], dim=1)
    assert state["cls_token"].shape == (1, 8, WIDTH)
    if decoder:
        student = MaskedAutoencoder(
            img_size=SIDE,
            patch_size=PATCH,
            embed_dim=WIDTH,
            depth=1,
            num_heads=HEADS,
            decoder_embed_dim=WIDTH,
            decoder_depth=1,
            loss_predictor_depth=None,
            class_tokens=8,
        )
        student.decoder_pos_embed += torch.randn(student.decoder_pos_embed.shape)
        state |= {
            name.replace("reconstructor.", "decoder_").replace("decoder_head", "decoder_pred"): value
            for name, value in student.state_dict().items()
            if not name.startswith("encoder.")
        }
    torch.save({"model": state, "epoch": 399}, tmp_path / "pixio.pth")
    model, told = loaded_from(tmp_path / "pixio.pth", num_heads=HEADS, img_size=side)
    assert model.encoder.num_prefix_tokens == 8
    assert ("interpolated for 6 x 6 patches, 4 x 4 there" in told) == (side != SIDE)
    original.set_input_size((side, side))
    images = F.interpolate(IMAGES, (side, side))
    torch.testing.assert_close(model.encoder(images), original.forward_features(images), rtol=1e-5, atol=1e-5)
    if decoder and side == SIDE:
        assert torch.equal(model.decoder_pos_embed, student.decoder_pos_embed)


@torch.no_grad()
def test_mae_fine_tuned_and_linearly_probed(tmp_path: Path) -> None:
    """A fine-tuned network normalizes the mean of its tokens, so its last norm is not the encoder's."""
    original = vit(global_pool="avg", fc_norm=True, num_classes=10)
    torch.save({"model": original.state_dict(), "epoch": 99}, tmp_path / "finetuned.pth")
    model, told = loaded_from(tmp_path / "finetuned.pth", num_heads=HEADS)
    assert "left out: 2 fc_norm.*, 2 head.*; as initialized: 2 decoder_embed.*, 2 encoder.norm.*, 1 mask_token" in told
    expected = F.layer_norm(original.forward_features(IMAGES), (WIDTH,), eps=1e-6)
    torch.testing.assert_close(model.encoder(IMAGES), expected, rtol=1e-5, atol=1e-5)

    probed = vit(num_classes=10)
    probed.head = nn.Sequential(nn.BatchNorm1d(WIDTH, affine=False), probed.head)
    torch.save({"model": probed.state_dict()}, tmp_path / "probed.pth")
    model, told = loaded_from(tmp_path / "probed.pth", num_heads=HEADS)
    assert "left out: 5 head.*;" in told
    torch.testing.assert_close(model.encoder(IMAGES), probed.forward_features(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("width", "heads"), [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16)])
def test_heads_of_the_usual_widths(width: int, heads: int) -> None:
    assert standard_heads(width) == heads


def test_heads_by_the_name_of_a_timm_model(tmp_path: Path) -> None:
    config = {"architecture": "vit_medium_patch16_gap_256", "num_classes": 10}
    state = vit(num_classes=0).state_dict()
    assert load_published(folder_of(tmp_path / "timm", state, config)).said["num_heads"] == 8


def test_a_bias_that_was_lost_is_not_made_up(tmp_path: Path) -> None:
    state = vit().state_dict()
    del state["blocks.1.attn.qkv.bias"]
    with pytest.raises(UserError, match=r"encoder\.blocks\.1\.attn\.qkv\.bias \[96\] is missing"):
        loaded_from(folder_of(tmp_path / "timm", state, {}))


def test_another_kind_of_model_takes_the_encoder() -> None:
    sizes: dict[str, Any] = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 1, "num_heads": HEADS}
    masked = MaskedAutoencoder(**sizes, decoder_embed_dim=WIDTH, decoder_depth=1, decoder_num_heads=HEADS)
    simmim = SimMIM(encoder=ViT(**sizes))
    with pytest.warns(Notice, match=r"left out: 2 decoder_embed\.\*, .* 1 mask_token, .* as initialized: 2 head\.\*"):
        load_into(simmim, masked.state_dict(), Path("mae.pth"))
    assert torch.equal(simmim.encoder(IMAGES), masked.encoder(IMAGES))
    relative = SimMIM(encoder=ViT(**sizes, relative_positions=True))
    with pytest.raises(UserError, match=r"encoder\.pos_embed \[1, 17, 32\] has no place in this model$"):
        load_into(relative, masked.state_dict(), Path("mae.pth"))


def test_other_heads_than_the_file_says_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf", hugging_face(vit().state_dict()), HF_CONFIG)
    with pytest.raises(UserError, match=r"num_heads is 2, in this model 4; MaskedAutoencoder\.num_heads = 2 would fit"):
        loaded_from(folder, num_heads=4)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("{", r"config\.json cannot be read"),
        ("[]", r"config\.json holds a list"),
        ('{"hidden_act": "quick_gelu"}', r"hidden_act = 'quick_gelu'"),
        ('{"hidden_size": 768}', r"hidden_size = 768, and these weights are 32 wide"),
        ('{"hidden_size": "32"}', r"hidden_size = '32', and these weights are 32 wide"),
    ],
)
def test_what_is_wrong_with_a_config(config: str, told: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf", hugging_face(vit().state_dict()), {})
    (folder / "config.json").write_text(config)
    with pytest.raises(UserError, match=told):
        load_published(folder)


def test_an_image_size_of_height_and_width(tmp_path: Path) -> None:
    config = HF_CONFIG | {"image_size": {"height": 2 * SIDE, "width": SIDE // 2}}
    (rows, columns) = load_published(folder_of(tmp_path / "hf", hugging_face(vit().state_dict()), config)).said["grid"]
    assert rows == 4 * columns


@pytest.mark.parametrize(
    "odd",
    [
        {"model_args": 3},
        {"pretrained_cfg": []},
        {"num_attention_heads": "two"},
        {"num_attention_heads": 10**30, "image_size": 10**30},
        {"pretrained_cfg": {"mean": [10**400], "std": [10**400]}},
    ],
    ids=["arguments", "images", "heads", "many heads", "large means"],
)
def test_settings_of_another_kind_are_not_read(odd: dict[str, Any], tmp_path: Path) -> None:
    assert load_published(folder_of(tmp_path / "hf", hugging_face(vit().state_dict()), odd)).said == {}


def test_weights_in_parts_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "hf", {}, HF_CONFIG)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"there is no model\.safetensors beside it"):
        load_published(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="its weights are in several parts"):
        load_published(folder)


def deflated(path: Path) -> None:
    """A file of torch's with 50 MB of zeros, compressed."""
    torch.save({"cls_token": torch.zeros(1, 1, 4)}, path.with_suffix(".small"))
    with (
        zipfile.ZipFile(path.with_suffix(".small")) as small,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as large,
    ):
        for member in small.infolist():
            zeros = member.filename.endswith("data/0")
            large.writestr(member.filename, bytes(50_000_000) if zeros else small.read(member))


def test_a_bit_that_has_flipped(tmp_path: Path) -> None:
    """Torch reads such a file without a word, though it has written a checksum."""
    path = tmp_path / "weights.pth"
    for checksums in (True, False):
        torch.serialization.set_crc32_options(checksums)
        torch.save({"model": vit().state_dict()}, path)
        torch.serialization.set_crc32_options(True)
        load_published(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
        if checksums:
            with pytest.raises(UserError, match="does not match its checksum"):
                load_published(path)
        else:
            load_published(path)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("deflated", r"bomb\.pth of 0\.\d MB would inflate to 50 MB, and was not read"),
        ("repeated", r"bomb\.pth of 0\.0 MB would inflate to 40,000 MB"),
        ("sparse", "cls_token is not a plain tensor"),
        ("nested", "cls_token is not a plain tensor"),
        ("meta", "cls_token is not a plain tensor"),
        ("bytearray", "holds more than weights: a bytearray"),
        ("old bytearray", "holds more than weights: a bytearray"),
    ],
)
def test_files_that_would_fill_the_memory(kind: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    content: dict[str, Any] = {
        "repeated": torch.zeros(1).expand(10**10),
        "sparse": torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (10**12,)),
        "meta": torch.zeros(10, device="meta"),
        "nested": torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    }
    if kind == "deflated":
        deflated(path)
    elif kind.endswith("bytearray"):
        new = kind == "bytearray"
        torch.save({"more": bytearray(10)}, path, _use_new_zipfile_serialization=new)
    else:
        torch.save({"cls_token": content[kind]}, path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(UserError, match=told):
            load_published(path)
    assert warned == []
