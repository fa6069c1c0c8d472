"""The guide to dense tasks: what it tells about protocols and other programs holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hpm.evaluation import protocols

GUIDE = (Path(__file__).parents[2] / "docs" / "dense.md").read_text()
FOUR_BLOCKS = (
    "IMG_SIZE = 32",
    "MaskedAutoencoder.patch_size = 8",
    "MaskedAutoencoder.depth = 4",
    "Schedule.epochs = 1",
    "Schedule.warmup_epochs = 0",
)


def test_it_names_protocols_and_their_parts() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| `(\w+)` \|", GUIDE, flags=re.MULTILINE)
    assert len(rows) == 6
    for protocol, part in rows:
        assert protocols()[protocol].__name__ == part


def test_an_exported_encoder_serves_in_other_programs(
    hpm: Callable[..., int], pretrained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from timm.models import load_model_config_from_hf  # noqa: F401 - what timm reads such folders by

    run = pretrained(*FOUR_BLOCKS)
    monkeypatch.chdir(tmp_path)
    assert hpm("export", run, "--out", "exported") == 0
    (code,) = re.findall(r"```python[^\n]*\n(.*?)```", GUIDE, flags=re.DOTALL)
    names: dict = {}
    exec(code, names)
    expected = timm.create_model("local-dir:exported", pretrained=True).state_dict()
    for encoder in (names["segmenter"].encoder.model, names["backbone"].encoder):
        weights = {name.removeprefix("model."): value for name, value in encoder.state_dict().items()}
        shared = weights.keys() & expected.keys()
        assert {"patch_embed.proj.weight", "blocks.3.mlp.fc2.weight"} <= shared
        assert all(torch.equal(weights[name], expected[name]) for name in shared)
    assert names["segmenter"].eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 21, 32, 32)
    (found,) = names["detector"].eval()([torch.rand(3, 32, 32)])
    assert {"boxes", "labels", "scores"} <= found.keys()
