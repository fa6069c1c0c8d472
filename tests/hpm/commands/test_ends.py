"""How a command ends that somebody's part ends, and how those end that are asked what there is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import studies.cli
from curriculum import Ramp
from hpm import __version__
from hpm.config import register_configurables
from hpm.data.sources.digit_scenes import DigitScenes
from hpm.evaluation import KNN, EvaluationContext
from hpm.runs.outcome import Outcome

Hpm = Callable[..., int]


class LeavingScheduler(Ramp):
    """Leaves in the middle of training."""

    def __call__(self, progress: float) -> float:
        if Path("run/config.gin").exists():
            sys.exit(0)
        return super().__call__(progress)


class LeavingSource(DigitScenes):
    """Leaves before training, as many programs do that want to say that they are done."""

    def prepare(self) -> None:
        exit()


class LeavingEvaluation(KNN):
    """Leaves after training, by the code that means "try again later"."""

    def measure(self, context: EvaluationContext) -> dict[str, float]:
        raise SystemExit(75)


@pytest.mark.parametrize(
    ("bindings", "told"),
    [
        (["Curriculum.scheduler = @LeavingScheduler()"], "sys.exit(0) (__call__ in"),
        (["Trainer.source = @LeavingSource()", "LeavingSource.img_size = 16"], "sys.exit(None) (prepare in"),
        (["Schedule.epochs = 2", "Monitoring.evaluations = [@LeavingEvaluation()]"], "sys.exit(75) (measure in"),
    ],
)
def test_a_part_that_ends_the_program_is_no_success(
    hpm: Hpm,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    bindings: list[str],
    told: str,
) -> None:
    register_configurables([LeavingScheduler, LeavingSource, LeavingEvaluation])
    monkeypatch.setenv("HPM_OUTCOME", str(tmp_path / "outcome.json"))
    words = [word for binding in bindings for word in ("-b", binding)]
    assert hpm("pretrain", tiny, "--output", "run", *words) == 2
    ended = Outcome.read(tmp_path / "outcome.json")
    assert ended is not None
    assert ended.kind == "error"
    assert told in ended.message
    assert f"{Path(__file__).name}, line" in ended.message
    assert not Path("run/summary.json").exists()
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message


def test_a_dry_run_says_what_it_waits_for(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.compiler.set_stance("force_eager"):
        assert hpm("pretrain", tiny, "--dry-run", "-b", "Runtime.compile = 'blocks'") == 0
    told = " ".join(capsys.readouterr().out.split())
    places = [told.index(words) for words in ("training: 4 epochs", "the first step compiles", "step 1: loss")]
    assert places == sorted(places)
    assert hpm("pretrain", tiny, "--dry-run") == 0
    assert "compiles" not in capsys.readouterr().out


@pytest.mark.parametrize("words", [["-h"], ["--help"], ["--version"], ["pretrain", "-h"], ["configs"], ["list"]])
def test_what_only_tells_ends_well(hpm: Hpm, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert hpm(*words) == 0
    assert capsys.readouterr().out


def test_the_version_of_both_commands(
    hpm: Hpm, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hpm("--version") == 0
    told = capsys.readouterr().out
    assert told == f"curriculum-masking {__version__}\n"
    for words in (["--version"], ["-h"], ["worker", "--help"]):
        monkeypatch.setattr(sys, "argv", ["hpm-study", *words])
        with pytest.raises(SystemExit) as stopped:
            studies.cli.main()
        assert stopped.value.code == 0
        if words == ["--version"]:
            assert capsys.readouterr().out == told
