"""What a configuration comes to without building it is what building it consumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from every_curriculum import bindings, curricula

from hpm.config import REQUIRED, Setting, in_force, parse_config, register_configurables


class Open:
    """Takes whatever it is given."""

    def __init__(self, size: int = 1, **others: object) -> None:
        self.size = size


def settings_of(configs: list[str], bindings: list[str] = []) -> Mapping[str, Setting]:  # noqa: B006
    found = in_force(parse_config(configs, bindings))
    return {setting.name: setting for part in found.used for setting in part.settings}


@pytest.mark.parametrize("name", curricula())
def test_every_curriculum_comes_to_what_its_run_consumes(tiny: Path, name: str) -> None:
    config = parse_config([str(tiny), f"curricula/{name}"], bindings(name))
    told = {
        f"{part.name}.{setting.name.rpartition('.')[2]}": str(setting.value)
        for part in in_force(config).used
        for setting in part.settings
    }
    config.build()
    assert told == config.parameters()


def test_where_each_was_set(tiny: Path) -> None:
    found = settings_of([str(tiny), "curricula/random"], ["Schedule.epochs = 2", "IMG_SIZE = 20"])
    assert found["Schedule.epochs"] == Setting("Schedule.epochs", 2, 200, "-b")
    line = tiny.read_text().splitlines().index("MaskedAutoencoder.patch_size = 4") + 1
    assert found["MaskedAutoencoder.patch_size"].where == f"tiny.gin, line {line}"
    assert found["Curriculum.scheduler"].where.startswith("curricula/random.gin, line ")
    assert found["MaskedAutoencoder.img_size"] == Setting("MaskedAutoencoder.img_size", 20, 224, "-b", ("IMG_SIZE",))
    assert found["MaskedAutoencoder.mlp_ratio"] == Setting("MaskedAutoencoder.mlp_ratio", 4.0, 4.0)
    assert "Ramp.end" not in found, "replaced by Constant"


def test_what_differs_from_its_default(tiny: Path) -> None:
    found = settings_of([str(tiny)], ["Ramp.end = 0.5", "Optimization.betas = (0.9, 0.95)"])
    assert not found["Ramp.end"].is_changed
    assert not found["Optimization.betas"].is_changed
    assert found["Trainer.source"].is_changed
    assert found["Trainer.source"].default is REQUIRED


def test_scopes_and_parts_that_are_used_twice(tiny: Path) -> None:
    (tiny.with_name("scoped.gin")).write_text(
        "Monitoring.probes = [@a/KNN(), @a/b/KNN(), @KNN(), @KNN()]\n"
        "KNN.k = 3\na/KNN.k = 4\na/b/KNN.train_images = 50\nMonitoring.evaluations = [@KNN()]\n"
    )
    config = parse_config([str(tiny), str(tiny.with_name("scoped.gin"))])
    parts = {part.name: part for part in in_force(config).used}
    told = {
        name: {s.name: s.value for s in parts[name].settings if s.name.endswith((".k", ".train_images"))}
        for name in ("KNN", "a/KNN", "a/b/KNN")
    }
    assert told == {
        "KNN": {"KNN.k": 3, "KNN.train_images": 10000},
        "a/KNN": {"a/KNN.k": 4, "a/KNN.train_images": 10000},
        "a/b/KNN": {"a/KNN.k": 4, "a/b/KNN.train_images": 50},
    }
    assert parts["KNN"].used_as == ["Monitoring.probes", "Monitoring.evaluations"]


def test_what_training_does_not_use_stands_apart(tiny: Path) -> None:
    found = in_force(parse_config([str(tiny), "evaluation/fashion_mnist"], ["Cyclic.cycles = 3"]))
    assert [part.name for part in found.others] == ["FashionMNIST", "KNN", "Linear", "FineTune", "Cyclic"]
    assert "Ramp" in [part.name for part in found.used]


def test_a_config_that_is_no_whole_run_comes_to_what_it_binds() -> None:
    found = in_force(parse_config(["curricula/mixture"]))
    names = [part.name for part in found.used]
    assert names[:4] == ["Curriculum", "Ramp", "Mixture", "PredictedLoss"]
    assert not found.others


def test_a_parameter_that_must_be_bound_and_is_not(tmp_path: Path) -> None:
    (tmp_path / "part.gin").write_text("Curriculum.polarity = 'easiest'\n")
    found = settings_of([str(tmp_path / "part.gin")])
    assert found["Curriculum.scheduler"].is_missing
    assert not found["Curriculum.mask_ratio"].is_missing


def test_names_that_a_part_takes_beside_its_own(tiny: Path) -> None:
    register_configurables([Open])
    found = in_force(parse_config([str(tiny)], ["Open.color = 'red'"])).others
    assert [(setting.name, setting.value) for setting in found[0].settings] == [("Open.size", 1), ("Open.color", "red")]
