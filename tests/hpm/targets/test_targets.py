"""Targets: their values against other implementations, their losses' gradients, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from skimage.feature import hog
from torch import Tensor

from curriculum import Batch, Constant, Curriculum, FeatureNorm, HardestFirst, Mask, Noise, Ramp, SelfPaced, Uniform
from hpm.config import parse_config
from hpm.errors import UserError
from hpm.inference.loading import load
from hpm.methods.decay import HorizonDecay
from hpm.methods.loss_prediction import RelativeLoss
from hpm.methods.method import Method
from hpm.methods.teacher import EMATeacher
from hpm.models.masked_autoencoder import MaskedAutoencoder
from hpm.models.patches import patchify
from hpm.planning import plan
from hpm.runs.checkpoint import list_checkpoints
from hpm.runtime.last_call_cache import LastCallCache
from hpm.targets import HOG, NormalizedPixels, Pixels, Target, TeacherFeatures, TimmFeatures, WeightedTargets

TIMM = "vit_tiny_patch16_224"


def model(**changes: object) -> MaskedAutoencoder:
    arguments: dict = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 16,
        "depth": 1,
        "num_heads": 2,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
        "loss_predictor_depth": 1,
    }
    torch.manual_seed(0)
    return MaskedAutoencoder(**arguments | changes)


def some(count: int = 3, size: int = 32, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def drawn(count: int, patches: int, masked: int) -> Mask:
    return Mask.from_keys(torch.rand(count, patches, generator=torch.Generator().manual_seed(2)), masked)


def method(target: Target, **changes: object) -> Method:
    curriculum = Curriculum(
        scheduler=Constant(value=1.0), difficulty=Uniform(), sampler=HardestFirst(), mask_ratio=0.75
    )
    arguments: dict = {"model": model(), "curriculum": curriculum, "ema_decay": HorizonDecay()}
    return Method(target=target, **arguments | changes)


# HOG


@pytest.mark.parametrize(("cell", "orientations"), [(8, 9), (4, 6)])
def test_hog_is_that_of_scikit_image(cell: int, orientations: int) -> None:
    images = some().double()
    ours = HOG(cell=cell, orientations=orientations).histograms(images).unflatten(1, (3, orientations))
    for image in range(len(images)):
        for channel in range(3):
            theirs = hog(
                images[image, channel].numpy(),
                orientations=orientations,
                pixels_per_cell=(cell, cell),
                cells_per_block=(1, 1),
                block_norm="L2",
                feature_vector=False,
            )[:, :, 0, 0]
            torch.testing.assert_close(ours[image, channel].permute(1, 2, 0), torch.from_numpy(theirs))


def test_a_patch_has_the_histograms_of_its_own_cells() -> None:
    images, mask = some(), drawn(3, 16, 12)
    target = HOG(cell=4)(images, mask, 8)
    assert target.shape == (3, 12, HOG(cell=4).outputs(model())) == (3, 12, 4 * 9 * 3)
    alone = HOG(cell=4).histograms(images)  # [N, 27, 8, 8]
    for place in range(12):
        row, column = divmod(int(mask.masked[1, place]), 4)
        cells = alone[1, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(target[1, place].sort().values, cells.flatten().sort().values)


def test_hog_of_a_flat_image_and_of_one_edge() -> None:
    assert torch.equal(HOG().histograms(torch.ones(1, 1, 16, 16)), torch.zeros(1, 9, 2, 2))
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 4:] = 1.0
    cells = HOG().histograms(edge)[0]
    assert cells[0, :, 0].tolist() == pytest.approx([1, 1])  # a vertical edge: the gradient lies at 0 degrees
    assert cells[1:].abs().sum() == 0


# Features


def test_feature_losses_are_of_directions() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 5, 7), torch.randn(2, 5, 7)
    loss = TeacherFeatures().loss(prediction, target)
    expected = 2 - 2 * F.cosine_similarity(prediction, target, dim=-1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(TeacherFeatures().loss(3 * prediction, 0.1 * target), expected)
    torch.testing.assert_close(TeacherFeatures().loss(target, target), torch.zeros(2, 5))


def test_features_of_the_moving_average() -> None:
    built = method(TeacherFeatures())
    assert built.student.outputs == 16
    built.prepare(torch.device("cpu"), autocast=None, seed=0)
    images, mask = some(), drawn(3, 16, 12)
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
    built = method(TeacherFeatures(), curriculum=curriculum)
    built.prepare(torch.device("cpu"), autocast=None, seed=0)
    calls = counting(built.teacher.model.encoder)
    batch, noise = Batch(some(), 8), Noise.for_batch(seed=0, step=0, batch_size=3)
    first = built.losses(batch, 0.5, noise)
    assert len(calls) == 1
    again = built.losses(Batch(some(), 8), 0.5, noise)  # equal images, but others
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
    student = model(img_size=size)
    target = TimmFeatures(model=name, pretrained=False, img_size=None if size == seen or size == 40 else seen)
    width = target.outputs(student)
    target.load()
    target.prepare(torch.device("cpu"))
    images = some(size=size)
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


def test_a_frozen_network_sees_images_as_it_expects_them() -> None:
    target = TimmFeatures(model="vit_tiny_patch16_224.augreg_in21k", pretrained=False)  # mean and deviation 0.5
    target.outputs(model())
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
    built = method(TimmFeatures(model=TIMM, pretrained=False))
    built.target.load()
    built.prepare(torch.device("cpu"), autocast=None, seed=0)
    network = built.target._frozen._network  # type: ignore[attr-defined]
    calls, before = counting(network.patch_embed), torch.random.get_rng_state()
    losses = built.losses(Batch(some(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
    losses.total.backward()
    assert len(calls) == 1
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is not None for parameter in built.student.parameters())


def test_a_frozen_network_in_low_precision() -> None:
    target = TimmFeatures(model=TIMM, pretrained=False)
    target.outputs(model())
    target.prepare(torch.device("cpu"))
    exact = target.features(some(), None)
    target.prepare(torch.device("cpu"), autocast=torch.bfloat16)
    rough = target.features(some(), None)
    assert rough.dtype == torch.float32
    cosine = F.cosine_similarity(rough, exact, dim=2)
    assert 1e-7 < 1 - cosine.min() < 1e-3
    target.prepare(torch.device("cpu"))
    assert torch.equal(target.features(some(), None), exact)  # the weights are as they were


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "vit_tyni"}, "is no model of timm's, such as vit_"),
        ({"model": "local-dir:nowhere"}, "no folder with a config.json"),
        ({"model": TIMM, "checkpoint": __file__, "pretrained": False}, "choose one"),
        ({"model": TIMM, "img_size": 16}, "a map of 1 x 1 at 16 pixels, which cannot be mapped to the student's 4 x 4"),
        ({"model": TIMM, "img_size": 0}, "must be at least 1"),
        ({"model": "vit_tiny_patch16_224.nobody"}, "nobody"),
    ],
)
def test_networks_that_cannot_be_used(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        method(TimmFeatures(**arguments))


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
    target.outputs(model())
    target.load()
    for name, value in target._frozen._network.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(value, state[name]), name
    for name, words in (
        ("norms", "it has no norm.weight, nor 1 others"),
        ("biases", r"it has no blocks\.3\.attn\.qkv\.bias$"),
        ("block", r"it has no blocks\.3\.norm1\.weight, nor 11 others"),
        ("other", "size mismatch for norm.weight"),
        ("nowhere", "is no file"),
    ):
        target = TimmFeatures(model=TIMM, checkpoint=str(tmp_path / f"{name}.pth"))
        target.outputs(model())
        with pytest.raises(UserError, match=words) as raised:
            target.load()
        assert "TimmFeatures.checkpoint" in str(raised.value)
    assert "load_state_dict" not in vars(timm.models.VisionTransformer) or (
        timm.models.VisionTransformer.load_state_dict is torch.nn.Module.load_state_dict
    )


# Several at once


def test_weighted_targets() -> None:
    target = WeightedTargets(targets=[Pixels(), TeacherFeatures()], weights=[0.5, Ramp(start=0.0, end=2.0)])
    built = method(target)
    assert built.student.outputs == 8 * 8 * 3 + 16
    built.prepare(torch.device("cpu"), autocast=None, seed=0)
    images, mask = some(), drawn(3, 16, 12)
    wanted = target(images, mask, 8, built.teacher)
    torch.manual_seed(0)
    prediction = torch.randn_like(wanted)
    pixels, features = (
        part.loss(prediction[..., place], wanted[..., place])
        for part, place in ((Pixels(), slice(0, 192)), (TeacherFeatures(), slice(192, None)))
    )
    for progress, weight in ((0.25, 0.5), (1.0, 2.0)):
        target.advance(progress)
        torch.testing.assert_close(target.loss(prediction, wanted), 0.5 * pixels + weight * features)
    assert torch.equal(target.restore(prediction, images, mask, 8), prediction[..., :192])
    batch, noise = Batch(images, 8), Noise.for_batch(seed=0, step=0, batch_size=3)
    early, late = (built.losses(batch, progress, noise).total.item() for progress in (0.0, 1.0))
    assert early < late


def test_weights_move_without_recompiling() -> None:
    target = WeightedTargets(targets=[Pixels(), TeacherFeatures()], weights=[1.0, Ramp(start=0.0, end=2.0)])
    built = method(target)
    built.prepare(torch.device("cpu"), autocast=None, seed=0)
    batch, noise = Batch(some(), 8), Noise.for_batch(seed=0, step=0, batch_size=3)
    plain = [built.losses(batch, progress, noise).total.item() for progress in (0.0, 0.4, 1.0)]
    torch._dynamo.reset()
    built.compile(backend="eager")
    torch._dynamo.utils.counters.clear()
    compiled = [built.losses(batch, 0.0, noise).total.item()]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    compiled += [built.losses(batch, progress, noise).total.item() for progress in (0.4, 1.0)]
    assert compiled == pytest.approx(plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"targets": [Pixels()], "weights": [1.0]}, "two or more and as many"),
        ({"targets": [Pixels(), HOG()], "weights": [1.0]}, "two or more and as many"),
        ({"targets": [Pixels(), "HOG"], "weights": [1.0, 1.0]}, "must hold Targets"),
        ({"targets": [Pixels(), HOG()], "weights": [1.0, -1.0]}, "must not be negative"),
        ({"targets": [Pixels(), HOG()], "weights": [1.0, SelfPaced()]}, "SelfPaced follows what is learned"),
    ],
)
def test_weights_that_cannot_be(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WeightedTargets(**arguments)


# All of them

TARGETS: dict[str, Callable[[], Target]] = {
    "pixels": Pixels,
    "absolute": lambda: Pixels(error="absolute"),
    "normalized": NormalizedPixels,
    "hog": HOG,
    "teacher": TeacherFeatures,
    "timm": lambda: TimmFeatures(model=TIMM, pretrained=False),
    "weighted": lambda: WeightedTargets(targets=[HOG(), TeacherFeatures()], weights=[1.0, 0.3]),
}


@pytest.mark.parametrize("name", TARGETS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    built = method(TARGETS[name](), model=model(embed_dim=8, decoder_embed_dim=8), prediction_loss=RelativeLoss())
    built.target.load()
    built.prepare(torch.device("cpu"), autocast=None, seed=0)
    built.student.double()
    built.teacher = EMATeacher(built.student, built.target)
    images, mask = some(2).double(), drawn(2, 16, 12)
    target = built.target(images, mask, 8, built.teacher).double()
    parameter = built.student.reconstructor.head.weight

    def loss() -> Tensor:
        return built.target.loss(built.student(images, mask).reconstruction_NMP, target).mean()

    (gradient,) = torch.autograd.grad(loss(), parameter)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            values = []
            for step in (1e-6, -2e-6):
                parameter.add_(step * direction)
                values.append(loss())
            parameter.add_(1e-6 * direction)
        numeric = (values[0] - values[1]) / 2e-6
        torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_fits_the_head_and_sees_masked_patches_alone(name: str) -> None:
    built = method(TARGETS[name]())
    built.target.load()
    built.prepare(torch.device("cpu"), autocast=None, seed=0)
    images, mask = some(), drawn(3, 16, 12)
    target = built.target(images, mask, 8, built.teacher)
    assert target.shape == (3, 12, built.student.outputs)
    assert not target.requires_grad
    everything = Mask(visible=mask.visible[:, :0], masked=torch.arange(16).expand(3, 16))
    torch.testing.assert_close(mask.gather_masked(built.target(images, everything, 8, built.teacher)), target)


@pytest.mark.parametrize(
    "target", [TeacherFeatures(), WeightedTargets(targets=[Pixels(), TeacherFeatures()], weights=[1.0, 1.0])]
)
def test_a_student_alone_has_no_teacher_to_follow(target: Target) -> None:
    with pytest.raises(ValueError, match=r"Method\.ema_decay = None means that there is none"):
        method(target, ema_decay=None)


def test_cells_that_do_not_fill_a_patch() -> None:
    with pytest.raises(ValueError, match=r"HOG\.cell = 3 does not divide the model's patches of 8 pixels"):
        method(HOG(cell=3))


def test_an_unknown_error() -> None:
    with pytest.raises(ValueError, match=r"Pixels\.error = 'l1' is unknown; choose squared or absolute"):
        Pixels(error="l1")


def test_patches_and_pixels_of_absolute_errors() -> None:
    images, mask = some(), drawn(3, 16, 12)
    prediction = torch.zeros(3, 12, 192)
    expected = mask.gather_masked(patchify(images, 8)).abs().mean(dim=2)
    torch.testing.assert_close(Pixels(error="absolute").loss(prediction, Pixels()(images, mask, 8)), expected)


# Whole runs

RUNS = {
    "hog": ["Method.target = @HOG()", "HOG.cell = 2"],
    "teacher": ["Method.target = @TeacherFeatures()"],
    "timm": [
        "Method.target = @TimmFeatures()",
        f"TimmFeatures.model = '{TIMM}'",
        "TimmFeatures.pretrained = False",
        "TimmFeatures.img_size = 32",
    ],
    "weighted": [
        "Method.target = @WeightedTargets()",
        "WeightedTargets.targets = [@Pixels(), @TeacherFeatures()]",
        "WeightedTargets.weights = [1.0, @rise/Ramp()]",
        "rise/Ramp.end = 1.0",
    ],
}
SHORT = ["Schedule.epochs = 2", "HorizonDecay.fraction = 0.2", "Checkpointing.every = 10", "Monitoring.log_every = 10"]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_resumes_exactly_and_is_evaluated(
    name: str, tiny: Path, hpm: Callable[..., int], same_end: Callable[[Path], None]
) -> None:
    words = [word for text in (*SHORT, *RUNS[name]) for word in ("-b", text)]
    assert hpm("pretrain", tiny, *words, "--output", "run") == 0
    same_end(Path("run"))
    small = ["-b", "Agreement.images = 16", "-b", "Diagnostics.images = 16"]
    assert (
        hpm(
            "evaluate",
            "run",
            "--protocol",
            "agreement,diagnostics,localization",
            *small,
            "-b",
            "Localization.images = 16",
        )
        == 0
    )
    metrics = json.loads(Path("run/evaluation-agreement.json").read_text())[-1]["metrics"]
    assert -1 <= metrics["agreement/student"]["mean"] <= 1
    assert hpm("visualize", "run", "--count", "2") == 0
    assert hpm("visualize", "run", "--count", "2", "--strip") == 0


def test_an_exported_folder_with_weights_of_another_file(tiny: Path, hpm: Callable[..., int], tmp_path: Path) -> None:
    assert hpm("pretrain", tiny, *(w for b in SHORT for w in ("-b", b)), "--output", "run") == 0
    assert hpm("export", "run", "--out", "exported") == 0
    assert hpm("export", "run", "--out", "teacher.safetensors", "--format", "safetensors", "--weights", "teacher") == 0
    images, answers = some(size=16), []
    for checkpoint in (None, "teacher.safetensors"):
        target = TimmFeatures(model="local-dir:exported", checkpoint=checkpoint)
        target.outputs(model(img_size=16, patch_size=4))
        answers.append(target.features(images, None))
    context = load(Path("run")).context()
    with torch.no_grad():
        torch.testing.assert_close(answers[0], context.model.features(images))
        torch.testing.assert_close(answers[1], context.teacher.model.features(images))


def test_weights_of_another_target(tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    """All but the head are taken, also where the head would fit."""
    short = [word for text in SHORT for word in ("-b", text)]
    assert hpm("pretrain", tiny, *short, "--output", "pixels") == 0
    newest = list_checkpoints(Path("pixels/checkpoints"))[0]
    for name, told in (("teacher", True), ("weighted", True), ("absolute", False)):
        bindings = [
            *RUNS.get(name, ["Pixels.error = 'absolute'", "Method.target = @Pixels()"]),
            "MaskedAutoencoder.embed_dim = 48",
        ]
        if name != "teacher":
            bindings = bindings[:-1]
        words = [word for text in bindings for word in ("-b", text)]
        code = hpm("pretrain", tiny, *short, *words, "--init-from", newest, "--output", name)
        text = " ".join("".join(capsys.readouterr()).split())
        if name == "teacher":
            assert code == 2  # another width
            assert "does not fit this model" in text
            continue
        assert code == 0
        assert ("the head starts from initialization: it is of NormalizedPixels" in text) == told


def test_what_a_network_beside_the_student_takes(tiny: Path) -> None:
    bindings = [*RUNS["timm"], "Runtime.precision = 'fp32'"]
    made = plan.make(parse_config([str(tiny)], bindings))
    network = timm.create_model(TIMM, num_classes=0, img_size=32)
    assert made.memory["network of the target"] == 4 * sum(p.numel() for p in network.parameters())
    assert made.multiply_adds["target"] > 5 * 4 * 12 * 192**2 * 12 / 4


def test_a_hub_that_cannot_be_reached(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert (
        hpm(
            "pretrain",
            tiny,
            "-b",
            "Method.target = @TimmFeatures()",
            "-b",
            "TimmFeatures.img_size = 32",
            "-b",
            "TimmFeatures.model = 'vit_tiny_patch16_224.augreg_in21k'",
            "--output",
            "run",
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "cannot be loaded" in error
    assert "TimmFeatures.checkpoint" in error
    assert not Path("run").exists()


# In the student's pass, or before it


class Outside(NormalizedPixels):
    """As somebody wrote it who knows nothing of the pass."""

    in_pass = False


class Asking(NormalizedPixels):
    """Inherits that it may be in the pass, and needs a teacher all the same."""

    needs = ("features",)
    asked = False

    def __call__(self, images: Tensor, mask: Mask, patch_size: int, teacher: object = None) -> Tensor:
        self.asked = teacher is not None
        return super().__call__(images, mask, patch_size)


def test_where_a_target_is_computed_changes_no_bit() -> None:
    inside = NormalizedPixels()
    outside = Outside()
    asking = Asking()
    losses, gradients = [], []
    for target in (inside, outside, asking):
        trained = method(target)
        trained.prepare(torch.device("cpu"), autocast=None, seed=0)
        found = trained.losses(Batch(some(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
        found.total.backward()
        losses.append(found)
        gradients.append([parameter.grad for parameter in trained.student.parameters()])
    for other in (1, 2):
        assert torch.equal(losses[0].true_NM, losses[other].true_NM)
        assert torch.equal(losses[0].total, losses[other].total)
        assert all(torch.equal(*pair) for pair in zip(gradients[0], gradients[other], strict=True))
    assert asking.asked


@pytest.mark.parametrize("target", [NormalizedPixels(), Pixels(error="absolute"), Outside()])
def test_a_compiled_pass_computes_the_target_too(target: Target) -> None:
    torch._dynamo.reset()
    plain, compiled = (method(target) for _ in range(2))
    for trained in (plain, compiled):
        trained.prepare(torch.device("cpu"), autocast=None, seed=0)
    compiled.compile(backend="aot_eager")
    found = [
        trained.losses(Batch(some(), 8), 0.5, Noise.for_batch(seed=0, step=0, batch_size=3))
        for trained in (plain, compiled)
    ]
    torch.testing.assert_close(found[1].true_NM, found[0].true_NM)
    torch.testing.assert_close(found[1].total, found[0].total)


def test_standardized_as_variance_defines_it() -> None:
    images, mask = some().double(), drawn(3, 16, 12)
    pixels = mask.gather_masked(patchify(images, 8))
    expected = (pixels - pixels.mean(dim=-1, keepdim=True)) / (pixels.var(dim=-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(NormalizedPixels()(images, mask, 8), expected, rtol=1e-12, atol=1e-12)
    flat = torch.full((1, 3, 32, 32), 0.7)  # nothing but its mean
    assert NormalizedPixels()(flat, Mask.from_keys(torch.rand(1, 16), 12), 8).abs().max() < 1e-3
