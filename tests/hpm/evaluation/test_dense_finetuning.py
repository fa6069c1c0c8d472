"""Fine-tuning for segmentation and detection, on scenes whose every pixel is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import Forks
from torch.utils._pytree import tree_leaves

from curriculum.sizes import pair
from hpm.config import parse_config
from hpm.data import IGNORED, AnnotatedBatch, DigitScenes, Objects, SegmentationFolder, StampScenes, annotated_views
from hpm.data.sources.annotations import boxes_of
from hpm.errors import UserError
from hpm.evaluation import Detection, EvaluationContext, FineTuneSegmentation
from hpm.evaluation.dense.encoder_maps import EncoderMap, SimpleFeaturePyramid
from hpm.evaluation.dense.mask_rcnn import MaskRCNNOnEncoder
from hpm.evaluation.dense.segmenters import DPTSegmenter, LinearSegmenter
from hpm.evaluation.supervised import SupervisedTraining
from hpm.models.masked_autoencoder import MaskedAutoencoder

Hpm = Callable[..., int]
SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 10, "warmup_epochs": 0, "test_images": 20, "precision": "fp32"}
TINY_DETECTOR: dict[str, Any] = {"channels": 16, "hidden": 16, "anchor_scale": 2.0, "regions": 8, "proposals": 20}
SEGMENTATION = [f"FineTuneSegmentation.{name} = {value!r}" for name, value in SMALL.items()]
DETECTION = [f"Detection.{name} = {value!r}" for name, value in (SMALL | TINY_DETECTOR).items()]


def words(*bindings: str) -> list[str]:
    return [word for text in bindings for word in ("-b", text)]


def model(img_size: Any = 32, patch_size: Any = 8, depth: int = 4) -> MaskedAutoencoder:
    made = MaskedAutoencoder(
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=32,
        depth=depth,
        num_heads=2,
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    made.init_weights(torch.Generator().manual_seed(0))
    return made


@pytest.fixture
def small(context: EvaluationContext) -> EvaluationContext:
    """The tiny model on a few scenes."""
    source = DigitScenes(img_size=16, train_size=40, validation_size=20, test_size=20)
    return replace(context, source=source, splits=("validation", "test"))


# Networks.


@pytest.mark.parametrize(("size", "patch_size"), [(32, 8), ((32, 64), 8), (32, (8, 4))])
def test_the_map_is_of_the_encoders_own_tokens(size: Any, patch_size: Any) -> None:
    made = model(size, patch_size)
    (height, width), patch = pair(size), pair(patch_size)
    images = torch.randn(2, 3, height, width)
    maps = EncoderMap(made).eval()(images)
    assert maps.shape == (2, 32, height // patch[0], width // patch[1])
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), made.features(images))


def test_the_pyramid_has_five_levels_of_powers_of_two() -> None:
    maps = SimpleFeaturePyramid(EncoderMap(model()), channels=16)(torch.randn(2, 3, 32, 32))
    assert {name: tuple(values.shape) for name, values in maps.items()} == {
        "x4": (2, 16, 16, 16),
        "x2": (2, 16, 8, 8),
        "x1": (2, 16, 4, 4),
        "x0.5": (2, 16, 2, 2),
        "x0.25": (2, 16, 1, 1),
    }


@pytest.mark.parametrize("segmenter", [LinearSegmenter, DPTSegmenter])
@pytest.mark.parametrize("size", [32, (32, 64)])
def test_logits_are_as_large_as_the_image(segmenter: Any, size: Any) -> None:
    network = segmenter(model(size), 5)
    images = torch.randn(2, 3, *((size, size) if isinstance(size, int) else size))
    assert network(images).shape == (2, 5, *images.shape[2:])
    weights = network.encoder.network.state_dict()
    torch.testing.assert_close(
        weights["blocks.1.mlp.fc1.weight"], model(size).encoder.state_dict()["blocks.1.mlp.fc1.weight"]
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [(model(depth=2), "reads 4 blocks of the encoder, which has 2"), (model(24), "multiples of 32 fit")],
)
def test_what_dpt_cannot_read_is_refused(made: MaskedAutoencoder, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DPTSegmenter(made, 5)


def test_the_detector_learns_where_a_square_is() -> None:
    """One image, over and over: a white square on black, in each of two classes by its place."""
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 32, 32)
    masks = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    boxes = torch.tensor([[[4.0, 4.0, 16.0, 16.0]], [[12.0, 14.0, 28.0, 30.0]]])
    for row, ((left, top, right, bottom),) in enumerate(boxes.long().tolist()):
        images[row, :, top:bottom, left:right] = 1.0
        masks[row, 0, top:bottom, left:right] = True
    objects = [Objects(torch.tensor([row]), boxes[row], masks[row], torch.tensor([False])) for row in range(2)]
    network = MaskRCNNOnEncoder(model(), 2, channels=32, hidden=64, anchor_scale=2.0, regions=32, proposals=50).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    first = last = 0.0
    for step in range(120):
        loss = torch.stack(list(network(images, objects).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < first / 4
    network.eval()
    with torch.no_grad():
        found = network(images)
    for row in range(2):
        assert found[row]["labels"][0] == row
        assert (found[row]["boxes"][0] - boxes[row, 0]).abs().max() < 2.5
        assert (found[row]["masks"][0] == masks[row, 0]).float().mean() > 0.95


# Losses.


def test_pixels_that_count_for_nothing_have_no_part_in_the_loss(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for part in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / part / kind).mkdir(parents=True)
        for number in range(4):
            mask = np.full((32, 32), 255, np.uint8)
            if number < 2:
                mask[:, :16] = number
            Image.new("RGB", (32, 32), (number * 60, 90, 30)).save(tmp_path / part / "images" / f"{number}.png")
            Image.fromarray(mask).save(tmp_path / part / "masks" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    source = SegmentationFolder(root=tmp_path, img_size=32, validation_images=0)
    evaluation = FineTuneSegmentation(**SMALL)
    network = LinearSegmenter(model(), 2)
    train = source.train()

    def loss(*indices: int) -> torch.Tensor:
        chosen = torch.tensor(indices)
        boxes, flips = torch.tensor([[0.0, 0.0, 32.0, 32.0]] * len(chosen)), torch.zeros(len(chosen), dtype=torch.bool)
        maps_NSS = evaluation.annotating(train, source.img_size)(chosen, boxes, flips)
        batch = AnnotatedBatch(source.load(train, chosen), 8, chosen, boxes, flips, maps_NSS)
        return evaluation.loss(network, batch, "fp32")

    torch.testing.assert_close(loss(0, 1, 2, 3), (loss(0) + loss(1)) / 2)
    assert loss(2, 3).item() == 0
    with torch.no_grad():
        logits = network(source.load(train, torch.tensor([1])))[0, :, :, :16]
    torch.testing.assert_close(loss(1), -logits.log_softmax(0)[1].mean())


def test_the_objects_of_many_crops_take_no_more_tensors_than_those_of_few(stamp_files: Path) -> None:
    """Each tensor of a loader process is an open file, of which there may be 1,024."""
    source = StampScenes(root=stamp_files, img_size=32, train_size=12, background_objects=3)
    train, chosen = source.train(), torch.arange(12)
    sides, flips = torch.linspace(3, 32, 12), torch.arange(12) % 2 == 0
    boxes = torch.stack([32 - sides, 32 - sides, sides, sides], dim=1)
    shown = Detection().annotating(train, (16, 21))(chosen, boxes, flips)
    expected = annotated_views.objects_in(train, chosen, boxes, flips, (16, 21))
    assert {len(of_image.labels_O) for of_image in expected} > {0, 2}
    for own, of_image in zip(shown.unpacked(torch.device("cpu")), expected, strict=True):
        for values, wanted in zip(own, of_image._replace(boxes_O4=boxes_of(of_image.masks_OHW)), strict=True):
            assert torch.equal(values, wanted)
    tensors = [leaf for leaf in tree_leaves(shown) if isinstance(leaf, torch.Tensor)]
    assert len(tensors) == len(Objects._fields)


# Protocols.


@pytest.mark.parametrize(
    ("evaluation", "prefix", "figures"),
    [
        (FineTuneSegmentation(**SMALL, baselines=True), "segmentation_finetune", [""]),
        (
            Detection(**SMALL, **TINY_DETECTOR, baselines=True),
            "detection",
            [f"/{kind}_{figure}" for kind in ("box", "mask") for figure in ("ap", "ap50", "ap75")],
        ),
    ],
)
def test_metrics_and_pictures(small: EvaluationContext, evaluation: Any, prefix: str, figures: list[str]) -> None:
    before = {name: value.clone() for name, value in small.model.state_dict().items()}
    evaluation.check(small.source, small.model)
    metrics = evaluation.measure(small)
    networks = ("pretrained", "scratch")
    expected = {
        f"{split}{prefix}/{name}{what}" for split in ("validation/", "") for name in networks for what in figures
    }
    assert metrics.keys() == expected
    assert all(0 <= value <= 1 and evaluation.find_metric(name) is not None for name, value in metrics.items())
    gallery = small.galleries[evaluation.protocol]
    assert [panel.title.split("\n")[0] for panel in gallery.panels] == ["annotated", "pretrained", "scratch"]
    assert {name.removeprefix("validation/").split("/")[0] for name in small.per_class} == {prefix}
    assert all(torch.equal(before[name], value) for name, value in small.model.state_dict().items())
    assert evaluation.measure(replace(small, galleries={}, per_class={})) == metrics


def test_segmentation_learns_strokes_from_background(small: EvaluationContext) -> None:
    """Digits white on black, all of one class: brighter patches are digits, which a few epochs tell."""
    source = DigitScenes(img_size=16, train_size=200, validation_size=20, test_size=40, clutter=0, background=0.0)
    settings = SMALL | {"epochs": 6, "blr": 0.1, "layer_decay": 1.0}
    context = replace(small, source=source, splits=("test",))
    FineTuneSegmentation(**settings).measure(context)
    per_class = context.per_class["segmentation_finetune/pretrained"]
    assert per_class["background"][0] > 0.7


def test_what_the_data_do_not_know_is_told(context: EvaluationContext) -> None:
    from hpm.data import FashionMNIST

    for evaluation, words in (
        (
            FineTuneSegmentation(),
            "FineTuneSegmentation needs the class of every pixel, which FashionMNIST does not know",
        ),
        (Detection(), "Detection needs images whose objects are annotated, and FashionMNIST knows none"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluation.check(FashionMNIST(), context.model)


@pytest.mark.parametrize(
    ("part", "settings", "words"),
    [
        (FineTuneSegmentation, {"decoder": "upernet"}, "FineTuneSegmentation.decoder"),
        (FineTuneSegmentation, {"channels": 20}, "FineTuneSegmentation.channels = 20 must be a multiple of 16"),
        (FineTuneSegmentation, {"blr": 0}, "FineTuneSegmentation.blr"),
        (Detection, {"anchor_scale": 0}, "Detection.anchor_scale"),
        (Detection, {"regions": 0}, "Detection.regions"),
        (Detection, {"layer_decay": 0}, "Detection.layer_decay"),
        (Detection, {"epochs": 0}, "Detection.epochs"),
        (Detection, {"scale": (0.5, 0.1)}, "Detection.scale"),
    ],
)
def test_settings_are_checked(part: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        part(**settings)


# The command.


@pytest.fixture
def run(pretrained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(pretrained("Schedule.epochs = 1", "Schedule.warmup_epochs = 0"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return Path("run")


def results(run: Path, protocol: str) -> dict[str, Any]:
    return json.loads((run / f"evaluation-{protocol}.json").read_text())[-1]


def test_encoders_are_kept_and_serve_as_models(run: Path, hpm: Hpm, capsys: pytest.CaptureFixture) -> None:
    bindings = words(*SEGMENTATION, "FineTuneSegmentation.baselines = True")
    finetune = words(
        *(f"FineTune.{name} = {value!r}" for name, value in SMALL.items()),
        "FineTune.baselines = True",
        "FineTune.mixup = 0.0",
        "FineTune.cutmix = 0.0",
    )
    assert hpm("evaluate", run, "--protocol", "segmentation-finetune", "--keep", *bindings) == 0
    assert hpm("evaluate", run, "--protocol", "finetune", "--keep", *finetune) == 0
    assert (run / "evaluation-segmentation-finetune.png").is_file()
    assert results(run, "segmentation-finetune")["per_class"].keys() >= {"segmentation_finetune/scratch"}
    for name in ("segmentation-finetune-pretrained", "segmentation-finetune-scratch", "finetune-scratch"):
        assert hpm("evaluate", run / name, "data/digit_scenes", "--protocol", "rankme", *words("IMG_SIZE = 16")) == 0
    assert hpm("evaluate", run, "--protocol", "finetune", "--keep", *finetune) == 0  # in the place of the earlier ones
    shutil.rmtree(run / "finetune-scratch")
    (run / "finetune-scratch").mkdir()
    capsys.readouterr()
    assert hpm("evaluate", run, "--protocol", "finetune", "--keep", *finetune) == 2
    told = "finetune-scratch is there already, and was not kept by it; move it away"
    assert told in capsys.readouterr().err.replace("\n", " ")
    assert hpm("evaluate", run, "--protocol", "finetune", "--keep", "--seeds", "2", *finetune) == 2
    assert "--keep goes with one seed" in capsys.readouterr().err


def test_an_encoder_is_kept_in_the_place_of_no_other_model(run: Path, hpm: Hpm, capsys: pytest.CaptureFixture) -> None:
    """Not of the one that is evaluated either; of an earlier checkpoint of the same run it is."""
    bindings = words(*SEGMENTATION)
    kept, data = run / "segmentation-finetune-pretrained", ("data/digit_scenes", *words("IMG_SIZE = 16"))
    assert hpm("evaluate", run, "--protocol", "segmentation-finetune", "--keep", *bindings) == 0
    weights = (kept / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert hpm("evaluate", kept, *data, "--protocol", "segmentation-finetune", "--keep", *bindings) == 2
    assert f"--keep would write in the place of {kept}, the model that is evaluated" in capsys.readouterr().err
    other = run / "exported"
    assert hpm("export", run, "--format", "timm", "--out", other) == 0
    assert hpm("evaluate", other, *data, "--protocol", "segmentation-finetune", "--keep", *bindings) == 2
    told = f"--keep: {kept} is there already, from evaluating run; move it away"
    assert told in " ".join(capsys.readouterr().err.split())
    assert (kept / "model.safetensors").read_bytes() == weights
    earlier, *_ = sorted((run / "checkpoints").glob("checkpoint-*"))
    assert hpm("evaluate", earlier, "--protocol", "segmentation-finetune", "--keep", *bindings) == 0
    assert (kept / "model.safetensors").read_bytes() != weights


def test_a_stopped_training_goes_on_with_other_workers(
    run: Path, hpm: Hpm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    bindings = words(*SEGMENTATION, "FineTuneSegmentation.epochs = 3")
    save = SupervisedTraining._save_progress

    def stop(training: SupervisedTraining) -> None:
        save(training)
        if training.epochs == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(SupervisedTraining, "_save_progress", stop)
        assert hpm("evaluate", run, "--protocol", "segmentation-finetune", *bindings) != 0
    capsys.readouterr()
    more = words("FineTuneSegmentation.num_workers = 1")
    assert hpm("evaluate", run, "--protocol", "segmentation-finetune", *bindings, *more) == 0
    assert "segmentation-finetune-pretrained: going on after epoch 2 of 3" in " ".join(capsys.readouterr().out.split())


def test_nothing_to_learn_from_is_told(small: EvaluationContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hpm.data.annotated_views.class_maps_in",
        lambda split, indices, *_, size: torch.full((len(indices), *pair(size)), IGNORED, dtype=torch.int16),
    )
    with pytest.raises(UserError, match="segmentation-finetune-pretrained: the loss is 0 throughout the first epoch"):
        FineTuneSegmentation(**SMALL)(small)


@pytest.mark.parametrize("part", [FineTuneSegmentation, Detection])
def test_a_killed_one_goes_on_to_the_same_bits(small: EvaluationContext, tmp_path: Path, part: Any) -> None:
    settings = SMALL | {"epochs": 3, "baselines": True} | (TINY_DETECTOR if part is Detection else {})
    evaluation = part(**settings)
    expected = evaluation(replace(small, folder=tmp_path / "whole"))

    class Killed(Exception): ...

    def kill(line: str) -> None:
        if "scratch: epoch 2/3" in line:
            raise Killed

    with pytest.raises(Killed):
        evaluation(replace(small, folder=tmp_path / "parts", report=kill))
    lines: list[str] = []
    assert evaluation(replace(small, folder=tmp_path / "parts", report=lines.append)) == expected
    assert any("scratch: going on after epoch 2 of 3" in line for line in lines)
    for name in ("pretrained", "scratch"):
        whole, parts = (
            torch.load(tmp_path / folder / f"{evaluation.protocol}-{name}.pt", weights_only=True)["trained"]
            for folder in ("whole", "parts")
        )
        assert all(torch.equal(value, parts[key]) for key, value in whole.items())


def test_two_processes_find_what_one_finds(run: Path, hpm: Hpm, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    bindings = words(*SEGMENTATION, "FineTuneSegmentation.drop_path = 0.0", "FineTuneSegmentation.test_images = 15")
    command = ["evaluate", str(run), "--protocol", "segmentation-finetune", *bindings]
    assert hpm(*command) == 0
    alone = results(run, "segmentation-finetune")
    ran = forks.run("hpm", *command, processes=2)
    assert ran.returncode == 0, ran.stderr
    together = results(run, "segmentation-finetune")
    assert together["metrics"].keys() == alone["metrics"].keys()
    for name, metric in alone["metrics"].items():
        assert together["metrics"][name]["mean"] == pytest.approx(metric["mean"], abs=2e-3)


def test_two_processes_detect(run: Path, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are drawn by each process for itself, so the figures are not those of one; all images are looked at."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ran = forks.run("hpm", "evaluate", str(run), "--protocol", "detection", *words(*DETECTION), processes=2)
    assert ran.returncode == 0, ran.stderr
    assert len(results(run, "detection")["metrics"]) == 12


# The recipes.


@pytest.mark.parametrize(
    ("recipe", "part"),
    [
        ("segmentation_ade20k", "FineTuneSegmentation"),
        ("segmentation_ade20k_frozen", "Segmentation"),
        ("detection_coco", "Detection"),
    ],
)
def test_recipes_are_built(recipe: str, part: str) -> None:
    config = parse_config(["recipes/hpm_vit_base_800.gin", f"evaluation/{recipe}.gin"], [])
    evaluation = config.build_part(part)
    assert evaluation.protocol
    source = config.parameter("Trainer", "source")
    assert source.img_size == config.parameter("Trainer", "method").student.img_size
    if part == "Segmentation":
        assert evaluation.k == (1, 3, 10, 30)
    else:
        # What is published: AdamW at 1e-4, by the effective batch.
        assert evaluation.schedule.lr == pytest.approx(1e-4)


# Regions.


@pytest.mark.parametrize(("size", "patch"), [((32, 64), 8), (42, 14), ((48, 32), (12, 4))])
def test_regions_and_anchors_lie_where_the_image_has_them(size: Any, patch: Any) -> None:
    """On maps that hold each cell's own place, a region's features are the place of the region."""
    network = MaskRCNNOnEncoder(
        model(size, patch), 2, channels=16, hidden=16, anchor_scale=2.0, regions=8, proposals=10
    )
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.zeros(1, 3, height, width)
    pool = network.detector.roi_heads.box_roi_pool
    with torch.no_grad():
        shapes = {name: maps.shape[-2:] for name, maps in network.pyramid(images).items()}
    maps = {}
    for name, (down, across) in pool.strides.items():
        y = (torch.arange(shapes[name][0]) + 0.5) * down
        x = (torch.arange(shapes[name][1]) + 0.5) * across
        maps[name] = torch.stack([y[:, None].expand(shapes[name]), x.expand(shapes[name])])[None]
    boxes = torch.tensor([[10.0, 9.0, 24.0, 21.0], [14.0, 11.0, 20.0, 23.0]])
    pooled = pool(maps, [boxes], None)
    middles = (boxes[:, :2] + boxes[:, 2:]).flip(1) / 2
    torch.testing.assert_close(pooled[:, :, 3, 3], middles, atol=1e-3, rtol=0)

    anchors = network.detector.rpn.anchor_generator
    features = [torch.zeros(1, 1, *shape) for shape in shapes.values()]
    (boxes_A4,) = anchors(_images(images), features)
    assert len(boxes_A4) == 3 * sum(shape[0] * shape[1] for shape in shapes.values())
    finest = boxes_A4[: 3 * shapes["x4"][0] * shapes["x4"][1]].view(*shapes["x4"], 3, 4)
    corners = (finest[..., :2] + finest[..., 2:])[:, :, 0] / 2
    down, across = pool.strides["x4"]
    assert corners[-1, -1].tolist() == pytest.approx([width - across, height - down])


def _images(images: torch.Tensor) -> Any:
    from torchvision.models.detection.image_list import ImageList

    return ImageList(images, [(images.shape[2], images.shape[3])])


def test_the_heads_compute_in_float32() -> None:
    network = MaskRCNNOnEncoder(model(), 2, channels=16, hidden=16, anchor_scale=2.0, regions=8, proposals=10).eval()
    kinds = {}
    network.detector.rpn.head.register_forward_hook(lambda _, inputs, outputs: kinds.update(rpn=outputs[0][0].dtype))
    network.encoder.register_forward_hook(lambda _, inputs, output: kinds.update(encoder=output.dtype))
    network.pyramid.levels[2].register_forward_hook(lambda _, inputs, output: kinds.update(level=output.dtype))
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32), precision="bf16")
    assert kinds["rpn"] == torch.float32
    assert kinds["encoder"] != torch.float64
    assert network.pyramid.precision == "bf16"
