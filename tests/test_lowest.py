"""What `make test-lowest` installs is what pyproject.toml allows at the least."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_pins_are_the_lower_bounds() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = dict(text.split(">=") for text in dependencies if ">=" in text)
    lines = (ROOT / "tests" / "lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert set(pins) == {"torch", "torchvision", "timm", "optuna", "mlflow"}
    assert pins == {name: bounds[name] for name in pins}
