"""Every shipped study builds: all variants, every choice and bound of every space; its header says how to start it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from curriculum.difficulty import PredictedLoss, TrueLoss
from curriculum.samplers import HardestFirst, Random
from hpm.config import configs_folder, parse_config
from hpm.targets import Pixels
from studies.definition.loading import load_definition

FOLDER = configs_folder()
TRAINED = ("fashion_mnist_small", "stamp_scenes", "stamp_scenes_small")  # what ablations train
ABLATIONS = sorted(path for path in (FOLDER / "ablations").glob("*.gin") if path.stem not in TRAINED)
SEARCHES = sorted((FOLDER / "studies").glob("*.gin"))


def test_they_are_there() -> None:
    assert {path.stem for path in ABLATIONS} == {
        "mask_strategy",
        "schedulers",
        "difficulty",
        "hardness",
        "hardness_blocks",
        "hardness_confirmed",
        "hardness_controls",
        "hardness_fashion_mnist",
        "hardness_longer",
        "hardness_objects",
        "hardness_pilot",
        "hardness_share",
        "hardness_share_stamp_scenes",
        "alpha_range",
        "hard_negatives",
        "image_size",
        "prediction_loss",
        "prediction_loss_small",
        "semi_supervised",
        "frameworks",
        "mask_ratio",
        "zoo",
        "zoo_confirmed",
        "zoo_confirmed_stamp_scenes",
        "zoo_screening",
        "zoo_screening_stamp_scenes",
        "zoo_small",
    }
    assert {path.stem for path in SEARCHES} == {"schedule", "conditional"}


@pytest.mark.usefixtures("fashion_mnist")
@pytest.mark.parametrize("path", [*ABLATIONS, *SEARCHES], ids=lambda path: path.stem)
def test_a_study_builds(path: Path, stamp_files: Path) -> None:
    kind = "ablation" if path.parent.name == "ablations" else "search"
    name = f"{path.parent.name}/{path.stem}"
    definition = load_definition(kind, [name])
    if "ablations/stamp_scenes" in "".join(definition.base):
        few = (f"StampScenes.{split}_size = 100" for split in ("train", "validation", "test"))
        definition.bindings = (*definition.bindings, f"StampScenes.root = '{stamp_files}'", *few)
    identity = definition.check()
    assert identity["kind"] == kind
    command = "ablate" if kind == "ablation" else "search"
    assert re.search(rf"#   hpm-study {command} {name} ", path.read_text())


def test_the_ablations_are_of_the_published_alphas() -> None:
    """Rows of HPM's ablation: what alpha is at the beginning and at the end; each order once more by the true loss."""
    definition = load_definition("ablation", ["ablations/mask_strategy"])
    found = {}
    for name in definition.variant_names:
        configs, bindings = definition.configs_and_bindings(name)
        trainer = parse_config(["quickstart", *configs], bindings).build()
        curriculum = trainer.method.curriculum
        assert isinstance(trainer.method.target, Pixels)
        assert (trainer.method.student.loss_predictor is None) == (name == "random_without_prediction")
        if name.startswith("random"):
            assert type(curriculum.sampler) is Random
        else:
            assert type(curriculum.sampler) is HardestFirst
            assert type(curriculum.difficulty) is (TrueLoss if name.startswith("true_loss") else PredictedLoss)
        found[name] = (curriculum.alpha(0.0), curriculum.alpha(1.0), curriculum.polarity)
    orders = {
        "easy_to_hard": (0.0, 0.5, "hardest"),
        "hardest": (1.0, 1.0, "hardest"),
        "hard_to_easy": (0.5, 0.0, "hardest"),
        "easiest": (0.0, 0.5, "easiest"),
    }
    by_true_loss = {f"true_loss_{name}": order for name, order in orders.items()}
    none = (0.0, 0.0, "hardest")
    assert found == {"random_without_prediction": none, "random": none} | orders | by_true_loss
