"""The model: any shape, what it sees, what it computes, how it starts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import Block

from curriculum import Mask, count_masked
from hpm.models.blocks import Blocks, LayerNorm, attend
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import patchify, sincos_positions, unpatchify


def build(**changes: object) -> MaskedAutoencoder:
    arguments = {
        "img_size": 24,
        "patch_size": 8,
        "in_chans": 2,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
        "loss_predictor_depth": 1,
    } | changes
    model = MaskedAutoencoder(**arguments)  # type: ignore[arg-type]
    model.init_weights(torch.Generator().manual_seed(0))
    return model


def random_mask(n: int, num_patches: int, ratio: float = 0.75, seed: int = 0) -> Mask:
    keys = torch.rand(n, num_patches, generator=torch.Generator().manual_seed(seed))
    return Mask.from_keys(keys, count_masked(num_patches, ratio))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    patch_size=st.sampled_from([1, 3, 4]),
    side=st.integers(2, 5),
    in_chans=st.integers(1, 4),
    depth=st.integers(1, 2),
    predictor=st.sampled_from([None, 0, 1, 2]),
)
def test_any_shape(patch_size: int, side: int, in_chans: int, depth: int, predictor: int | None) -> None:
    size = patch_size * side
    model = build(img_size=size, patch_size=patch_size, in_chans=in_chans, depth=depth, loss_predictor_depth=predictor)
    mask = random_mask(2, side * side, 0.5)
    output = model(torch.randn(2, in_chans, size, size), mask)
    assert output.reconstruction_NMP.shape == (2, mask.num_masked, patch_size**2 * in_chans)
    if predictor is None:
        assert output.predicted_loss_NM is None
        with pytest.raises(ValueError, match="loss_predictor_depth"):
            model.predict_loss(torch.randn(2, in_chans, size, size))
    else:
        assert output.predicted_loss_NM is not None
        assert output.predicted_loss_NM.shape == (2, mask.num_masked)
        assert model.predict_loss(torch.randn(2, in_chans, size, size)).shape == (2, side * side)


def test_the_student_sees_nothing_of_a_masked_patch() -> None:
    model = build()
    images, mask = torch.randn(3, 2, 24, 24), random_mask(3, 9)
    hidden = unpatchify(mask.to_bool().unsqueeze(-1).expand(-1, -1, 128).float(), 8, (3, 3))
    before = model(images, mask)
    after = model(images + 100 * hidden * torch.randn_like(images), mask)
    assert torch.equal(before.reconstruction_NMP, after.reconstruction_NMP)
    assert torch.equal(before.predicted_loss_NM, after.predicted_loss_NM)


def test_patches_are_embedded_as_by_the_convolution() -> None:
    encoder = build().encoder
    images = torch.randn(2, 2, 24, 24)
    expected = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
    torch.testing.assert_close(encoder._embed(images, None)[:, 1:], expected)


def test_attention_on_a_processor_is_computed_in_float32() -> None:
    q, k, v = torch.randn(3, 2, 2, 5, 8).bfloat16().unbind(0)
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(q, k, v), expected.bfloat16())
    assert torch.equal(attend(q.float(), k.float(), v.float()), expected)


def test_a_block_is_timms() -> None:
    ours = Blocks(1, 16, 2, 4.0, init_values=0.5)[0]
    theirs = Block(16, 2, 4.0, qkv_bias=True, norm_layer=LayerNorm, init_values=0.5)
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(2, 7, 16)
    assert torch.equal(ours(tokens), theirs(tokens))


@pytest.mark.parametrize("relative", [False, True])
def test_blocks_without_gradients_change_no_bit_and_no_input(relative: bool) -> None:
    torch.manual_seed(0)
    blocks, tokens = Blocks(2, 16, 2, 4.0, relative=relative), torch.randn(2, 7, 16)
    bias = (torch.randn(1, 2, 7, 7),) if relative else ()
    before, with_gradients = tokens.clone(), blocks(tokens, *bias)
    with torch.no_grad():
        assert torch.equal(blocks(tokens, *bias), with_gradients)
    assert torch.equal(tokens, before)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_blocks_leave_out_what_is_not_asked(depth: int, checkpointing: bool) -> None:
    """As if all tokens were computed and the first ones cut off, in the value and in every gradient."""
    torch.manual_seed(0)
    blocks = Blocks(depth, 16, 2, 4.0, init_values=0.5).double()
    blocks.grad_checkpointing = checkpointing
    tokens = torch.randn(2, 7, 16, dtype=torch.float64, requires_grad=True)
    inputs, wanted = [tokens, *blocks.parameters()], torch.randn(2, 3, 16, dtype=torch.float64)
    found, expected = blocks(tokens, first=4), blocks(tokens)[:, 4:]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad((out * wanted).sum(), inputs) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_each_path_runs_only_its_parts() -> None:
    model = build()
    ran: list[str] = []
    for name in ("encoder", "reconstructor", "loss_predictor"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: ran.append(name))
    model.predict_loss(torch.randn(1, 2, 24, 24))
    assert ran == ["encoder", "loss_predictor"]
    ran.clear()
    model.reconstruct(torch.randn(1, 2, 24, 24), random_mask(1, 9))
    assert ran == ["encoder", "reconstructor"]


def test_attention_is_what_the_last_block_computes() -> None:
    """Against the block's own attention, unfused, over all queries."""
    encoder = build().encoder.double()
    images = torch.randn(2, 2, 24, 24, dtype=torch.float64)
    tokens = encoder.blocks[0](encoder._embed(images, None))
    attention = encoder.blocks[1].attn
    qkv = attention.qkv(encoder.blocks[1].norm1(tokens)).reshape(2, 10, 3, 3, 8).permute(2, 0, 3, 1, 4)
    weights_NHTT = (qkv[0] @ qkv[1].transpose(-2, -1) / math.sqrt(8)).softmax(dim=-1)
    torch.testing.assert_close(encoder.attention(images), weights_NHTT[:, :, 0, 1:].float())


