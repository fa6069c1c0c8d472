"""Every shipped recipe parses, is planned, says what it is, and binds nothing that is not used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from curriculum import Noise
from hpm.config import configs_folder, parse_config, resume_changes
from hpm.planning.plan import make_plan
from hpm.planning.settings import read_settings

FOLDER = configs_folder() / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*_*.gin"))
NAME = re.compile(r"(mae|hpm)_vit_(tiny|small|base|large|huge)_(\d+)")
WIDTHS = {"tiny": 5.5e6, "small": 22e6, "base": 86e6, "large": 303e6, "huge": 630e6}  # parameters of the encoders


def test_the_matrix_is_complete() -> None:
    names = {path.stem for path in RECIPES}
    for method in ("mae", "hpm"):
        for size in ("base", "large", "huge"):
            assert {f"{method}_vit_{size}_{epochs}" for epochs in (200, 800, 1600)} <= names
        for size in ("tiny", "small"):
            assert {f"{method}_vit_{size}_{epochs}" for epochs in (100, 200)} <= names


def model_and_epochs(path: Path) -> tuple[str, int]:
    model, _, epochs = path.stem.rpartition("_")
    return model, int(epochs)


NAMED = sorted((path for path in RECIPES if NAME.fullmatch(path.stem)), key=model_and_epochs)
SHORTEST = {model_and_epochs(path)[0]: path for path in reversed(NAMED)}  # of each model; longer ones overwritten


@pytest.mark.parametrize("path", SHORTEST.values(), ids=lambda path: path.stem)
def test_a_recipe_is_planned(path: Path) -> None:
    found = NAME.fullmatch(path.stem)
    assert found
    method, size, epochs = found.groups()
    made = make_plan(parse_config([f"recipes/{path.stem}"]), gpus=8)
    assert made.epochs == int(epochs)
    small = size in ("tiny", "small")
    assert made.batch_size == (1024 if small else 4096 if method == "mae" else 2048)
    assert made.parameters["encoder"] == pytest.approx(WIDTHS[size], rel=0.02)
    if method == "mae":
        assert made.parameters["loss predictor"] == made.parameters["teacher"] == made.teacher_share == 0
        assert made.relative_cost == 1
    else:
        assert made.parameters["teacher"] == sum(made.parameters.values()) / 2
        assert made.teacher_share > 0.95


@pytest.mark.parametrize("path", [path for path in NAMED if path not in SHORTEST.values()], ids=lambda path: path.stem)
def test_a_longer_recipe_is_the_shortest_but_for_its_length(path: Path) -> None:
    """So it costs as many steps more as it has epochs more."""
    model, epochs = model_and_epochs(path)
    shortest, longer = (parse_config([f"recipes/{name}"]).text() for name in (SHORTEST[model].stem, path.stem))
    changes, rounding = resume_changes(shortest, longer)
    warmup = [f"Schedule.warmup_epochs: 20 -> {epochs // 5}"] if epochs == 200 else []
    assert changes == [f"Schedule.epochs: {model_and_epochs(SHORTEST[model])[1]} -> {epochs}", *warmup]
    assert not rounding


# Parameters of encoder and head, batch, and operations of the average step relative to a step without predictor,
# teacher and the target's network: of what is neither plain MAE nor plain HPM.
OTHERS = {
    "simmim_vit_base_800": (85.7e6, 768 * (768 + 1), 2048, 1.0),
    "simmim_swin_base_100": (86.7e6, 3072 * (1024 + 1), 2048, 1.0),
    "hpm_simmim_vit_base_100": (85.7e6, 768 * (768 + 1), 2048, 1.33),
    "hpm_simmim_swin_base_100": (86.7e6, 3072 * (1024 + 1), 2048, 1.30),
    "maskfeat_vit_base_300": (85.7e6, 108 * (768 + 1), 2048, 1.0),
    "cross_mae_vit_base_800": (85.6e6, 768 * (512 + 1), 4096, 1.0),
    "conmim_vit_base_800": (85.7e6, 768 * (768 + 1), 2048, 1 + 17.56 / (3 * 17.65)),
    "ibot_vit_base_400": (
        85.65e6,
        2048 * (768 + 1) + 2048 * (2048 + 1) + 256 * (2048 + 1) + 8192 * 256,
        1024,
        1 + 19.21 / (3 * 18.05),
    ),
    "capi_vit_large_6400": (302.9e6, 16384 * 1024, 16384, 1 + 94.52 / (3 * 36.48)),
    "bootmae_vit_base_800": (85.65e6, 768 * (512 + 1), 4096, 1 + 17.56 / (3 * 9.16)),
    "hpm_probes_vit_base_800": (85.7e6, 768 * (512 + 1), 2048, 1.39),
    "hpm_probes_vit_large_800": (303.1e6, 768 * (512 + 1), 2048, 1.53),
    "hpm_dense_vit_base_800": (85.7e6, 768 * (512 + 1), 2048, 2.33 + 0.25 * (17.64 + 3 * 5.27) / (3 * 9.55)),
    "hpm_dense_vit_large_800": (303.1e6, 768 * (512 + 1), 2048, 2.33 + 0.25 * (61.66 + 3 * 5.27) / (3 * 20.49)),
    "hpm_memory_vit_base_800": (85.7e6, 768 * (512 + 1), 4096, 1.0),
    "hpm_memory_vit_large_800": (303.1e6, 768 * (512 + 1), 4096, 1.0),
    "pixio_vit_base_400": (85.65e6, 768 * (512 + 1), 8192, 1.0),
    "pixio_vit_huge_400": (630.7e6, 768 * (512 + 1), 8192, 1.0),
    "hpm_dino_vit_base_200": (85.7e6, 768 * (512 + 1), 2048, 2.33 + 17.56 / (3 * 9.67)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_recipe_of_another_framework_or_target_is_planned(name: str) -> None:
    encoder, head, batch_size, relative_cost = OTHERS[name]
    config = parse_config([f"recipes/{name}"])
    made = make_plan(config, gpus=8)
    assert (made.epochs, made.batch_size) == (int(name.split("_")[-1]), batch_size)
    assert made.parameters["encoder"] == pytest.approx(encoder, rel=0.002)
    assert made.relative_cost == pytest.approx(relative_cost, rel=0.01)
    student = read_settings(config).method.student
    reconstruction = student.reconstructor.head if hasattr(student, "reconstructor") else student.head
    assert sum(p.numel() for p in reconstruction.parameters()) == head


def test_bootmae_is_as_its_published_code_says() -> None:
    settings = read_settings(parse_config(["recipes/bootmae_vit_base_800"]))
    method, schedule = settings.method, settings.schedule
    assert (schedule.lr, schedule.min_lr, schedule.warmup_epochs) == (pytest.approx(2.4e-3), 1e-4, 40)
    assert [len(decoder.blocks) for decoder in method.student.decoders] == [2, 2]
    assert [decoder.head.in_features for decoder in method.student.decoders] == [512, 768]
    assert method.student.feature_predictor.head.out_features == 768
    _, features = method.target.weights
    assert [features(progress) for progress in (0.0, 0.125, 0.25, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert method.curriculum.mask_ratios() == [0.75]
    blocks = method.curriculum.sampler
    noise = Noise.for_batch(seed=0, step=0, batch_size=20)
    in_blocks_NRK = blocks.blocks(None, alpha=0.0, num_masked=147, grid=(14, 14), noise=noise)
    assert max(in_blocks_NRK.flatten(1).sum(dim=1).tolist()) == 120


@pytest.mark.parametrize(
    ("model", "rate", "last"),
    [("vit", 1e-4, 0.1 * 1e-4), ("swin", 2e-4, 1e-5)],
)
@pytest.mark.parametrize("method", ["simmim", "hpm_simmim"])
def test_learning_rates_of_simmim_are_published_for_512_images(
    method: str, model: str, rate: float, last: float
) -> None:
    """A ViT's drops to a tenth at the end, a Swin's follows a cosine to 1e-5; both scale with the batch over 512."""
    epochs = 800 if (method, model) == ("simmim", "vit") else 100
    schedule = read_settings(parse_config([f"recipes/{method}_{model}_base_{epochs}"])).schedule
    scale = schedule.batch_size / 512
    assert (schedule.lr, schedule.min_lr) == pytest.approx((rate * scale, last * scale))


def test_every_recipe_is_planned() -> None:
    assert {path.stem for path in RECIPES if not NAME.fullmatch(path.stem)} == set(OTHERS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_is(path: Path) -> None:
    header = path.read_text().split("\n\n")[0]
    command = f"pretrain recipes/{path.stem} --output runs/{path.stem}"
    for words in (command, f"{path.stem.split('_')[-1]} epochs", "with this code", f"hpm plan recipes/{path.stem} "):
        assert words in header
    assert ("torchrun --nproc-per-node 8 -m hpm " in header) == ("tiny" not in path.stem and "small" not in path.stem)
    assert ("Schedule.accumulate = 4" in header) == ("huge" in path.stem)


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("mae_vit_base_200", "82.2"),
        ("hpm_vit_base_200", "83.0"),
        ("mae_vit_base_1600", "83.6"),
        ("hpm_vit_base_800", "84.2"),
        ("mae_vit_large_1600", "85.1"),
        ("mae_vit_large_1600", "85.9"),
        ("hpm_vit_large_800", "85.8"),
    ],
)
def test_published_figures(name: str, figure: str) -> None:
    assert figure in (FOLDER / f"{name}.gin").read_text()


@pytest.mark.parametrize("method", ["mae", "hpm"])
def test_every_binding_is_used_and_published(method: str, tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / "train" / "class" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
    bindings = [
        f"ImageFolder.root = '{tmp_path}'",
        "Schedule.batch_size = 8",
        "Loading.num_workers = 0",
        "Runtime.compile = False",
        "MLflowTracker.enabled = False",
    ]
    trainer = parse_config([f"recipes/{method}_vit_tiny_200"], bindings).build()
    assert trainer.schedule.lr == pytest.approx(1.5e-4 * 8 / 256)
    assert trainer.schedule.warmup_epochs == 40
    assert (trainer.optimization.weight_decay, trainer.optimization.betas) == (0.05, (0.9, 0.95))
    curriculum, learner = trainer.method.curriculum, trainer.method
    assert curriculum.mask_ratios() == [0.75]
    assert type(learner.target).__name__ == ("NormalizedPixels" if method == "mae" else "Pixels")
    if method == "hpm":
        assert (curriculum.alpha(1 / 200), curriculum.alpha(1.0)) == (0.0025, 0.5)
        decay = learner.ema_decay
        assert (decay.start, decay.end, decay.epochs) == (0.999, 0.9999, 100)
        assert trainer.progress_per == "epoch"
    else:
        assert learner.ema_decay is learner.student.loss_predictor is None
