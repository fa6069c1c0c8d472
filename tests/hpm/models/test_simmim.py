"""SimMIM with a ViT and with a Swin: what the encoder sees, and that timm has the same encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer_relpos import VisionTransformerRelPos
from torch import Tensor

from curriculum import Attention, Constant, Curriculum, HardestFirst, Mask
from hpm.evaluation.classifier import classifier
from hpm.evaluation.features import pooled
from hpm.evaluation.low_shot import layer_groups
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.base import MaskedModel
from hpm.models.encoder import Encoder
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.targets import Pixels

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "vit": lambda: ViT(img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2),
    "relative": lambda: ViT(
        img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, relative_positions=True, init_values=0.1
    ),
    "swin": lambda: Swin(img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4),
}


def build(name: str, depth: int | None = 0) -> SimMIM:
    model = SimMIM(encoder=ENCODERS[name](), loss_predictor_depth=depth)
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def some(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def drawn(masked: int = 10, thrown: int = 0) -> Mask:
    return Mask.from_keys(torch.rand(3, 16, generator=torch.Generator().manual_seed(2)), masked, thrown)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("depth", [None, 0, 1])
def test_what_comes_out(name: str, depth: int | None) -> None:
    model, mask = build(name, depth), drawn()
    output = model(some(), mask)
    assert output.reconstruction_NMP.shape == (3, 10, 4 * 4 * 3)
    assert torch.equal(model.reconstruct(some(), mask), output.reconstruction_NMP)
    assert model.features(some()).shape == (3, 16, 16)
    if depth is None:
        assert output.predicted_loss_NM is None
        assert "SimMIM.loss_predictor_depth is None" in str(model.unsupported_reason("predicted_loss"))
    else:
        assert output.predicted_loss_NM is not None
        assert output.predicted_loss_NM.shape == (3, 10)
        assert model.predict_loss(some()).shape == (3, 16)
        assert model.unsupported_reason("predicted_loss") is None


@pytest.mark.parametrize("name", ENCODERS)
def test_hidden_pixels_are_not_seen_and_others_are(name: str) -> None:
    """Thrown and blanked ones are hidden too. The mask token alone stands for them."""
    model, images = build(name), some()
    mask = replace(drawn(8, 3), blanked=torch.tensor([[True, False, True, False, False]] * 3))
    before = model(images, mask).reconstruction_NMP
    size = model.patch_size
    hidden = (
        model.encoder.hidden(mask, mask.num_patches)
        .view(3, 1, 4, 4)
        .repeat_interleave(size, 2)
        .repeat_interleave(size, 3)
    )
    assert hidden.float().mean() == pytest.approx(13 / 16)
    other = torch.where(hidden, torch.full_like(images, 7.0), images)
    torch.testing.assert_close(model(other, mask).reconstruction_NMP, before, rtol=0, atol=0)
    assert not torch.allclose(model(torch.where(hidden, images, images + 1), mask).reconstruction_NMP, before)
    with torch.no_grad():
        model.mask_token.add_(1.0)
    assert not torch.allclose(model(images, mask).reconstruction_NMP, before)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_head_reads_the_token_of_its_patch(name: str) -> None:
    model, mask = build(name), drawn()
    tokens = model.encoder(some(), mask, model.mask_token, in_place=True)[:, model.encoder.num_prefix_tokens :]
    place = torch.arange(3).unsqueeze(1)
    expected = model.head(tokens[place, mask.masked])
    torch.testing.assert_close(model(some(), mask).reconstruction_NMP, expected)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_parameter_learns_and_starts_from_the_seed(name: str) -> None:
    model = build(name)
    output = model(some(), drawn())
    assert output.predicted_loss_NM is not None
    (output.reconstruction_NMP.square().mean() + output.predicted_loss_NM.square().mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    again = SimMIM(encoder=ENCODERS[name]())
    again.init_weights(torch.Generator().manual_seed(0))
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    weights = torch.cat([p.flatten() for n, p in model.named_parameters() if n.endswith("qkv.weight")])
    assert 0.015 < weights.std() < 0.02  # 0.02, cut at two deviations
    assert weights.abs().max() <= 0.04


@pytest.mark.parametrize("name", ENCODERS)
def test_timm_has_the_same_encoder(name: str) -> None:
    model, images = build(name).eval(), some()
    for pool in ["mean"] if name == "swin" else ["mean", "token"]:
        theirs = model.encoder.timm_model(pool={"mean": "avg", "token": "token"}[pool]).eval()
        with torch.no_grad():
            torch.testing.assert_close(theirs(images), pooled(model.encoder, images, pool))
    kind = {"vit": timm.models.VisionTransformer, "relative": VisionTransformerRelPos, "swin": SwinTransformer}[name]
    assert type(theirs) is kind
    vit = classifier(model, 7, pool="mean", drop_path=0.1)
    assert vit(images).shape == (3, 7)
    assert vit(images).abs().max() == 0  # it starts with a head of zeros


def test_attention_with_relative_positions_is_that_of_timm() -> None:
    model, images = build("relative").eval(), some()
    assert isinstance(model.encoder, ViT)
    assert model.encoder.shared_rel_pos is not None
    with torch.no_grad():
        model.encoder.shared_rel_pos.relative_position_bias_table.normal_()
        theirs = model.encoder.timm_model()
        last, maps = theirs.blocks[-1].attn, []
        last.fused_attn = False
        last.attn_drop.register_forward_hook(lambda _, inputs, __: maps.append(inputs[0]))
        theirs.eval()(images)
        torch.testing.assert_close(model.attention(images), maps[0][:, :, 0, 1:])


def test_a_swin_of_published_size() -> None:
    with torch.device("meta"):
        swin = Swin()
        assert swin.patch_size == 32
        assert swin.grid == (6, 6)
        assert swin(torch.empty(2, 3, 192, 192)).shape == (2, 36, 1024)
    reference = timm.create_model("swin_base_patch4_window7_224", num_classes=0, img_size=192, window_size=6)
    assert sum(p.numel() for p in swin.parameters()) == sum(p.numel() for p in reference.parameters())
    assert {name: value.shape for name, value in swin.state_dict().items()} == {
        name: value.shape for name, value in reference.state_dict().items()
    }


def test_layers_of_a_swin_have_their_own_rates() -> None:
    swin = classifier(build("swin"), 7, pool="mean")
    groups = layer_groups(swin, lr=1.0, layer_decay=0.5, weight_decay=0.05)
    rate = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    found = {name: rate[id(p)] for name, p in swin.named_parameters()}
    assert len(found) == len(list(swin.parameters()))
    assert found["head.fc.weight"] == (1.0, 0.05)
    assert found["norm.weight"] == (1.0, 0.0)
    assert found["layers.1.blocks.1.mlp.fc1.weight"] == (0.5, 0.05)
    assert found["layers.1.downsample.reduction.weight"] == found["layers.1.blocks.0.mlp.fc1.weight"] == (0.25, 0.05)
    assert found["layers.0.blocks.0.attn.relative_position_bias_table"] == (0.5**4, 0.0)
    assert found["patch_embed.proj.weight"] == (0.5**5, 0.05)


@pytest.mark.parametrize("name", ENCODERS)
def test_checkpointing_changes_nothing(name: str) -> None:
    model = build(name, 1)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(some(), drawn()).reconstruction_NMP.square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(*gradients)
    assert len(model.blocks()) == (5 if name == "swin" else 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SimMIM(encoder="vit"), r"SimMIM\.encoder must be an Encoder, @ViT\(\) or @Swin\(\)"),
        (lambda: SimMIM(encoder=ENCODERS["vit"](), loss_predictor_depth=-1), r"SimMIM\.loss_predictor_depth = -1"),
        (lambda: Swin(img_size=48), r"Swin\.img_size = 48 must be a multiple of 32"),
        (lambda: Swin(depths=(2, 2)), "must be of as many stages"),
        (lambda: Swin(embed_dim=10), "the width of stage 0, 10 .* must be a multiple of its 4 heads"),
        (lambda: Swin(depths=(2, 0, 2, 2)), r"Swin\.depths\[1\] = 0 must be at least 1"),
        (lambda: ViT(img_size=20), r"ViT\.patch_size = 16 does not divide ViT\.img_size = 20"),
        (lambda: ViT(mlp_ratio=0.0), r"ViT\.mlp_ratio = 0\.0 must be positive"),
        (lambda: ViT(depth=0), r"ViT\.depth = 0 must be at least 1"),
        (lambda: Swin(window_size=0), r"Swin\.window_size = 0 must be at least 1"),
        (lambda: Swin(embed_dim=2**20), r"Swin\.embed_dim = 1048576 in 24 blocks of mlp_ratio = 4\.0 makes"),
        (lambda: Swin(img_size=2**20), r"Swin\.img_size = 1048576, .* make images of 3\.3e\+12 values"),
        (lambda: ViT(embed_dim=20), r"ViT\.embed_dim = 20 must be a multiple of 4 and of its 12 heads"),
    ],
)
def test_what_cannot_be_built(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def method(model: MaskedModel, difficulty: object) -> Method:
    curriculum = Curriculum(scheduler=Constant(value=0.5), difficulty=difficulty, sampler=HardestFirst())  # type: ignore[arg-type]
    return Method(model=model, curriculum=curriculum, target=Pixels(), ema_decay=HorizonDecay())


def test_a_curriculum_that_needs_a_class_token() -> None:
    method(build("vit"), Attention())
    with pytest.raises(ValueError, match="Swin has no class token whose attention could be looked at"):
        method(build("swin"), Attention())
    with pytest.raises(ValueError, match="Swin has no class token whose attention could be looked at"):
        build("swin").attention(some())
    assert build("vit").unsupported_reason("attention") is None
    assert "Swin has no class token" in str(build("swin").unsupported_reason("attention"))


def test_models_of_two_frameworks_have_one_interface() -> None:
    mae = MaskedAutoencoder(
        img_size=16,
        patch_size=4,
        embed_dim=16,
        depth=1,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
        loss_predictor_depth=1,
    )
    for model in (mae, build("vit"), build("swin")):
        assert (model.img_size, model.patch_size, model.in_chans, model.grid) == (16, 4, 3, (4, 4))
        assert model.outputs == model.patch_pixels == 48
        model.set_outputs(7)
        assert model(some(), drawn()).reconstruction_NMP.shape == (3, 10, 7)
