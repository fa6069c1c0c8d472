"""The size of the images and their channels are each set once, whatever data and model are put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpm.config import Config, configs_folder, parse_config
from hpm.errors import UserError
from hpm.planning.gpus import Machine
from hpm.planning.settings import RunSettings, read_settings

ROOT = {"timm": "TimmDataset.root = '/nowhere'\n"}  # an ImageFolder is planned without one
NOWHERE = ROOT["timm"].strip()
GRAY = ["TimmDataset.mean = (0.5,)", "TimmDataset.std = (0.2,)"]
MODELS = sorted(path.stem for path in (configs_folder() / "models").glob("*.gin"))
SMALL_MODELS = ["tiny", "simmim_vit_tiny", "simmim_swin_tiny"]


def settings(configs: list[str], *bindings: str) -> RunSettings:
    """A run's settings, checked as the run checks them: no image is read, no weight allocated."""
    try:
        found = read_settings(parse_config(configs, bindings))
        found.check(Machine("h100", 1))
    except ValueError as error:
        raise UserError(str(error)) from error
    return found


def sizes(configs: list[str], *bindings: str) -> tuple[int, int]:
    """Side and channels of the images that source and model agree on."""
    found = settings(configs, *bindings)
    student, source = found.method.student, found.source
    assert (student.img_size, student.in_chans) == (source.img_size, source.in_chans)
    return source.img_size, source.in_chans