def test_initialization() -> None:
    model = build(img_size=32, patch_size=16, embed_dim=192, num_heads=3, decoder_embed_dim=128, in_chans=3)
    qkv = model.encoder.blocks[0].attn.qkv
    bound = math.sqrt(6 / (192 + 3 * 192))
    assert 0.95 * bound < qkv.weight.abs().max() <= bound
    assert not qkv.bias.any()
    proj = model.encoder.patch_embed.proj
    bound = math.sqrt(6 / (192 + 768))
    assert 0.95 * bound < proj.weight.abs().max() <= bound
    assert 0.01 < model.encoder.cls_token.std() < 0.03
    assert 0.01 < model.mask_token.std() < 0.03
    # The mean of 768 rows of a Xavier-uniform [768, 128] matrix.
    assert model.loss_predictor is not None
    expected = math.sqrt(6 / (768 + 128)) / math.sqrt(3) / math.sqrt(768)
    assert model.loss_predictor.head.weight.std().item() == pytest.approx(expected, rel=0.3)


def test_initialization_follows_the_generator() -> None:
    one, other = build(), build()
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[name])
    other.init_weights(torch.Generator().manual_seed(1))
    assert not torch.equal(one.mask_token, other.mask_token)


def test_patchify_order_and_inverse() -> None:
    images = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    patches = patchify(images, 2)
    assert patches.shape == (2, 6, 12)
    assert torch.equal(
        patches[0, 1],
        torch.stack([images[0, :, 0, 2], images[0, :, 0, 3], images[0, :, 1, 2], images[0, :, 1, 3]]).flatten(),
    )
    assert torch.equal(unpatchify(patches, 2, (2, 3)), images)


def test_positions() -> None:
    positions = sincos_positions(8, (2, 3))
    assert not positions[0].any()
    row, column = 1, 2
    expected = [
        f(x)
        for x in (column, row)
        for f in (math.sin, lambda a: math.sin(a / 100), math.cos, lambda a: math.cos(a / 100))
    ]
    torch.testing.assert_close(positions[1 + row * 3 + column], torch.tensor(expected))
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions(6, (2, 2))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch_size": 7}, "patch_size = 7 does not divide"),
        ({"embed_dim": 25}, "embed_dim = 25"),
        ({"decoder_embed_dim": 18}, "decoder_embed_dim = 18"),
        ({"depth": 0}, "depth = 0"),
        ({"loss_predictor_depth": -1}, "None for no loss predictor"),
    ],
)
def test_refuses(change: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        build(**change)


def test_a_loss_predictor_may_be_a_head_on_the_reconstructor() -> None:
    model, separate = build(loss_predictor_depth=0), build(loss_predictor_depth=1)
    assert model.shares_decoder
    assert not separate.shares_decoder
    assert not build(loss_predictor_depth=None).shares_decoder
    images, mask = torch.randn(3, 2, 24, 24), random_mask(3, 9)
    output = model(images, mask)
    torch.testing.assert_close(output.reconstruction_NMP, model.reconstruct(images, mask))
    assert output.predicted_loss_NM is not None
    output.predicted_loss_NM.sum().backward()
    assert model.reconstructor.blocks[0].attn.qkv.weight.grad is not None
    assert model.reconstructor.head.weight.grad is None
    seen: list[torch.Tensor] = []
    model.reconstructor.blocks.register_forward_hook(lambda module, given, result: seen.append(result))
    scores_NL = model.predict_loss(images)
    assert model.loss_predictor is not None
    torch.testing.assert_close(scores_NL, model.loss_predictor.predict(seen[0], 0).squeeze(-1))
