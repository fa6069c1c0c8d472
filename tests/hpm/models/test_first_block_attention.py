"""What SMA asks a teacher: rows of the first block's attention, at the price of these rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from curriculum import Constant, Curriculum, HardestFirst, SampledAttention
from curriculum.testing import refuse_host_sync
from hpm.methods.decay import HorizonDecay
from hpm.methods.method import Method
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.targets import Pixels

SMALL = {"img_size": 32, "patch_size": 8, "in_chans": 3, "embed_dim": 32, "depth": 3, "num_heads": 4}


def build(*, relative: bool = False) -> ViT:
    """An encoder that attends to some patches more than to others."""
    torch.manual_seed(0)
    encoder = ViT(**SMALL, relative_positions=relative).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.normal_(std=0.3)
    return encoder


def maps_of_timm(encoder: ViT, images: Tensor) -> Tensor:
    """The first block's attention map [N, H, T, T] in timm's model of the same weights, whose kernel is not fused."""
    theirs, maps = encoder.timm_model().eval(), []
    first = theirs.blocks[0].attn  # type: ignore[union-attr, index]
    first.fused_attn = False
    first.attn_drop.register_forward_hook(lambda _, inputs, __: maps.append(inputs[0]))
    with torch.no_grad():
        theirs(images)
    return maps[0]


@pytest.mark.parametrize("relative", [False, True])
def test_rows_are_those_of_timm(relative: bool) -> None:
    encoder, images = build(relative=relative), torch.randn(3, 3, 32, 32)
    queries_NQ = torch.tensor([[0, 15, 7], [3, 2, 1], [8, 9, 14]])
    map_NTT = maps_of_timm(encoder, images).mean(dim=1)
    expected = torch.stack([map_NTT[image, 1 + queries].sum(dim=0)[1:] for image, queries in enumerate(queries_NQ)])
    with refuse_host_sync():
        found = encoder.sampled_attention(images, queries_NQ)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found.std(dim=1).min() > 0.01


def test_no_block_is_run() -> None:
    """The embedding of 16 patches, the projection of 17 tokens, and the products of 5 of them with all: no more."""
    encoder = build()
    with FlopCounterMode(display=False) as counter:
        encoder.sampled_attention(torch.randn(2, 3, 32, 32), torch.arange(5).expand(2, -1))
    embedding, projection, rows = 16 * (8 * 8 * 3) * 32, 17 * 32 * (3 * 32), 5 * 17 * 32
    assert counter.get_total_flops() == 2 * 2 * (embedding + projection + rows)


def test_an_encoder_with_windows_is_refused() -> None:
    swin = Swin(
        img_size=32, in_chans=3, patch_size=2, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=2
    )
    curriculum = Curriculum(scheduler=Constant(value=0.5), difficulty=SampledAttention(), sampler=HardestFirst())
    with pytest.raises(ValueError, match="needs the teacher's sampled_attention, but the first block of Swin does not"):
        Method(model=SimMIM(encoder=swin), curriculum=curriculum, target=Pixels(), ema_decay=HorizonDecay())
    with pytest.raises(ValueError, match="the first block of Swin does not let every patch attend to every other"):
        swin.sampled_attention(torch.randn(1, 3, 32, 32), torch.zeros(1, 1, dtype=torch.int64))
