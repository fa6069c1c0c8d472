"""`benchmarks/dense_tasks.py`: what it makes of evaluations, what it does not make again, and the committed table."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import stats

from hpm.inference.loading import load_model

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import dense_tasks  # noqa: E402
from dense_tasks import Figure, bind, collect, least_effect, read, supervise, table, work, write  # noqa: E402


def evaluated(folder: Path, protocol: str, model: str, **metrics: float) -> None:
    """An evaluation's results as `hpm evaluate` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"evaluation-{protocol}.json"
    entries = json.loads(file.read_text()) if file.is_file() else []
    named = {name.replace("__", "/"): {"mean": value} for name, value in metrics.items()}
    file.write_text(json.dumps([*entries, {"model": model, "metrics": named}]))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two seeds of both masks, judged by a linear probe; labels of one of them."""
    for seed, random, hard in ((0, 0.1, 0.2), (1, 0.3, 0.3)):
        for masks, value in (("random", random), ("hpm_memory_blocks", hard)):
            run = tmp_path / f"{masks}-{seed}"
            run.mkdir()
            (run / "config.gin").touch()
            evaluated(run, "linear", "checkpoint-1", linear__pretrained=9.0)  # an earlier one
            evaluated(
                run,
                "linear",
                "checkpoint-2",
                linear__pretrained=value,
                validation__linear__pretrained=8.0,
                linear__pretrained_top5=7.0,
                **({"linear__raw_pixels": 0.05, "linear__initialization": 0.1} if masks == "random" else {}),
            )
    labels = tmp_path / "labels-0"
    evaluated(labels, "finetune", "untrained", finetune__pretrained=0.6)
    evaluated(labels, "linear", "finetune-pretrained", linear__pretrained=0.5)
    evaluated(
        labels,
        "unsupervised-segmentation",
        "finetune-pretrained",
        unsupervised_segmentation__student__features__iou=0.25,
    )
    return tmp_path


def test_figures_are_of_test_scenes_and_of_the_newest_evaluation(runs: Path) -> None:
    assert sorted(collect(runs, [0])) == [
        Figure("hard blocks", 0, "linear", 0.2),
        Figure("labels", 0, "linear", 0.5),
        Figure("labels", 0, "supervised", 0.6),
        Figure("labels", 0, "unsupervised_segmentation/student/features/iou", 0.25),
        Figure("not pre-trained", 0, "linear", 0.1),
        Figure("random masks", 0, "linear", 0.1),
        Figure("raw pixels", 0, "linear", 0.05),
    ]


def test_the_table_pairs_masks_by_seed(runs: Path, tmp_path: Path) -> None:
    """The mean difference of 10 and 0 points is 5, and its interval reaches over 12.706 standard errors of 5."""
    write(collect(runs, [0, 1]), tmp_path / "results.csv")
    lines = table(read(tmp_path / "results.csv")).splitlines()
    (linear,) = [line for line in lines if line.startswith("| linear probe")]
    assert linear == (
        "| linear probe, accuracy | 20.00 ± 127.06 | 25.00 ± 63.53 | 50.00 | 10.00 | 5.00 | +5.00 ± 63.53 |  |"
    )
    assert "| trained on all labels, accuracy |  |  | 60.00 |  |  |  |  |" in lines


def test_the_page_shows_what_was_measured() -> None:
    folder = ROOT / "docs" / "results" / "stamp_scenes"
    assert table(read(folder / "tasks.csv")) in (folder / "README.md").read_text()


def test_the_least_effect_is_what_a_paired_t_test_finds_with_a_probability_of_80_percent() -> None:
    differences = [0.01, 0.03, 0.02]
    least = float(least_effect(differences)) / 100
    drawn = np.random.default_rng(0).normal(least, statistics.stdev(differences), (200_000, 3))
    assert (stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.02)
    assert least_effect([0.01, 0.03]) == least_effect([0.02] * 3) == ""


def test_what_was_evaluated_is_not_evaluated_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(dense_tasks, "call", lambda *words, log: asked.append(words[words.index("--protocol") + 1]))
    work(runs, "random masks", 0, [], first=True)
    assert asked == ["finetune", *dense_tasks.DENSE]


def test_networks_are_trained_from_scratch_with_the_first_seed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound: dict[int, list[str]] = {0: [], 1: []}
    for seed, into in bound.items():
        monkeypatch.setattr(dense_tasks, "call", lambda *words, log, into=into: into.extend(map(str, words)))
        work(runs, "random masks", seed, [], first=seed == 0)
    of = {
        seed: sorted(word.split(".")[0] for word in words if ".baselines = " in word) for seed, words in bound.items()
    }
    assert of == {
        0: ["Detection", "FineTune", "FineTuneSegmentation", "Segmentation"],
        1: ["Segmentation"],
    }


@pytest.mark.parametrize("first", [True, False])
def test_detection_after_labels_is_measured_with_the_first_seed(
    runs: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    trained = runs / "labels-0" / "finetune-pretrained"
    trained.mkdir()
    (trained / "model.safetensors").touch()
    asked: list[str] = []
    monkeypatch.setattr(dense_tasks, "call", lambda *words, log: asked.append(words[words.index("--protocol") + 1]))
    work(runs, "labels", 0, [], first=first)
    assert asked == ["segmentation", "segmentation-finetune", *(["detection"] if first else [])]


def test_labels_train_the_network_that_pre_training_began_with(
    pretrained: Callable[..., Path], stamp_files: Path, tmp_path: Path
) -> None:
    """What is trained on labels is a model for every command, and its run is not touched."""
    shutil.copytree(pretrained(), tmp_path / "random-0")
    small = bind(
        f"StampScenes.root = '{stamp_files}'",
        *("StampScenes.train_size = 640", "StampScenes.validation_size = 8", "StampScenes.test_size = 8"),
        *("FineTune.epochs = 1", "FineTune.warmup_epochs = 0", "FineTune.batch_size = 64"),
    )
    trained = supervise(tmp_path, 0, small)
    initial = load_model(tmp_path / "random-0").context().initial().encoder.state_dict()
    untrained = safetensors.torch.load_file(trained.parent / "untrained" / "model.safetensors")
    assert untrained.keys() <= initial.keys()
    assert all(torch.equal(initial[name], weights) for name, weights in untrained.items())
    after = safetensors.torch.load_file(trained / "model.safetensors")
    assert not torch.equal(after["patch_embed.proj.weight"], untrained["patch_embed.proj.weight"])
    (figure,) = collect(tmp_path, [0])
    assert (figure.encoder, figure.metric) == ("labels", "supervised")
