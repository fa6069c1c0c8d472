"""The guide to targets: its example trains, and what it names is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hpm.config import configs_folder, configurables, parse_config

GUIDE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()


def test_a_target_of_ones_own(hpm: Callable[..., int], tiny: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python[^\n]*\n(.*?)```", GUIDE, flags=re.DOTALL)
    (tmp_path / "my_target.py").write_text(code)
    (tmp_path / "my.gin").write_text("import my_target\ninclude 'tiny.gin'\nMethod.target = @MeanColor()\n")
    assert hpm("pretrain", "my.gin", "--output", "run", "-b", "Schedule.epochs = 2") == 0
    assert hpm("visualize", "run", "--count", "1") == 0


@pytest.mark.parametrize(
    "block", [text for text in re.findall(r"```gin\n(.*?)```", GUIDE, flags=re.DOTALL) if text.startswith("Method.")]
)
def test_its_configs_parse(block: str, tiny: Path) -> None:
    path = tiny.with_name("block.gin")
    path.write_text(f"include '{tiny}'\n{block}")
    parse_config([str(path)])


def test_every_part_and_recipe_is_named() -> None:
    parts = configurables()
    for cls in (*parts["targets"], *parts["prediction losses"]):
        assert f"| `{cls.__name__}` |" in GUIDE
    recipes = {path.stem for path in (configs_folder() / "recipes").glob("*.gin")}
    others = {name for name in recipes if "_" in name and not re.fullmatch(r"(mae|hpm)_vit_[a-z]+_\d+", name)}
    assert others == set(re.findall(r"`(\w+_(?:base|large|huge)_\d+)`", GUIDE))
