"""The guide to training: its source of one's own trains, and what it says of images that grow is counted."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hpm.config import parse_config
from hpm.planning.plan import make_plan

GUIDE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def test_a_source_of_ones_own(hpm: Callable[..., int], tiny: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python[^\n]*\n(.*?)```", GUIDE, flags=re.DOTALL)
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


def test_its_images_that_grow() -> None:
    """The example's bindings, and the sizes and operations that the text says of them."""
    section = GUIDE.partition("## Smaller images first")[2].partition("## ")[0]
    command = section.split("```")[1].removeprefix("sh\n").replace("\\\n", " ")
    _, _, config, *words = shlex.split(command)
    growing = make_plan(parse_config([config], words[1::2]))
    assert "there are eight sizes, the last of them for a quarter of the run" in " ".join(section.split())
    assert len(growing.image_sizes) == 8
    assert growing.image_sizes[-1] == (224, pytest.approx(0.25, abs=0.01))
    (told,) = re.findall(r"takes ([\d.]+) times the\s+operations", section)
    assert growing.step_flops / make_plan(parse_config([config], [])).step_flops == pytest.approx(
        float(told), abs=0.005
    )
