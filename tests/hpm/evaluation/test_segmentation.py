"""Segmentation of frozen patch tokens: what is found on easy images, by which images, and what cannot serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from annotated import SIZES, Annotated, AnnotatedSplit, mosaic, mosaics, on, save_mosaics
from sklearn.metrics import jaccard_score
from tiny_models import tiny_model
from torch import Tensor

from hpm.data import IGNORED, DigitScenes, ImageFolder, SegmentationFolder, UnreadableImages, annotated_views
from hpm.errors import UserError
from hpm.evaluation import EvaluationContext, Segmentation
from hpm.evaluation.dense.patch_classifiers import KNNPatches, LinearPatches, Segmented
from hpm.models.base import MaskedModel
from hpm.models.patches import patchify
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin

CPU = torch.device("cpu")
FEATURES = ("pretrained", "initialization", "raw_pixels")
NAMES = {f"segmentation/{classifier}/{features}" for classifier in ("knn", "linear") for features in FEATURES}
BOTH = ("validation", "test")


def test_images_whose_colors_tell_the_class_are_segmented(context: EvaluationContext) -> None:
    context = on(context, mosaics(ignored=0.1))
    metrics = Segmentation(baselines=True)(context)
    chosen = {"segmentation/knn/pretrained/k", "segmentation/linear/pretrained/strength"}
    assert metrics.keys() == NAMES | {f"validation/{name}" for name in NAMES} | chosen
    assert all(metrics[name] > 0.95 for name in metrics.keys() - chosen), metrics


def test_annotations_that_have_nothing_to_do_with_the_images_leave_chance(context: EvaluationContext) -> None:
    """Of three classes alike, a third of the pixels is right: a fifth of those that are of a class or taken for it."""
    splits = {
        name: AnnotatedSplit(mosaic(count, seed=seed).images_KCHW, mosaic(count, seed=seed + 9).maps_KHW)
        for seed, (name, count) in enumerate({"train": 100, "validation": 60, "test": 100}.items())
    }
    metrics = Segmentation(classifiers=["knn"], k=[10])(on(context, Annotated(splits, kinds="abc")))
    assert metrics["segmentation/knn/pretrained"] == pytest.approx(0.2, abs=0.04)


def features_of(context: EvaluationContext, name: str, images: Tensor) -> Tensor:
    return patchify(images, 4) if name == "raw_pixels" else context.model.features(images).detach()


@pytest.mark.parametrize("name", ["pretrained", "raw_pixels"])
@pytest.mark.parametrize("classifier", ["knn", "linear"])
def test_figures_of_scenes_are_scikit_learns_of_what_the_classifiers_say(
    context: EvaluationContext, source: DigitScenes, name: str, classifier: str
) -> None:
    context = replace(context, splits=BOTH)
    settings = {"classifiers": [classifier], "k": [7], "strengths": [10.0], "train_images": None, "test_images": 100}
    metrics = Segmentation(baselines=True, **settings)(context)
    train, chosen = torch.arange(400), torch.randperm(120, generator=torch.Generator().manual_seed(0))[:100].sort()[0]
    parts = [
        Segmented(
            features_of(context, name, source.load(split, indices)),
            annotated_views.class_maps(source, split, indices),
            (4, 4),
        )
        for split, indices in ((source.train(), train), (source.test(), chosen))
    ]
    made = KNNPatches([7], 0.07) if classifier == "knn" else LinearPatches([10.0])
    predicted = made.fit(parts[0], None, num_classes=11, device=CPU).predict(parts[1].features_NTD).flatten()
    metric = f"segmentation/{classifier}/{name}"
    true = parts[1].maps_NSS.flatten()
    assert metrics[metric] == pytest.approx(jaccard_score(true, predicted, average="macro"), abs=1e-9)
    present = sorted({*true.tolist(), *predicted.tolist()})
    ious = jaccard_score(true, predicted, labels=present, average=None)
    names = [source.pixel_classes[label] for label in present]
    assert context.mean_per_class(metrics)[metric] == pytest.approx(dict(zip(names, ious, strict=True)))
    assert context.mean_per_class([metric]).keys() == {metric}


def test_an_untrained_student_is_its_own_baseline(context: EvaluationContext) -> None:
    metrics = Segmentation(baselines=True, train_images=100, test_images=40)(
        replace(context, initial=lambda: context.model)
    )
    for classifier in ("knn", "linear"):
        own, initial = (metrics[f"segmentation/{classifier}/{features}"] for features in FEATURES[:2])
        assert own == initial
        assert own != metrics[f"segmentation/{classifier}/raw_pixels"]


@pytest.mark.parametrize(
    ("settings", "values", "parameter"),
    [
        ({"classifiers": ["knn"], "temperature": 10.0}, (1, 150), "k"),
        ({"classifiers": ["linear"]}, (1e-3, 1e4), "strengths"),
    ],
)
def test_choices_are_made_by_the_validation_images_alone(
    context: EvaluationContext, settings: dict, values: tuple, parameter: str
) -> None:
    """On test images whose annotations are turned round the other choice would have been better."""
    source = mosaics(sizes={"train": 10, "validation": 10, "test": 10}, cell=4)
    upset = dict(source.splits)
    upset["test"] = AnnotatedSplit(source.splits["test"].images_KCHW, (source.splits["test"].maps_KHW + 1) % 3)
    context = on(context, Annotated(upset, kinds=source.kinds))
    name = f"segmentation/{settings['classifiers'][0]}/pretrained"
    first, second = (Segmentation(**settings, **{parameter: [value]})(context) for value in values)
    assert first[f"validation/{name}"] > second[f"validation/{name}"]
    assert first[name] < second[name]
    several = Segmentation(**settings, **{parameter: values})(replace(context, splits=("test",)))
    assert several.keys() == {name, f"{name}/{'k' if parameter == 'k' else 'strength'}"}
    assert values[0] in several.values()
    assert several[name] == pytest.approx(first[name], abs=0.01)


def test_repeats_and_leaves_everything_as_it_was(context: EvaluationContext) -> None:
    evaluation = Segmentation(train_images=60, test_images=30, k=[1, 5], strengths=[1.0, 10.0])
    evaluation.check(context.source, context.model)
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in context.model.state_dict().items()}
    first = evaluation(context)
    assert evaluation(context) == first
    assert evaluation.measure(replace(context, seed=7)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert context.model.training
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())
    workers = Segmentation(train_images=60, test_images=30, k=[1, 5], strengths=[1.0, 10.0], num_workers=2)
    assert workers(context) == first


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (lambda: tiny_model(img_size=16, patch_size=4, in_chans=1), lambda: mosaics(channels=1)),
        (lambda: tiny_model(img_size=(8, 24), patch_size=4), lambda: mosaics(size=(8, 24))),
        (lambda: tiny_model(img_size=16, patch_size=(4, 2)), mosaics),
        (lambda: tiny_model(img_size=(16, 32), patch_size=(2, 8)), lambda: mosaics(size=(16, 32))),
        (
            lambda: SimMIM(
                encoder=Swin(img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=4)
            ),
            mosaics,
        ),
    ],
    ids=["gray", "wide", "narrow patches", "wide patches", "swin"],
)
def test_all_kinds_of_images_patches_and_encoders(
    context: EvaluationContext, make: Callable[[], MaskedModel], source: Callable[[], Annotated]
) -> None:
    context = on(context, source(), make())
    evaluation = Segmentation(baselines=True)
    evaluation.check(context.source, context.model)
    metrics = evaluation(context)
    assert metrics.keys() >= NAMES
    for name in (name for name in metrics if not name.endswith(("/k", "/strength"))):
        assert metrics[name] > (0.9 if "knn" in name else 0.75), (name, metrics)


def test_what_is_shown_is_what_was_found(context: EvaluationContext) -> None:
    context = on(context, mosaics(ignored=0.2))
    assert Segmentation(k=[3], strengths=[1.0])(context)["segmentation/knn/pretrained"] > 0.95
    gallery = context.galleries["segmentation"]
    test, rows = context.source.test(), torch.tensor([0, 2, 5, 8, 11, 14])
    torch.testing.assert_close(gallery.pixels, test.images_KCHW[rows] / 255, atol=1e-5, rtol=0)  # type: ignore[attr-defined]
    annotated, *found = gallery.panels
    titles = [panel.title.split("\n")[0] for panel in gallery.panels]
    assert titles == ["annotated", "k-NN", "linear"]
    assert all("mIoU 9" in panel.title or "mIoU 100" in panel.title for panel in found)
    assert all(note != "nothing" for note in annotated.notes)
    assert annotated.class_maps is not None
    assert annotated.class_maps.tolist() == test.maps_KHW[rows].tolist()  # type: ignore[attr-defined]
    counted = annotated.class_maps != IGNORED
    for panel in found:
        assert panel.class_maps is not None
        assert (panel.class_maps == annotated.class_maps)[counted].double().mean() > 0.95
    on_validation = replace(context, splits=("validation",), galleries={})
    Segmentation(k=[3], strengths=[1.0])(on_validation)
    assert on_validation.galleries["segmentation"].pixels.shape == (6, 3, 16, 16)


def test_others_stand_in_with_their_masks_for_training_images_that_cannot_be_read(
    context: EvaluationContext, tmp_path: Path
) -> None:
    evaluation = Segmentation(baselines=True, k=[1, 3], strengths=[1.0, 10.0])
    save_mosaics(tmp_path, train=24, val=8, test=8)
    context = replace(on(context, SegmentationFolder(root=tmp_path, img_size=16)), unreadable=UnreadableImages(0.1))
    images, masks = (tmp_path / "train" / kind for kind in ("images", "masks"))
    (images / "05.png").write_text("no picture")
    found = evaluation(context)
    assert list(context.unreadable.by_index) == [5]
    assert "05.png" in next(iter(context.unreadable.by_name))
    for kind in (images, masks):
        (kind / "05.png").write_bytes((kind / "06.png").read_bytes())
    assert evaluation(on(context, SegmentationFolder(root=tmp_path, img_size=16))) == found
    # The damaged image's own mask would have made another figure.
    (masks / "05.png").write_bytes((masks / "00.png").read_bytes())
    assert evaluation(on(context, SegmentationFolder(root=tmp_path, img_size=16))) != found


def test_scored_images_and_masks_must_be_readable(context: EvaluationContext, tmp_path: Path) -> None:
    save_mosaics(tmp_path, train=24, val=8, test=8)
    context = on(context, SegmentationFolder(root=tmp_path, img_size=16))
    (tmp_path / "test" / "masks" / "03.png").write_text("no picture")
    with pytest.raises(UserError, match=r"the mask .*test/masks/03.png cannot be read as an image"):
        Segmentation()(context)
    (tmp_path / "test" / "images" / "02.png").write_text("no picture")
    with pytest.raises(UserError, match=r"test/images/02.png cannot be read as an image"):
        Segmentation()(context)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classifiers": []}, r"Segmentation.classifiers = \[\] must be one or both of \('knn', 'linear'\)"),
        ({"classifiers": "knn"}, "Segmentation.classifiers = 'knn' must be one or both"),
        ({"classifiers": ["knn", "svm"]}, "Segmentation.classifiers"),
        ({"classifiers": ["knn", "knn"]}, "Segmentation.classifiers"),
        ({"k": 5}, "Segmentation.k = 5 must be a sequence of one number or more"),
        ({"k": [3, 0]}, "Segmentation.k = 0 must be at least 1"),
        ({"strengths": ()}, r"Segmentation.strengths = \(\) must be a sequence"),
        ({"strengths": (0.0, 1.0)}, r"Segmentation.strengths = 0.0 must lie in \[1e-12, 1e12\]"),
        ({"train_images": 0}, "Segmentation.train_images = 0 must be at least 1"),
        ({"test_images": 0}, "Segmentation.test_images = 0 must be at least 1"),
        ({"temperature": 0.0}, "Segmentation.temperature = 0.0 must be positive"),
        ({"num_workers": -1}, "Segmentation.num_workers = -1"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmentation(**arguments)


def test_refuses_images_without_classes_of_pixels(context: EvaluationContext, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Segmentation needs the class of every pixel, which ImageFolder does not"):
        Segmentation().check(ImageFolder(root=str(tmp_path), img_size=16), context.model)
    with pytest.raises(ValueError, match=r"Segmentation needs the class of every pixel"):
        Segmentation().check(Annotated(mosaics().splits, kinds=["all"]), context.model)


def test_refuses_images_of_another_size(context: EvaluationContext) -> None:
    with pytest.raises(ValueError, match=r"Annotated"):
        Segmentation().check(mosaics(size=8), context.model)


def test_needs_validation_images_only_where_there_is_something_to_choose(context: EvaluationContext) -> None:
    without = {
        name: split for name, split in mosaics(sizes=SIZES | {"train": 9}).splits.items() if name != "validation"
    }
    source = Annotated(without, kinds="abc")
    with pytest.raises(UserError, match="Annotated has no validation images"):
        Segmentation(k=[1], strengths=[1.0, 2.0]).check(source, context.model)
    evaluation = Segmentation(classifiers=["knn"], k=[1])
    evaluation.check(source, context.model)
    assert evaluation(on(context, source)).keys() == {"segmentation/knn/pretrained"}


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_of_which_no_pixel_has_a_class_is_named(context: EvaluationContext, split: str) -> None:
    splits = dict(mosaics().splits)
    blank = splits[split]
    splits[split] = AnnotatedSplit(blank.images_KCHW, torch.full_like(blank.maps_KHW, IGNORED))  # type: ignore[arg-type]
    expected = f"no pixel of the {SIZES[split]} {split} images of Annotated has a class"
    with pytest.raises(UserError, match=expected):
        Segmentation()(on(context, Annotated(splits, kinds="abc")))


def test_refuses_more_neighbours_than_there_are_patches(context: EvaluationContext) -> None:
    with pytest.raises(UserError, match=r"Segmentation.k = \(1, 33\) asks for more than the 32 training patches"):
        Segmentation(k=[1, 33], train_images=2)(on(context, mosaics()))
    assert Segmentation(k=[1, 32], train_images=2)(on(context, mosaics()))
