"""The guide to training: its source of one's own trains, with validation images carved from it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

GUIDE = (Path(__file__).parents[1] / "docs" / "training.md").read_text()


def test_a_source_of_ones_own(hpm: Callable[..., int], tiny: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL)
    (tmp_path / "my_bars.py").write_text(code)
    (tmp_path / "my.gin").write_text(
        "import my_bars\ninclude 'tiny.gin'\nTrainer.source = @Bars()\nBars.size = 80\n"
        "Monitoring.evaluations = [@Ridge()]\n"
    )
    for binding, images in (("Bars.validation_images = None", 72), ("Bars.validation_images = 20", 60)):
        folder = f"run-{images}"
        assert hpm("pretrain", "my.gin", "--output", folder, "-b", "Schedule.epochs = 2", "-b", binding) == 0
        assert json.loads(Path(folder, "run.json").read_text())["data"]["images"] == images
        metrics = json.loads(Path(folder, "summary.json").read_text())["metrics"]
        assert {"ridge/pretrained", "validation/ridge/pretrained"} <= metrics.keys()
