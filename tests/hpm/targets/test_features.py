"""Features as targets: the moving average's, and those of networks of timm's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_models import random_mask, some_images, tiny_method, tiny_model
from torch import Tensor

from curriculum import Batch, Constant, Curriculum, FeatureNorm, HardestFirst, Noise
from hpm.errors import UserError
from hpm.runtime.last_call_cache import LastCallCache
from hpm.targets import TeacherFeatures, TimmFeatures

TIMM = "vit_tiny_patch16_224"


def test_feature_losses_are_of_directions() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    loss = TeacherFeatures().loss(prediction, target)
    expected = 2 - 2 * F.cosine_similarity(prediction, target, dim=-1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(TeacherFeatures().loss(3 * prediction, 0.1 * target), expected)
    torch.testing.assert_close(TeacherFeatures().loss(target, target), torch.zeros(2, 5))


def test_standardized_features_as_a_layer_norm_defines_them() -> None:
    prediction, target = torch.randn(2, 2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = TeacherFeatures(standardized=True).loss(prediction, target)
    for n in range(2):
        for m in range(5):
            sides = [
                [(value - values.mean()) / (values.var(unbiased=False) + 1e-6).sqrt() for value in values]
                for values in (prediction[n, m], target[n, m])
            ]
            expected = sum((a - b) ** 2 for a, b in zip(*sides, strict=True)) / 7
            torch.testing.assert_close(loss[n, m], expected)
    torch.testing.assert_close(
        TeacherFeatures(standardized=True).loss(3 * prediction + 1, target), loss, rtol=1e-4, atol=0
    )


def test_features_of_the_moving_average() -> None:
    built = tiny_method(TeacherFeatures())
    assert built.student.outputs == 16
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    images, mask = some_images(), random_mask(3, 16, 12)
    with torch.no_grad():
        built.student.encoder.cls_token.add_(1)  # the teacher is another now
        expected = mask.gather_masked(built.teacher.model.encoder(images)[:, 1:])
        assert torch.equal(built.target(images, mask, 8, built.teacher), expected)
        assert not torch.allclose(mask.gather_masked(built.student.encoder(images)[:, 1:]), expected)


def counting(module: torch.nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_target_and_difficulty_share_a_pass() -> None:
    curriculum = Curriculum(
        scheduler=Constant(value=1.0), difficulty=FeatureNorm(), sampler=HardestFirst(), mask_ratio=0.75
    )
    built = tiny_method(TeacherFeatures(), curriculum=curriculum)
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    calls = counting(built.teacher.model.encoder)
    batch, noise = Batch(some_images(), 8), Noise.for_batch(seed=0, step=0, batch_size=3)
    first = built.losses(batch, 0.5, noise)
    assert len(calls) == 1
    again = built.losses(Batch(some_images(), 8), 0.5, noise)  # equal images, but others
    assert len(calls) == 2
    assert torch.equal(first.true_NM, again.true_NM)
    with torch.no_grad():
        built.student.encoder.norm.bias.add_(1.0)
    built.teacher.update(built.student, 0.5)
    built.losses(batch, 0.5, noise)
    assert len(calls) == 3  # the average has moved


def test_what_is_remembered_is_forgotten() -> None:
    asked: list[Tensor] = []

    def double(x: Tensor) -> Tensor:
        asked.append(x)
        return 2 * x

    remember, question = LastCallCache(), torch.ones(2)
    assert remember(question, double) is remember(question, double)
    question.add_(1)
    assert remember(question, double).tolist() == [4, 4]
    remember(question, double, state=1)
    remember(torch.ones(2), double, state=1)
    remember.forget()
    remember(question, double, state=1)
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("size", "seen", "name"),
    [
        (32, 32, "vit_tiny_patch16_224"),
        (32, 64, TIMM),
        (40, 48, TIMM),
        (32, 64, "resnet18"),
        (56, 56, "swin_tiny_patch4_window7_224"),
    ],
)
def test_features_are_forward_features(size: int, seen: int, name: str) -> None:
    student = tiny_model(img_size=size)
    target = TimmFeatures(model=name, pretrained=False, img_size=None if size == seen or size == 40 else seen)
    width = target.outputs(student)
    target.load()
    target.prepare(torch.device("cpu"))
    images = some_images(size=size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sized = {"img_size": seen} if name != "resnet18" else {}
        network = timm.create_model(name, pretrained=False, num_classes=0, **sized).eval()
    shown = images if size == seen else F.interpolate(images, (seen, seen), mode="bicubic", antialias=True)
    with torch.no_grad():
        out = network.forward_features(shown)
    if name.startswith("swin"):
        out = out.permute(0, 3, 1, 2)
    if out.ndim == 3:
        out = out[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, (seen // 16, seen // 16))
    assert width == out.shape[1]
    if out.shape[2:] != student.grid:
        out = F.interpolate(out, student.grid, mode="bilinear", antialias=student.grid[0] < out.shape[2])
    torch.testing.assert_close(target.features(images, None), out.flatten(2).transpose(1, 2))


def test_images_smaller_than_the_students_are_seen_at_its_size_and_mapped_to_their_own_patches() -> None:
    target = TimmFeatures(model=TIMM, pretrained=False)
    target.outputs(tiny_model(img_size=32))
    target.load()
    target.prepare(torch.device("cpu"))
    images = some_images(size=24)
    network = target.network.network
    with torch.no_grad():
        out = network.forward_features(F.interpolate(images, (32, 32), mode="bicubic", antialias=True))
    out = out[:, network.num_prefix_tokens :].transpose(1, 2).unflatten(2, (2, 2))
    out = F.interpolate(out, (3, 3), mode="bilinear", antialias=False)
    torch.testing.assert_close(target.features(images, None), out.flatten(2).transpose(1, 2))


def test_a_frozen_network_sees_images_as_it_expects_them() -> None:
    target = TimmFeatures(model="vit_tiny_patch16_224.augreg_in21k", pretrained=False)  # mean and deviation 0.5
    target.outputs(tiny_model())
    target.load()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    target.prepare(torch.device("cpu"))
    expected = target.features((pixels - 0.5) / 0.5, None)
    target.prepare(torch.device("cpu"), mean=mean, std=std)
    shape = (1, 3, 1, 1)
    images = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    torch.testing.assert_close(target.features(images, None), expected, rtol=1e-4, atol=1e-4)


def test_a_frozen_network_runs_once_a_step_and_changes_nothing() -> None:
    built = tiny_method(TimmFeatures(model=TIMM, pretrained=False))
    built.target.load()
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    network = built.target.network.network  # type: ignore[attr-defined]
    calls, before = counting(network.patch_embed), torch.random.get_rng_state()
    losses = built.losses(Batch(some_images(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
    losses.total.backward()
    assert len(calls) == 1
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is not None for parameter in built.student.parameters())


def test_a_frozen_network_in_low_precision() -> None:
    target = TimmFeatures(model=TIMM, pretrained=False)
    target.outputs(tiny_model())
    target.prepare(torch.device("cpu"))
    exact = target.features(some_images(), None)
    target.prepare(torch.device("cpu"), autocast=torch.bfloat16)
    rough = target.features(some_images(), None)
    assert rough.dtype == torch.float32
    cosine = F.cosine_similarity(rough, exact, dim=2)
    assert 1e-7 < 1 - cosine.min() < 1e-3
    target.prepare(torch.device("cpu"))
    assert torch.equal(target.features(some_images(), None), exact)  # the weights are as they were


def test_weights_of_what_others_published(tmp_path: Path) -> None:
    """In Hugging Face's folder, or MAE's file with a decoder; a file that would fill the memory is refused."""
    torch.manual_seed(3)
    own = tiny_model(img_size=48, patch_size=16, embed_dim=192, depth=12, num_heads=3)
    torch.save({"model": own.state_dict()}, tmp_path / "mae.pth")
    (tmp_path / "folder").mkdir()
    save_file(own.encoder.state_dict(), tmp_path / "folder" / "model.safetensors")
    (tmp_path / "folder" / "config.json").write_text(
        json.dumps({"num_attention_heads": 3, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}})
    )
    shutil.copytree(tmp_path / "folder", tmp_path / "heads")
    (tmp_path / "heads" / "config.json").write_text('{"num_attention_heads": 6}')
    for name in ("mae.pth", "folder"):
        target = TimmFeatures(model=TIMM, checkpoint=str(tmp_path / name))
        target.outputs(tiny_model())
        target.load()
        found = target.network.network.state_dict()
        assert torch.equal(found["blocks.3.attn.qkv.weight"], own.encoder.state_dict()["blocks.3.attn.qkv.weight"])
        assert found["pos_embed"].shape == (1, 5, 192)  # interpolated from 3 x 3
    torch.save({"cls_token": torch.zeros(1).expand(1, 1, 10**10)}, tmp_path / "bomb.pth")
    (tmp_path / "empty").mkdir()
    assert (target.network.network.pretrained_cfg["mean"], target.network.network.pretrained_cfg["std"]) == (
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
    )
    faults = (
        ("bomb.pth", "would inflate to 40,000 MB"),
        ("empty", "empty is not a model, which is"),
        ("heads", "its weights are for 6 heads, and the model has 3"),
    )
    for name, words in faults:
        target = TimmFeatures(model=TIMM, checkpoint=str(tmp_path / name))
        target.outputs(tiny_model())
        with pytest.raises(UserError, match=rf"TimmFeatures\.checkpoint = .*{words}"):
            target.load()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "vit_tyni"}, "is not a model of timm's, such as vit_"),
        ({"model": "local-dir:nowhere"}, "not a folder with a config.json"),
        ({"model": TIMM, "checkpoint": __file__, "pretrained": False}, "choose one"),
        ({"model": TIMM, "img_size": 16}, "a map of 1 x 1 at 16 pixels, which cannot be mapped to the student's 4 x 4"),
        ({"model": TIMM, "img_size": 0}, "must be at least 1"),
        ({"model": "vit_tiny_patch16_224.nobody"}, "nobody"),
    ],
)
def test_networks_that_cannot_be_used(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_method(TimmFeatures(**arguments))


def test_weights_that_are_not_finite_are_refused_whoever_reads_them(tmp_path: Path) -> None:
    """In timm's layout, which timm reads; a head that is left out may hold anything."""
    torch.manual_seed(3)
    state = timm.create_model(TIMM, num_classes=5, img_size=32).state_dict()
    torch.save(state | {"head.bias": state["head.bias"] * torch.nan}, tmp_path / "head.pth")
    torch.save(state | {"norm.weight": state["norm.weight"] * torch.nan}, tmp_path / "broken.pth")
    torch.save({"state_dict_ema": state | {"cls_token": state["cls_token"] / 0}}, tmp_path / "average.pth")
    (tmp_path / "folder").mkdir()
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    save_file(body | {"norm.bias": body["norm.bias"] + torch.inf}, tmp_path / "folder" / "model.safetensors")
    images = {"input_size": [3, 32, 32], "fixed_input_size": True, "num_classes": 0}
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"architecture": TIMM, "pretrained_cfg": images}))
    for arguments, words in (
        ({"model": TIMM, "checkpoint": str(tmp_path / "broken.pth")}, r"checkpoint = .*norm\.weight is not finite"),
        ({"model": TIMM, "checkpoint": str(tmp_path / "average.pth")}, r"checkpoint = .*cls_token is not finite"),
        ({"model": f"local-dir:{tmp_path / 'folder'}", "img_size": 32}, r"model = .*norm\.bias is not finite"),
    ):
        target = TimmFeatures(**arguments)
        target.outputs(tiny_model())
        with pytest.raises(UserError, match=rf"TimmFeatures\.{words}"):
            target.load()
    target = TimmFeatures(model=TIMM, checkpoint=str(tmp_path / "head.pth"))
    target.outputs(tiny_model())
    target.load()


