"""What a run says at its end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path

import pytest

from hpm.evaluation import protocols
from hpm.metrics import Unit
from hpm.runs.run_folder import RunFolder
from hpm.runtime.console import make_console
from hpm.training.summary import _IOU_ROWS, _ROWS, show_summary

MEASURED = {
    "low_shot/pretrained": 0.7,
    "low_shot/scratch": 0.6,
    "low_shot/scratch_equal_compute": 0.55,
    "low_shot/raw_pixels": 0.5,
    "ridge/pretrained": 0.4,
    "ridge/initialization": 0.3,
    "agreement/teacher": 0.12,
    "agreement/student": 0.81,
    "segmentation/knn/pretrained": 0.45,
    "segmentation/knn/initialization": 0.35,
    "segmentation/knn/raw_pixels": 0.25,
    "segmentation/linear/pretrained": 0.52,
}
HARDNESS = {"": 0.812, "_position": 0.638, "_edges": -0.004}


def told(metrics: dict[str, float], curriculum: Sequence[str] = (), **more: int) -> str:
    text = StringIO()
    summary = {
        **more,
        "metrics": metrics,
        "training_seconds": 2.0,
        "evaluation_seconds": 1.0,
        "images": 100,
        "picture": "run/pictures/step-1.png",
        "tracking": "off",
    }
    show_summary(make_console(file=text, width=200), RunFolder(Path("run")), summary, curriculum=curriculum)
    return text.getvalue()


def test_what_to_try_next_is_something_else() -> None:
    assert "pretrain run/config.gin curricula/random" in told(
        MEASURED, curriculum=["Ramp", "LossMemory", "HardestFirst"]
    )
    after_random = told(MEASURED, curriculum=["Constant", "Uniform", "Random"])
    assert "curricula/random" not in after_random
    assert "pretrain run/config.gin curricula/hpm_memory" in after_random


def test_what_to_try_next_keeps_the_mask_ratio_and_the_masks_of_an_image(
    tiny: Path, hpm: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """After CoMA's two complementary halves: random halves, two of each image."""
    short = [word for text in ("Schedule.epochs = 1", "Schedule.warmup_epochs = 0.5") for word in ("-b", text)]
    assert hpm("pretrain", tiny, "curricula/coma", *short, "--output", "run") == 0
    found = re.search(r"next: +\S*hpm (pretrain .*?) +# the same with", " ".join(capsys.readouterr().out.split()))
    assert found
    assert hpm(*shlex.split(found[1]), "--dry-run") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "curriculum: Constant, Uniform, Random; alpha 0.00 -> 0.00, mask ratio 0.5 " in told
    assert "20 steps of 8 images in 2 masks each" in told


def test_how_images_are_counted() -> None:
    """In each of their masks; a run of before has one."""
    assert "100 images in 2 s (50 images/s), evaluated in 1 s" in told(MEASURED)
    assert "100 images in 2 s" in told(MEASURED, masks_per_image=1)
    assert "100 images, each counted in its 4 masks, in 2 s (50 images/s)" in told(MEASURED, masks_per_image=4)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_figures_of_one_split(split: str) -> None:
    """The test images' where there are any, else the validation images', never both."""
    validation = {f"validation/{name}": value + 0.01 for name, value in MEASURED.items()}
    text = told(
        {"reconstruction_loss": 0.3, "low_shot/pretrained/lr": 2e-3}
        | validation
        | (MEASURED if split == "test" else {})
    )
    own = MEASURED if split == "test" else {name: value + 0.01 for name, value in MEASURED.items()}
    assert f"{split} accuracy" in text
    rows = {
        line.split("│")[1].strip(): [cell.strip() for cell in line.split("│")[2:5]]
        for line in text.splitlines()
        if "│" in line
    }
    shown = [f"{own[f'low_shot/{name}']:.1%}" for name in ("pretrained", "scratch", "raw_pixels")]
    assert rows["low-shot fine-tuning"] == shown
    assert rows["ridge probe"] == [f"{own['ridge/pretrained']:.1%}", f"{own['ridge/initialization']:.1%}", ""]
    assert f"{split} mIoU" in text
    patches = [f"{own[f'segmentation/knn/{name}']:.1%}" for name in ("pretrained", "initialization", "raw_pixels")]
    assert rows["k-NN on patch tokens"] == patches
    assert rows["linear on patch tokens"] == [f"{own['segmentation/linear/pretrained']:.1%}", "", ""]
    assert f"together: {own['low_shot/scratch_equal_compute']:.1%}" in text
    agreement = f"teacher {own['agreement/teacher']:.2f}, student {own['agreement/student']:.2f}"
    assert f"predicted against true loss (Spearman, {split} images): {agreement}" in text


def test_what_hard_patches_are_worth() -> None:
    """Measured on training images: it says nothing of which figures there are of other images."""
    shares = {f"curriculum/hardness_share{name}": value for name, value in HARDNESS.items()}
    validation = {f"validation/{name}": value for name, value in MEASURED.items()}
    text = told(shares | validation)
    expected = (
        "hardness: the patches that the curriculum would mask first have 81% of the attainable extra loss (position "
        "alone 64%, edges 0%)"
    )
    assert expected in text
    assert "all masked patches" not in text
    assert f"{expected}; all masked patches have 44%" in told(shares | {"curriculum/hardness_share_mask": 0.438})
    assert "validation accuracy" in text
    assert "hardness" not in told(validation)
    del shares["curriculum/hardness_share"]  # numbers of parts
    assert "hardness" not in told(shares | validation)


def test_every_protocol_of_accuracies_has_a_row() -> None:
    classifiers = {
        metric.pattern.split("/")[0]
        for evaluation in protocols().values()
        for metric in evaluation.metrics
        if metric.unit is Unit.ACCURACY and metric.matches(f"{metric.pattern.split('/')[0]}/pretrained")
    }
    assert set(_ROWS) == classifiers


def test_every_segmentation_by_classes_has_a_row() -> None:
    """Without any of them there is no table of theirs."""
    declared = {
        metric.pattern.removesuffix("/pretrained")
        for evaluation in protocols().values()
        for metric in evaluation.metrics
        if metric.unit is Unit.IOU and metric.pattern.endswith("/pretrained")
    }
    assert set(_IOU_ROWS) == declared
    assert "mIoU" not in told({"knn/pretrained": 0.5})


def test_what_finds_the_object_is_told_beside_what_needs_no_model() -> None:
    localized = {f"localization/{of}/auroc": 0.5 + place / 10 for place, of in enumerate(("random", "center"))}
    localized["localization/student/true_loss/auroc"] = 0.8125
    text = told(MEASURED | localized)
    assert "true losses find the object's patches with an AUROC of 0.812 (the center 0.600, chance 0.500; test" in text
    covered = {
        "unsupervised_segmentation/student/true_loss/iou": 0.266,
        "unsupervised_segmentation/edge_density/iou": 0.241,
        "rankme/pretrained": 20.39,
        "lidar/pretrained": 7.25,
    }
    text = told(MEASURED | localized | covered)
    assert "true losses cover the object with an IoU of 0.266 (edges 0.241; test images)" in text
    assert "AUROC" not in text
    assert "effective rank of the features (RankMe, training images): 20.4" in text
    assert "effective rank of what tells images apart (LiDAR, training images): 7.2" in text
    assert "objects:" not in told(MEASURED)
