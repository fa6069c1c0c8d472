"""What may change when a run is resumed is what its parts say of their parameters."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from hpm.config import configurables, parse_config, resume_changes
from hpm.errors import UserError

FREE = {
    "Loading.num_workers",
    "Loading.max_unreadable",
    "Checkpointing.every",
    "Checkpointing.keep",
    "Checkpointing.keep_every",
    "Optimization.max_skipped",
    "Monitoring.tracker",
    "ImageFolder.root",
    "TimmDataset.root",
    "CocoDetection.root",
    "FashionMNIST.root",
    "SegmentationFolder.root",
    *(f"Composites.{name}" for name in ("cutouts", "photographs", "cache_dir")),
    *(f"StampScenes.{name}" for name in ("root", "cache_dir")),
    *(f"MLflowTracker.{name}" for name in ("uri", "experiment", "tags", "system_metrics", "enabled")),
}
ROUNDING = {
    "Runtime.device",
    "Runtime.precision",
    "Runtime.compile",
    "Runtime.compile_mode",
    "Runtime.cuda_graphs",
    "Runtime.sharding",
    "Runtime.grad_checkpointing",
    "Runtime.deterministic",
    "Schedule.accumulate",
}


@pytest.fixture(autouse=True)
def _registered(tiny: Path) -> None:
    parse_config([str(tiny)])


@pytest.mark.parametrize(("attribute", "names"), [("resume_free", FREE), ("resume_rounding", ROUNDING)])
def test_what_parts_say(attribute: str, names: set[str]) -> None:
    parts = [cls for classes in configurables().values() for cls in classes]
    assert {f"{cls.__name__}.{name}" for cls in parts for name in getattr(cls, attribute, ())} == names
    for cls in parts:
        assert set(getattr(cls, attribute, ())) <= inspect.signature(cls).parameters.keys()


@pytest.mark.parametrize("name", sorted(FREE))
def test_what_touches_no_number_may_change(name: str) -> None:
    assert resume_changes(f"{name} = 1", f"{name} = 2") == ([], [])
    assert resume_changes(f"a/{name} = 1", "") == ([], [])


@pytest.mark.parametrize("name", sorted(ROUNDING))
def test_what_rounds_otherwise_is_told(name: str) -> None:
    assert resume_changes(f"{name} = 11", f"{name} = 12") == ([], [f"{name}: 11 -> 12"])


@pytest.mark.parametrize(
    ("saved", "given", "line"),
    [
        ("Ramp.end = 0.5", "Ramp.end = 0.7", "Ramp.end: 0.5 -> 0.7"),
        ("Ramp.end = 0.7", "", "Ramp.end: 0.7 -> not bound"),
        ("", "Schedule.epochs = 3", "Schedule.epochs: not bound -> 3"),
        ("", "a/KNN.k = 3", "a/KNN.k: not bound -> 3"),
        ("KNN.k = 5", "KNN.k = 5\na/KNN.k = 20", "a/KNN.k: not bound -> 20"),
        (
            "Curriculum.scheduler = @a/Ramp()",
            "Curriculum.scheduler = @b/Ramp()",
            "Curriculum.scheduler: @a/Ramp() -> @b/Ramp()",
        ),
        ("Curriculum.scheduler = @Ramp()", "Curriculum.scheduler = @Ramp", "Curriculum.scheduler: @Ramp() -> @Ramp"),
        ("LowShot.baselines = 1", "LowShot.baselines = True", "LowShot.baselines: 1 -> True"),
        ("Runtime.residual_precision = 'bf16'", "", "Runtime.residual_precision: bf16 -> not bound"),
        ("Trainer.source = @DigitScenes()", "", "Trainer.source: @DigitScenes() -> not bound"),
    ],
)
def test_everything_else_is_refused(saved: str, given: str, line: str) -> None:
    assert resume_changes(saved, given) == ([line], [])


@pytest.mark.parametrize(
    ("saved", "given"),
    [
        ("Schedule.epochs = 200", ""),
        ("", "Schedule.epochs = 200\nSchedule.warmup_epochs = 40.0"),
        ("", "a/Ramp.end = 0.5"),
        ("KNN.k = 5\na/KNN.k = 5", "KNN.k = 5"),
        ("Optimization.betas = (0.9, 0.95)", ""),
        ("Optimization.betas = [0.9, 0.95]", ""),
        ("Monitoring.evaluations = []", ""),
        ("Ramp.start = 0.1\nRamp.end = 0.7", "Ramp.end = 0.7\nRamp.start = 0.1"),
        ("END = 0.7\nRamp.end = %END", "Ramp.end = 0.7"),
        ("A = 0.7\nRamp.end = %A", "B = %C\nC = 0.7\nRamp.end = %B"),
        ("WORKERS = 3\nLoading.num_workers = %WORKERS", "WORKERS = 5\nLoading.num_workers = %WORKERS"),
    ],
)
def test_the_same_written_otherwise_is_no_change(saved: str, given: str) -> None:
    assert resume_changes(saved, given) == resume_changes(given, saved) == ([], [])


def test_a_macro_is_told_by_what_it_is_in() -> None:
    saved, given = (f"SIZE = {size}\nDigitScenes.img_size = %SIZE\nKNN.k = [1, %SIZE]" for size in (20, 24))
    assert resume_changes(saved, given)[0] == ["DigitScenes.img_size: 20 -> 24", "KNN.k: [1, 20] -> [1, 24]"]


def test_changes_are_in_order() -> None:
    refused, rounding = resume_changes(
        "", "Ramp.end = 1\nHint.hint = 1\nSchedule.accumulate = 4\nRuntime.device = 'cpu'"
    )
    assert [line.partition(":")[0] for line in refused] == ["Hint.hint", "Ramp.end"]
    assert [line.partition(":")[0] for line in rounding] == ["Runtime.device", "Schedule.accumulate"]


def test_a_part_that_only_the_saved_text_knows() -> None:
    refusal = r"the run's config\.gin, line 2: there is no part called OnlyTheSavedTextKnowsIt"
    with pytest.raises(UserError, match=refusal):
        resume_changes("import my_parts\nOnlyTheSavedTextKnowsIt.teeth = 3\n", "")


def test_a_users_part_says_what_of_it_may_change(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_source_part.py").write_text(
        "import gin\nfrom hpm.data import DigitScenes\n"
        "@gin.register\nclass MyScenes(DigitScenes):\n"
        "    resume_free = frozenset({'cache'})\n"
        "    def __init__(self, *, cache=None, seed=0):\n        super().__init__(img_size=16, seed=seed)\n"
    )
    monkeypatch.chdir(tmp_path)
    tiny.write_text("import my_source_part\n")
    parse_config([str(tiny)])
    saved, given = (
        f"import my_source_part\nMyScenes.cache = '{name}'\nMyScenes.seed = {len(name)}" for name in ("a", "bc")
    )
    assert resume_changes(saved, given) == (["MyScenes.seed: 1 -> 2"], [])