def test_an_archive_of_numpys_that_would_inflate_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(30_000_000, np.uint8))
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty.npz").touch()
    for name, words in (("bomb", "would inflate to 30 MB"), ("damaged", "fit"), ("empty", "fit"), ("nowhere", "fit")):
        target = TimmFeatures(model=TIMM, checkpoint=str(tmp_path / f"{name}.npz"))
        target.outputs(tiny_model())
        with pytest.raises(UserError, match=rf"TimmFeatures\.checkpoint = .*{name}.*{words}"):
            target.load()


def test_a_network_of_ones_own(tmp_path: Path) -> None:
    """A file of weights: taken whole or not at all."""
    torch.manual_seed(3)
    state = timm.create_model(TIMM, num_classes=5, img_size=32).state_dict()
    torch.save(state, tmp_path / "whole.pth")
    parts = {"norms": ("norm.",), "biases": ("blocks.3.attn.qkv.bias",), "block": ("blocks.3.",)}
    for name, left_out in parts.items():
        kept = {key: value for key, value in state.items() if not key.startswith(left_out)}
        torch.save(
            kept | {f"fc_{key}": value for key, value in state.items() if name == "norms" and key in left_out},
            tmp_path / f"{name}.pth",
        )
    torch.save(state | {"norm.weight": state["norm.weight"][:2]}, tmp_path / "other.pth")
    target = TimmFeatures(model=TIMM, checkpoint=str(tmp_path / "whole.pth"))
    target.outputs(tiny_model())
    target.load()
    for name, value in target.network.network.state_dict().items():
        assert torch.equal(value, state[name]), name
    for name, words in (
        ("norms", "it has no norm.weight, nor 1 others"),
        ("biases", r"it has no blocks\.3\.attn\.qkv\.bias$"),
        ("block", r"it has no blocks\.3\.norm1\.weight, nor 11 others"),
        ("other", "size mismatch for norm.weight"),
        ("nowhere", r"nowhere\.pth does not exist; a model is a run's folder"),
    ):
        target = TimmFeatures(model=TIMM, checkpoint=str(tmp_path / f"{name}.pth"))
        target.outputs(tiny_model())
        with pytest.raises(UserError, match=words) as raised:
            target.load()
        assert "TimmFeatures.checkpoint" in str(raised.value)
    assert "load_state_dict" not in vars(timm.models.VisionTransformer) or (
        timm.models.VisionTransformer.load_state_dict is torch.nn.Module.load_state_dict
    )
