"""What configs can name is found in the packages: all that there is, and nothing else."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum import Scheduler
from hpm.config import configurables, gin_compat, imported_configurables, parse_config, register_configurables
from hpm.config.registry import concrete_classes

NAMES = {
    "schedulers": """
        Bandit Chained Competence Constant Cyclic Held MetricPaced Piecewise Plateau Ramp Reversed Scaled Stepped
        WarmRestarts""",
    "difficulty estimators": """
        AdaMAE ADIOS Attention Cached CLMAE Disagreement EdgeDensity FeatureNorm Hierarchy LossMemory LossSpread
        MainCluster Mixture Parts PixelEntropy PixelVariance PositionLoss PredictedLoss Residual SampledAttention
        Shuffled Smoothed Switched TrueLoss Uniform""",
    "samplers": """
        Blockwise Bonus Cells Complementary FilteredNoise HardestFirst Hint InverseBlock MultiBlock Pool Quotas Random
        Stratified Weighted""",
    "image difficulties": "ImageLoss LabelNoise PrototypeDistance",
    "image selections": "ImageShare ImageWeights SelfPaced",
    "curriculum": "Curriculum ImageCurriculum PartialReconstruction UniformRatio",
    "targets": "HOG NormalizedPixels Pixels TeacherFeatures TimmFeatures WeightedTargets",
    "prediction losses": "AbsoluteLoss ContrastiveLoss ListwiseLoss RelativeLoss",
    "teacher decays": "HorizonDecay RampDecay",
    "supervision": "SemiSupervised",
    "data": "Composites DigitScenes FashionMNIST ImageFolder RandomResizedCrop StampScenes TimmDataset",
    "evaluations": "Agreement Diagnostics FineTune HardnessShare KNN Linear LinearMAE Localization LowShot Ridge",
    "models": "CrossMAE MaskedAutoencoder SimMIM Swin ViT",
    "training": "Checkpointing Loading Method MLflowTracker Monitoring Optimization Runtime Schedule Trainer",
}


def test_every_part_is_found() -> None:
    """Kinds in this order, and classes in alphabetical order; a part that is added need not be added here."""
    found = {kind: [cls.__name__ for cls in classes] for kind, classes in configurables().items()}
    assert list(found) == list(NAMES)
    for kind, names in NAMES.items():
        assert not set(names.split()) - set(found[kind])
        assert found[kind] == sorted(found[kind], key=str.lower)


def test_nothing_else_is_found() -> None:
    for kind, classes in configurables().items():
        for cls in classes:
            assert not inspect.isabstract(cls), kind
            assert not cls.__name__.startswith("_")
            assert cls.__module__.partition(".")[0] in ("curriculum", "hpm")


def test_names_are_short_and_of_one_part_each(tiny: Path) -> None:
    parse_config([str(tiny)])
    for classes in configurables().values():
        for cls in classes:
            (selector,) = gin_compat.full_names(cls.__name__)
            assert selector == f"{cls.__module__}.{cls.__name__}"
            assert gin_compat.short_name(selector) == cls.__name__


def test_list_shows_every_part_in_order(hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("list") == 0
    shown = capsys.readouterr().out
    classes = [cls for classes in configurables().values() for cls in classes]
    for cls in classes:
        assert (cls.__doc__ or "").strip()
    kinds = [line.strip() for line in shown.splitlines() if line.strip() in NAMES]
    assert kinds == list(NAMES)
    names = [match.group(1) for line in shown.splitlines() if (match := re.match(r"\s{0,2}([A-Z]\w+)\s{2,}\S", line))]
    assert [name for name in names if name in {cls.__name__ for cls in classes}] == [cls.__name__ for cls in classes]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "found_schedulers"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


SAWTOOTH = """
from abc import abstractmethod
from curriculum import Constant, Scheduler  # defined elsewhere, and not of this package

class Sawtooth(Scheduler):
    def __call__(self, progress):
        return progress % 0.2

class Teeth(Scheduler):  # abstract
    @abstractmethod
    def teeth(self): ...

class _Hidden(Sawtooth):
    pass

class Unrelated:
    pass
"""


def test_a_new_part_is_one_new_file(package: Path) -> None:
    (package / "sawtooth.py").write_text(SAWTOOTH)
    (package / "_helpers.py").write_text("raise AssertionError('imported')")
    found = concrete_classes(importlib.import_module("found_schedulers"), Scheduler)
    assert [cls.__name__ for cls in found] == ["Sawtooth"]
    del sys.modules["found_schedulers"], sys.modules["found_schedulers.sawtooth"]


def test_classes_are_registered_after_a_config_was_parsed(tiny: Path) -> None:
    """gin locks its registry with the first config; a program that reads several registers more between them."""

    class Registered:
        def __init__(self, *, value: int = 1) -> None:
            self.value = value

    parse_config([str(tiny)])
    register_configurables([Registered])
    register_configurables([Registered])
    given = tiny.with_name("registered.gin")
    given.write_text("Registered.value = 2\n")
    assert parse_config([str(given)]).build("Registered").value == 2
    assert Registered in imported_configurables()
