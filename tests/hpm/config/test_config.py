"""Every shipped config parses and builds; a config is what its saved text says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hpm.config import configs_folder, parse_config
from hpm.errors import UserError
from hpm.training.dry_run import dry_run
from hpm.training.trainer import Trainer

CONFIGS = sorted(configs_folder().rglob("*.gin"))
SMALL = {
    "digit_scenes": ["DigitScenes.train_size = 600", "DigitScenes.validation_size = 20", "DigitScenes.test_size = 40"],
    "fashion_mnist": ["FashionMNIST.train_size = 600"],
    "stamp_scenes": ["StampScenes.train_size = 600", "StampScenes.validation_size = 20", "StampScenes.test_size = 40"],
}
COMPLETE = [path for path in CONFIGS if path.parent == configs_folder() and path.stem != "base"]


def small(text: str) -> list[str]:
    """Bindings that make a config's data small: what is tested is the config."""
    return [binding for name, bindings in SMALL.items() if f"data/{name}" in text for binding in bindings]


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: path.stem)
def test_complete_configs_build(path: Path, stamp_files: Path, tmp_path: Path) -> None:
    more = ["LowShot.labels = 100"] if "LowShot" in path.read_text() else []
    more += [f"StampScenes.root = '{stamp_files}'"] if "data/stamp_scenes" in path.read_text() else []
    if "data/image_folder" in path.read_text():
        for number in range(40):
            Image.effect_noise((64, 64), 50).save(tmp_path / f"{number}.png")
        more += [f"ImageFolder.root = '{tmp_path}'", "ImageFolder.validation_images = 4"]
    trainer = parse_config([str(path)], small(path.read_text()) + more).build()
    assert isinstance(trainer, Trainer)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "curricula"], ids=lambda path: path.stem)
def test_curricula_build_and_draw(path: Path, tiny: Path) -> None:
    small = ["PartialReconstruction.share = 0.3"] if path.stem == "capi" else []
    trainer = parse_config([str(tiny), str(path)], small).build()
    dry_run(trainer, _console())


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.parent.name == "models"], ids=lambda path: path.stem)
def test_models_build(path: Path, tiny: Path) -> None:
    tiny.write_text("\n".join(line for line in tiny.read_text().splitlines() if not line.startswith("MaskedAuto")))
    if path.stem.startswith(("simmim", "cross_mae", "boot_mae")):
        assert parse_config([str(tiny), str(path)], ["IMG_SIZE = 28"]).build()
        return
    bindings = [
        "IMG_SIZE = 64",
        "MaskedAutoencoder.patch_size = 16",
        # A block is like the others; building all of a huge model would take half a minute.
        *(f"MaskedAutoencoder.{depth} = 1" for depth in ("depth", "decoder_depth", "loss_predictor_depth")),
    ]
    assert parse_config([str(tiny), str(path)], bindings).build()


def test_image_folder_config(tiny: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.jpg")
    bindings = [f"ImageFolder.root = '{tmp_path / 'images'}'", "Loading.num_workers = 0"]
    trainer = parse_config([str(tiny), "data/image_folder"], bindings).build()
    dry_run(trainer, _console())


def labelled_folder(root: Path) -> list[str]:
    """Thirty images of three classes, and the bindings to train on them."""
    from PIL import Image

    for name in ("a", "b", "c"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(root / name / f"{number}.jpg")
    return [f"ImageFolder.root = '{root}'", "Loading.num_workers = 0", "Monitoring.probe_every = 1"]


def test_validation_images_are_a_binding(tiny: Path, tmp_path: Path) -> None:
    folder = labelled_folder(tmp_path / "images")
    source = (
        parse_config([str(tiny), "data/image_folder"], [*folder, "ImageFolder.validation_images = 6"]).build().source
    )
    assert [len(source.train()), len(source.validation())] == [24, 6]


def test_validation_images_are_enough(tiny: Path, tmp_path: Path) -> None:
    """Probes are scored on validation images alone, evaluations on test images too where there are any."""
    folder = [*labelled_folder(tmp_path / "images"), "ImageFolder.validation_images = 6"]
    probes = "Monitoring.probes = [@Agreement(), @KNN(), @Ridge()]"
    bindings = [*folder, probes, "Monitoring.evaluations = []", "KNN.k = 5"]
    trainer = parse_config([str(tiny), "data/image_folder"], bindings).build()
    assert not trainer.source.has_test
    final = "Monitoring.evaluations = [@Agreement()]"
    parse_config([str(tiny), "data/image_folder"], [*folder, final]).build()
    with pytest.raises(
        UserError, match=r"has no val or test folder .*; ImageFolder.validation_images = N puts N .* 1 to 27"
    ):
        parse_config([str(tiny), "data/image_folder"], [*folder, final, "ImageFolder.validation_images = None"]).build()
    none = [*folder, probes, "ImageFolder.validation_images = None"]
    with pytest.raises(UserError, match="has no validation images: without test images none are carved"):
        parse_config([str(tiny), "data/image_folder"], none).build()


def _console():  # type: ignore[no-untyped-def]
    from rich.console import Console

    return Console(quiet=True)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(configs_folder())))
def test_every_config_has_a_header(path: Path) -> None:
    """What it is or reproduces; a complete one also says the command, the time and the figure to expect."""
    header = path.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    if path in COMPLETE:
        for word in (f"hpm pretrain {path.stem}", "Time:", "Expect:"):
            assert word in header


@pytest.mark.parametrize("which", ["text", "operative_text"])
def test_a_saved_text_means_the_same(tiny: Path, tmp_path: Path, which: str) -> None:
    config = parse_config([str(tiny)], ["Ramp.end = 0.25"])
    config.build()
    saved, parameters = getattr(config, which)(), config.parameters()
    assert parameters["Ramp.end"] == "0.25"
    assert parameters["Optimization.weight_decay"] == "0.05"
    (tmp_path / "saved.gin").write_text(saved)
    again = parse_config([str(tmp_path / "saved.gin")])
    again.build()
    assert again.parameters() == parameters


def test_help_answers_without_heavy_imports() -> None:
    code = (
        "import sys; from hpm.cli import main; sys.argv = ['hpm', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'timm', 'mlflow', 'sklearn', 'numpy', 'gin'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
