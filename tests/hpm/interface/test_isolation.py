"""Calls from Python: each gives what a process of its own gives, and leaves the program around it as it was."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
import torch

import hpm as interface
from hpm.interface.isolation import isolated
from hpm.runs.checkpoint import Checkpoint, list_checkpoints

SHORT = ["Schedule.epochs = 1", "Schedule.warmup_epochs = 0"]
OTHER = ["Ramp.end = 1.0", "Trainer.seed = 5", "MaskedAutoencoder.depth = 2", *SHORT]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, pretrained: Callable[..., Path]) -> Path:
    """The run of the tiny config by the command, in a fresh process."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "tiny.gin").write_text((pretrained().parent / "tiny.gin").read_text())
    command = [sys.executable, "-m", "hpm", "pretrain", "tiny.gin", "--output", "run"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder / "run"


@pytest.fixture
def disturbed() -> Iterator[dict[str, Any]]:
    """A program that has set what it could, and what it must find again."""
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    torch.manual_seed(123)
    random.seed(4)
    np.random.seed(5)  # noqa: NPY002
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True, warn_only=True)
    with gin.unlock_config():
        gin.bind_parameter("curriculum.schedulers.ramps.Ramp.end", 0.25)
    yield settings()
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    gin.clear_config()
    torch.set_rng_state(generators[0])
    random.setstate(generators[1])
    np.random.set_state(generators[2])  # noqa: NPY002


def settings() -> dict[str, Any]:
    return {
        "generator": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "gradients": torch.is_grad_enabled(),
        "gin": gin.config_str(),
        "folder": Path.cwd(),
        "variables": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
    }


def require_equal(one: Path, other: Path) -> None:
    """Bit for bit: weights, teacher, optimizer, and the metrics but for their times."""
    checkpoints = [Checkpoint(list_checkpoints(run / "checkpoints")[0]) for run in (one, other)]
    names = set(checkpoints[0].names())
    assert names == set(checkpoints[1].names())
    for name in names:
        torch.testing.assert_close(*(saved.tensor(name) for saved in checkpoints), rtol=0, atol=0, equal_nan=True)
    assert interface.Run(one).metrics == interface.Run(other).metrics
    for metric in ("loss", "reconstruction_loss", "gradient_norm", "alpha"):
        for first, second in zip(interface.Run(one).history(metric), interface.Run(other).history(metric), strict=True):
            np.testing.assert_array_equal(first, second)


def test_a_run_after_another_config_is_that_of_a_fresh_process(alone: Path, tiny: Path, tmp_path: Path) -> None:
    interface.train(tiny, "curricula/random", bindings=OTHER[1:], output=tmp_path / "other", quiet=True)
    run = interface.train(tiny, output=tmp_path / "run", quiet=True)
    require_equal(alone, run.path)


def test_nothing_that_a_program_has_set_reaches_a_run_nor_is_changed_by_it(
    alone: Path, tiny: Path, tmp_path: Path, disturbed: dict[str, Any]
) -> None:
    with torch.no_grad():
        run = interface.train(tiny, output=tmp_path / "run", quiet=True)
    after = settings()
    assert after == disturbed
    torch.set_default_device(None)  # for what compares
    torch.set_default_dtype(torch.float32)
    require_equal(alone, run.path)


def test_loading_and_evaluating_leave_the_program_as_it_was(alone: Path, disturbed: dict[str, Any]) -> None:
    loaded = interface.load(alone)
    found = interface.evaluate(alone, "knn", quiet=True)
    assert settings() == disturbed
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    assert found["knn"]["metrics"].keys() == interface.evaluate(alone, "knn", quiet=True)["knn"]["metrics"].keys()
    assert loaded.encoder.num_features == 16


def test_a_call_that_fails_leaves_the_program_as_it_was(tiny: Path, disturbed: dict[str, Any]) -> None:
    with pytest.raises(interface.UserError, match=r"Ramp\.ending"):
        interface.train(tiny, bindings=["Ramp.ending = 1.0"], quiet=True)
    assert settings() == disturbed


