"""A source of somebody's own, in a module that a config imports: trained on, resumed, evaluated, recorded."""

import json
from pathlib import Path

import pytest

MODULE = """
import gin
import torch
from hpm.data import ImageSource, TensorSplit


@gin.register
class Stripes(ImageSource):
    '''Stripes that run down or across.'''

    def __init__(self, *, size: int = 72, named: bool = True) -> None:
        super().__init__(
            img_size=16, in_chans=3, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=("down", "across") if named else ()
        )
        self.splits = [self.make(size, seed) for seed in (0, 1)]

    def make(self, size: int, seed: int) -> TensorSplit:
        labels = torch.arange(size) % 2
        stripes = (torch.arange(16) % 4 < 2).expand(size, 3, 16, 16).clone()
        stripes[labels == 1] = stripes[labels == 1].mT
        noise = torch.randint(0, 56, stripes.shape, generator=torch.Generator().manual_seed(seed))
        return TensorSplit((stripes * 200 + noise).to(torch.uint8), labels)

    def read(self, split: str) -> TensorSplit:
        return self.splits[split == "test"]
"""


@pytest.fixture
def config(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "striped.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own.gin"
    path.write_text(f"""
import striped
include '{tiny}'
Trainer.source = @Stripes()
Monitoring.evaluations = [@KNN()]
Schedule.epochs = 5
Checkpointing.every = 10
""")
    return path


def test_a_source_of_ones_own(config: Path, hpm, same_end) -> None:
    assert hpm("pretrain", config, "--output", "run") == 0
    record = json.loads(Path("run/run.json").read_text())["data"]
    assert (record["source"], record["images"]) == ("Stripes", 65)
    assert len(record["fingerprint"]) == 16
    metrics = json.loads(Path("run/summary.json").read_text())["metrics"]
    assert metrics["knn/pretrained"] > 0.5
    same_end(Path("run"))
    assert hpm("evaluate", "run", "--protocol", "knn") == 0


def test_classes_that_are_not_named(config: Path, hpm, capsys) -> None:
    assert hpm("pretrain", config, "-b", "Stripes.named = False", "--output", "run") == 2
    assert "KNN needs at least two classes, Stripes has 0" in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()