@pytest.mark.parametrize("data", ["digit_scenes", "image_folder", "timm"])
@pytest.mark.parametrize("model", MODELS)
def test_any_model_with_any_data(data: str, model: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gin"
    parts = ("base", f"models/{model}", f"data/{data}", "curricula/random")
    mine.write_text("".join(f"include '{part}.gin'\n" for part in parts) + ROOT.get(data, ""))
    assert sizes([str(mine)], "IMG_SIZE = 224") == (224, 3)
    if model.startswith("vit"):
        assert sizes([str(mine)]) == (224, 3)
    else:
        with pytest.raises(UserError, match=r"is %IMG_SIZE, which is not set; write IMG_SIZE = \.\.\. in a config"):
            sizes([str(mine)])


@pytest.mark.parametrize("model", SMALL_MODELS)
def test_fashion_mnist_has_its_own_size(model: str) -> None:
    assert sizes(["fashion_mnist", f"models/{model}"]) == (28, 1)
    assert sizes(["quickstart", f"models/{model}"]) == (16, 3)
    assert sizes(["quickstart", f"models/{model}", "data/fashion_mnist"]) == (28, 1)


@pytest.mark.parametrize(
    ("configs", "bindings", "expected"),
    [
        (["quickstart"], [], (16, 3)),
        (["quickstart"], ["IMG_SIZE = 24"], (24, 3)),
        (["quickstart", "models/simmim_swin_tiny"], ["IMG_SIZE = 32"], (32, 3)),
        (["quickstart", "data/fashion_mnist"], [], (28, 1)),
        (["fashion_mnist", "data/digit_scenes"], [], (28, 3)),
        (["quickstart", "data/image_folder"], [], (16, 3)),
        (["quickstart", "data/timm"], [NOWHERE, "IMG_SIZE = 32"], (32, 3)),
        (["quickstart", "data/timm"], [NOWHERE, "IN_CHANS = 1", *GRAY], (16, 1)),
        (["recipes/hpm_vit_tiny_100"], [], (224, 3)),
        (["recipes/hpm_vit_tiny_100"], ["IMG_SIZE = 192"], (192, 3)),
        (["recipes/hpm_vit_tiny_100", "data/timm"], [NOWHERE], (224, 3)),
        (["recipes/mae_vit_small_100", "data/digit_scenes"], [], (224, 3)),
        (["recipes/simmim_swin_base_100"], [], (192, 3)),
        (["recipes/simmim_swin_base_100"], ["IMG_SIZE = 224", "Swin.window_size = 7"], (224, 3)),
        (["recipes/hpm_simmim_vit_base_100", "data/timm"], [NOWHERE], (224, 3)),
        (["recipes/maskfeat_vit_base_300"], ["IMG_SIZE = 192"], (192, 3)),
        # Both by themselves, as without the macro.
        (["quickstart"], ["MaskedAutoencoder.img_size = 32", "DigitScenes.img_size = 32"], (32, 3)),
        (["quickstart", "models/simmim_vit_tiny"], ["ViT.img_size = 16", "ViT.patch_size = 4"], (16, 3)),
    ],
)
def test_configs_go_together(configs: list[str], bindings: list[str], expected: tuple[int, int]) -> None:
    assert sizes(configs, *bindings) == expected


@pytest.mark.parametrize(
    ("configs", "bindings", "told"),
    [
        (["quickstart"], ["DigitScenes.img_size = 24"], "MaskedAutoencoder.img_size = 16 and in_chans = 3 do not fit"),
        (["quickstart"], ["IN_CHANS = 1"], "do not fit the images of DigitScenes: 16 pixels and 3 channels"),
        (["quickstart"], ["IMG_SIZE = 22"], "MaskedAutoencoder.patch_size = 4 does not divide"),
        (["quickstart"], ["IMG_SIZE = 'large'"], "MaskedAutoencoder.img_size = 'large' (base.gin, line "),
        (["fashion_mnist", "models/vit_tiny"], [], "do not fit the images of FashionMNIST: 28 pixels and 1 channels"),
        (["recipes/hpm_vit_tiny_100", "data/fashion_mnist"], [], "patch_size = 16 does not divide"),
    ],
)
def test_what_does_not_fit_is_told(configs: list[str], bindings: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        settings(configs, *bindings)
    assert told in str(error.value)


MODEL = """
import gin
from hpm.models.vit import ViT
from hpm.models.simmim import SimMIM


@gin.register
class OwnModel(SimMIM):  # which knows its images
    def __init__(self, *, chans: int = 1) -> None:
        encoder = ViT(img_size=28, in_chans=chans, patch_size=4, embed_dim=16, depth=1, num_heads=2)
        super().__init__(encoder=encoder)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of a model that refers to no macro."""
    (tmp_path / "own_model_part.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(path: Path, text: str, *more: str) -> Config:
    path.write_text(f"import own_model_part\ninclude 'base.gin'\ninclude 'curricula/random.gin'\n{text}")
    config = parse_config([str(path), *more])
    read_settings(config).check(Machine("h100", 1))
    return config


def test_a_model_that_needs_no_macro(own: Path) -> None:
    """Whatever a config of data sets, and whether before or after the model is chosen."""
    model = "Method.model = @OwnModel()\n"
    for text, more in (
        (f"include 'data/fashion_mnist.gin'\n{model}", ()),
        (f"{model}include 'data/fashion_mnist.gin'\n", ()),
        (model, ("data/fashion_mnist",)),
    ):
        assert "IMG_SIZE" not in build(own / "mine.gin", text, *more).text()
    with pytest.raises(UserError, match=r"IMG_SIZE \(-b\) is bound, but nothing"):
        read_settings(parse_config([str(own / "mine.gin"), "data/fashion_mnist"], ["IMG_SIZE = 28"]))


def test_a_model_and_data_that_need_no_macro(own: Path) -> None:
    """Nobody has to set what only the replaced model wanted."""
    text = (
        "Method.model = @OwnModel()\nOwnModel.chans = 3\nTrainer.source = @DigitScenes()\nDigitScenes.img_size = 28\n"
    )
    assert "IMG_SIZE" not in build(own / "mine.gin", text).text()


def test_data_alone_say_what_is_missing(tmp_path: Path) -> None:
    mine = tmp_path / "mine.gin"
    mine.write_text("include 'data/image_folder.gin'\n")
    with pytest.raises(UserError) as error:
        parse_config([str(mine)])
    assert "ImageFolder.img_size (data/image_folder.gin, line " in str(error.value)
    assert "write IMG_SIZE = ... in a config, or -b 'IMG_SIZE = ...'" in str(error.value)