def test_contexts_that_a_program_has_entered_reach_no_run_and_stay(alone: Path, tiny: Path, tmp_path: Path) -> None:
    product = torch.ones(2, 2)
    with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16), gin.config_scope("somebodys"):
        run = interface.train(tiny, output=tmp_path / "run", quiet=True)
        assert torch.zeros(1).device.type == "meta"
        assert (product @ product).dtype == torch.bfloat16
        assert gin.current_scope() == ["somebodys"]
    assert torch.get_default_device().type == "cpu"
    assert (product @ product).dtype == torch.float32
    require_equal(alone, run.path)


def test_a_device_within_which_a_default_one_is_set_aside_stays() -> None:
    torch.set_default_device("meta")
    try:
        with torch.device("cpu"):
            with isolated():
                assert torch.zeros(1).device.type == "cpu"
            assert torch.zeros(1).device.type == "cpu"
        assert torch.zeros(1).device.type == "meta"
    finally:
        torch.set_default_device(None)


def test_the_kernels_of_attention_are_those_that_a_program_has_chosen() -> None:
    flash = torch.backends.cuda.flash_sdp_enabled()
    try:
        torch.backends.cuda.enable_flash_sdp(False)
        with isolated():
            torch.backends.cuda.enable_flash_sdp(True)  # as a run on a GPU does
        assert not torch.backends.cuda.flash_sdp_enabled()
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)


def test_models_of_two_configs_stay_apart(alone: Path, tiny: Path, tmp_path: Path) -> None:
    first = interface.load(alone)
    wider = interface.train(tiny, bindings=OTHER, output=tmp_path / "wider", quiet=True)
    images = first.validation_images(3)
    before = first.features(images)
    second = interface.load(wider)
    assert [len(model.encoder.blocks) for model in (first, second)] == [1, 2]  # type: ignore[arg-type]
    assert (first.curriculum.alpha(1.0), second.curriculum.alpha(1.0)) == (0.5, 1.0)
    torch.testing.assert_close(first.features(images), before, rtol=0, atol=0)
    again = interface.load(alone).features(images)
    torch.testing.assert_close(again, before, rtol=0, atol=0)


def test_modules_of_one_name_are_not_taken_for_each_other(tmp_path: Path, tiny: Path) -> None:
    text = tiny.read_text()
    part = "import gin\nfrom curriculum import Constant\n\n@gin.register\nclass {0}(Constant):\n    pass\n"
    for folder, name in (("one", "FirstConstant"), ("two", "SecondConstant")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "parts_of_one_name.py").write_text(part.format(name))
        (tmp_path / folder / "my.gin").write_text(
            f"import parts_of_one_name\n{text}\nCurriculum.scheduler = @{name}()\n{name}.value = 0.5\n"
        )
    interface.train(tmp_path / "one" / "my.gin", bindings=SHORT, output=tmp_path / "1", quiet=True)
    with pytest.raises(interface.UserError, match="another module of that name") as error:
        interface.train(tmp_path / "two" / "my.gin", bindings=SHORT, output=tmp_path / "2", quiet=True)
    assert str(tmp_path / "one" / "parts_of_one_name.py") in str(error.value)
    interface.train(tmp_path / "one" / "my.gin", bindings=SHORT, output=tmp_path / "3", quiet=True)


def test_asking_for_the_package_imports_nothing(tmp_path: Path) -> None:
    code = "import sys, hpm; hpm.__version__; print(sorted({'torch', 'gin', 'numpy', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="'trian'"):
        interface.trian  # noqa: B018
    assert set(interface.__all__) <= set(dir(interface))


def test_threads_of_a_run_end_with_it(tiny: Path, tmp_path: Path) -> None:
    import threading

    before = threading.active_count()
    interface.train(tiny, bindings=SHORT, output=tmp_path / "run", quiet=True)
    assert threading.active_count() == before


def test_two_runs_of_one_second_get_folders_of_their_own(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = [*SHORT, "DigitScenes.train_size = 16"]
    runs = [interface.train(tiny, bindings=few, quiet=True) for _ in range(4)]
    assert len({run.path for run in runs}) == 4
    assert all(run.path.parent == tmp_path / "runs" for run in runs)
