"""Full fine-tuning: its parts against timm's, that it learns, repeats and goes on."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from curriculum import Noise
from hpm.config import find_config, parse_config
from hpm.data import DigitScenes, ImageFolder, RandomResizedCrop, TensorSplit
from hpm.errors import Notice, TrainingError, UserError
from hpm.evaluation import EvaluationContext, FineTune, classifier
from hpm.evaluation.augmentation import AugmentingLoader, RandAugmented, isolated_rng, rand_augment
from hpm.evaluation.supervised import accuracies
from hpm.runtime.distributed import DistributedContext

QUICK = {"epochs": 3, "batch_size": 40, "warmup_epochs": 1, "precision": "fp32", "test_images": 60}


TOLD = ("", "_top5", "/blr", "/epochs")


def test_it_has_its_metrics_repeats_and_touches_nothing(context: EvaluationContext) -> None:
    evaluation = FineTune(baselines=True, **QUICK)
    evaluation.check(context.source, context.model)
    weights = {name: value.clone() for name, value in context.model.state_dict().items()}
    torch_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    metrics = evaluation(context)
    assert set(metrics) == {f"finetune/{name}{top}" for name in ("pretrained", "scratch") for top in TOLD}
    assert evaluation(context) == metrics
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert (np.random.get_state()[1] == numpy_state[1]).all()  # noqa: NPY002
    assert all(torch.equal(value, weights[name]) for name, value in context.model.state_dict().items())
    assert all(parameter.grad is None for parameter in context.model.parameters())


def test_it_learns(context: EvaluationContext) -> None:
    lines: list[str] = []
    settings = QUICK | {
        "epochs": 20,
        "blr": 0.01,
        "layer_decay": 1.0,
        "mixup": 0,
        "cutmix": 0,
        "erasing": 0,
        "rand_augment": None,
        "scale": (0.9, 1.0),
        "flip": 0.0,
        "drop_path": 0.0,
        "smoothing": 0.0,
    }
    FineTune(**settings)(dataclasses.replace(context, report=lines.append))
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert losses[-1] < losses[0] - 0.3


def saved(folder: Path) -> dict:
    return torch.load(folder / "finetune-pretrained.pt", weights_only=True)


@pytest.mark.parametrize("patience", [None, 0.5])
def test_a_killed_one_goes_on_to_the_same_bits(
    context: EvaluationContext, tmp_path: Path, patience: float | None
) -> None:
    evaluation = FineTune(patience=patience, **QUICK)
    expected = evaluation(dataclasses.replace(context, folder=tmp_path / "whole"))

    class Killed(Exception): ...

    def kill(line: str) -> None:
        if "epoch 1/3" in line:
            raise Killed

    with pytest.raises(Killed):
        evaluation(dataclasses.replace(context, folder=tmp_path / "parts", report=kill))
    assert saved(tmp_path / "parts")["epoch"] == 1
    assert evaluation(dataclasses.replace(context, folder=tmp_path / "parts")) == expected
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert whole["epoch"] == parts["epoch"] == 3
    assert all(torch.equal(value, parts["trained"][name]) for name, value in whole["trained"].items())


def test_of_several_rates_the_one_that_validation_images_choose(colors: EvaluationContext) -> None:
    settings = QUICK | {"epochs": 6, "batch_size": 20, "mixup": 0.0, "cutmix": 0.0, "rand_augment": None, "min_lr": 0.0}
    alone = {blr: FineTune(blr=blr, **settings)(colors) for blr in (1e-9, 1e-2)}
    metrics = FineTune(blr=(1e-9, 1e-2), **settings)(colors)
    assert alone[1e-2]["validation/finetune/pretrained"] > alone[1e-9]["validation/finetune/pretrained"]
    assert metrics == alone[1e-2]
    assert metrics["finetune/pretrained/blr"] == 1e-2
    assert metrics["finetune/pretrained/epochs"] == 6


def test_damaged_progress_is_reported_and_left(context: EvaluationContext, tmp_path: Path) -> None:
    (tmp_path / "finetune-pretrained.pt").write_bytes(b"not a checkpoint")
    evaluation = FineTune(**QUICK | {"epochs": 1, "warmup_epochs": 0})
    with pytest.warns(Notice, match="is damaged"):
        metrics = evaluation(dataclasses.replace(context, folder=tmp_path))
    assert metrics == evaluation(context)


def test_workers_and_seeds(context: EvaluationContext) -> None:
    """Workers change nothing, seeds do."""
    settings = QUICK | {"epochs": 1, "warmup_epochs": 0, "test_images": 20, "blr": 0.01}

    def loss(seed: int, workers: int) -> str:
        lines: list[str] = []
        FineTune(num_workers=workers, **settings)(dataclasses.replace(context, seed=seed, report=lines.append))
        return lines[0].split("loss ")[1].split()[0]

    assert loss(0, 0) == loss(0, 2)
    assert loss(0, 0) != loss(1, 0)


def test_accumulation_keeps_the_batch(context: EvaluationContext) -> None:
    """Without what mixes a batch, two halves are the whole."""
    settings = QUICK | {"epochs": 1, "warmup_epochs": 0, "mixup": 0, "cutmix": 0, "erasing": 0, "drop_path": 0.0}

    def loss(accumulate: int) -> float:
        lines: list[str] = []
        FineTune(accumulate=accumulate, **settings)(dataclasses.replace(context, report=lines.append))
        return float(lines[0].split("loss ")[1].split()[0])

    assert loss(2) == pytest.approx(loss(1), abs=2e-4)


def test_drop_path_is_timms(context: EvaluationContext) -> None:
    vit = classifier(context.model, 10, pool="mean", drop_path=0.2)
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks] == pytest.approx([0.0, 0.2])


def test_a_loss_that_is_not_finite_ends_it(context: EvaluationContext) -> None:
    with pytest.raises(
        TrainingError, match=r"finetune-pretrained: the loss is not finite in epoch [12]. Lower FineTune"
    ):
        FineTune(**QUICK | {"blr": 1e20, "warmup_epochs": 0, "epochs": 2})(context)


@pytest.mark.parametrize("chans", [1, 3])
def test_rand_augment_depends_on_seed_epoch_and_image_alone(source: DigitScenes, chans: int) -> None:
    transform = rand_augment("FineTune", "rand-m9-mstd0.5-inc1", size=16, mean=(0.5,) * chans)
    split = source.train()
    if chans == 1:
        gray = split.crop(torch.arange(40), torch.tensor([[0.0, 0, 16, 16]] * 40), torch.zeros(40).bool(), 16)[:, :1]
        split = TensorSplit(gray.round().to(torch.uint8), torch.arange(40))
    augmented = RandAugmented(split, transform, seed=7)

    def view(indices: list[int]) -> torch.Tensor:
        boxes_N4 = torch.tensor([[0.0, 0, 16, 16]]).expand(len(indices), 4)
        return augmented.crop(torch.tensor(indices), boxes_N4, torch.zeros(len(indices)).bool(), 16)

    together = view([3, 4, 5, 6, 7, 8])
    assert together.shape == (6, chans, 16, 16)
    assert together.dtype == torch.uint8
    assert torch.equal(view([8, 4])[0], together[5])
    augmented.epoch = 1
    assert not torch.equal(view([3, 4, 5, 6, 7, 8]), together)


def test_the_strongest_posterization_is_black() -> None:
    """Magnitudes of "rand-m9-mstd0.5-inc1" reach 10, where no bit is kept."""
    transform = rand_augment("FineTune", "rand-m10-inc1-p1.0", size=16, mean=(0.5, 0.5, 0.5))
    (operation,) = [operation for operation in transform.ops if operation.name == "PosterizeIncreasing"]
    image = Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3))
    with isolated_rng(0):
        assert not np.asarray(operation(image)).any()
        operation.magnitude = 9
        assert set(np.unique(np.asarray(operation(image)))) == {0, 128}


def test_the_loader_without_rand_augment_is_the_plain_one(source: DigitScenes) -> None:
    settings = {"batch_size": 8, "patch_size": 4, "crop": RandomResizedCrop(), "processes": DistributedContext()}
    (plain,) = next(iter(AugmentingLoader(source=source, transform=None, seed=3, **settings).epoch(2)))
    transform = rand_augment("FineTune", "rand-m9-n0", size=16, mean=source.mean)  # n0: no operation
    (rounded,) = next(iter(AugmentingLoader(source=source, transform=transform, seed=3, **settings).epoch(2)))
    assert torch.equal(plain.indices, rounded.indices)
    levels = (plain.images - rounded.images).abs().amax() * 255 * min(source.std)
    assert levels <= 0.51  # rounded to whole levels


def test_global_generators_get_their_state_back() -> None:
    before = torch.get_rng_state(), random.getstate()
    with isolated_rng(5):
        first = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    with isolated_rng(5):
        second = torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert torch.equal(first[0], second[0])
    assert first[1:] == second[1:]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_accuracies_count(context: EvaluationContext) -> None:
    """An oracle that puts the right class third."""
    labels = context.source.test().labels
    assert labels is not None
    seen = iter(labels.split(256))

    def third(images: torch.Tensor) -> torch.Tensor:
        truth = next(seen)
        return sum(  # type: ignore[return-value]
            torch.nn.functional.one_hot((truth + shift) % 10, 10) * score
            for shift, score in ((1, 5.0), (2, 4.0), (0, 3.0))
        )

    assert accuracies(third, context, context.source.test(), torch.arange(len(labels))) == {"": 0.0, "_top5": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 31}, "odd number of images"),
        ({"batch_size": 6, "accumulate": 2}, "odd number of images"),
        ({"layer_decay": 0}, "FineTune.layer_decay = 0"),
        ({"patience": 0.0}, "FineTune.patience = 0.0"),
        ({"threshold": -0.1}, "FineTune.threshold = -0.1"),
        ({"trial_epochs": 0}, "FineTune.trial_epochs = 0"),
        ({"blr": [1e-3, 1e308]}, r"FineTune.blr = 1e\+308 is too large: the learning rate"),
        ({"blr": [1e-3, 1e-9], "min_lr": 1e-6}, r"FineTune.min_lr = 1e-06 must be at most the peak"),
        ({"blr": []}, r"FineTune.blr = \[\] must be a positive number, or several"),
        ({"drop_path": 1.0}, "FineTune.drop_path = 1.0"),
        ({"smoothing": 1.0}, "FineTune.smoothing = 1.0"),
        ({"erasing": 2}, "FineTune.erasing = 2"),
        ({"mixup": -1}, "FineTune.mixup = -1"),
        ({"clip_grad": 0}, "FineTune.clip_grad = 0"),
        ({"epochs": 0}, "FineTune.epochs = 0"),
        ({"flip": 2}, "FineTune.flip = 2"),
        ({"precision": "int8"}, "FineTune.precision = 'int8'"),
        ({"num_workers": -1}, "FineTune.num_workers = -1"),
    ],
)
def test_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FineTune(**arguments)


def test_refuses_data_that_cannot_serve(context: EvaluationContext, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"FineTune.batch_size = 1024 must be 1 to 400, the number of training images"):
        FineTune().check(context.source, context.model)
    with pytest.raises(ValueError, match=r"FineTune.rand_augment = 'm9' is no RandAugment"):
        FineTune(rand_augment="m9", batch_size=40).check(context.source, context.model)
    with pytest.raises(ValueError, match=r"rand_augment = 'rand-m9-n1000' asks for 1,000 operations on each image"):
        FineTune(rand_augment="rand-m9-n1000", batch_size=40).check(context.source, context.model)
    for split in ("train", "val"):
        (tmp_path / split / "one").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "one" / "a.png")
    with pytest.raises(ValueError, match="FineTune needs at least two classes"):
        FineTune(batch_size=2).check(ImageFolder(root=str(tmp_path), img_size=16), context.model)


def test_an_unreadable_image_is_left_out(context: EvaluationContext, tmp_path: Path) -> None:
    for split, count in (("train", 150), ("val", 4)):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / split / label / f"{number}.png")
    (tmp_path / "train" / "a" / "3.png").write_text("no image")
    images = ImageFolder(root=tmp_path, img_size=16)
    settings = {"epochs": 1, "batch_size": 30, "warmup_epochs": 0, "precision": "fp32"}
    metrics = FineTune(**settings)(dataclasses.replace(context, source=images))
    assert set(metrics) == {"finetune/pretrained", "finetune/pretrained/blr", "finetune/pretrained/epochs"}
    (tmp_path / "val" / "a" / "3.png").write_text("no image")
    with pytest.raises(UserError, match=r"3.png cannot be read"):
        FineTune(num_workers=1, **settings)(dataclasses.replace(context, source=images))


@pytest.mark.parametrize("name", ["finetune_vit_base", "finetune_vit_large", "linear_vit_base"])
def test_published_configs_bind_what_there_is(name: str, tiny: Path) -> None:
    protocol = "LinearMAE" if name.startswith("linear") else "FineTune"
    config = find_config(f"evaluation/{name}")
    small = [f"{protocol}.batch_size = 32", f"Monitoring.evaluations = [@{protocol}()]"]
    small += ["LinearMAE.accumulate = 1"] if protocol == "LinearMAE" else []
    trainer = parse_config([str(tiny), str(config)], small).build()
    (evaluation,) = trainer.monitoring.evaluations
    assert evaluation.num_workers == 8
    if name == "finetune_vit_large":
        assert (evaluation.schedule.epochs, evaluation.layer_decay, evaluation.drop_path) == (50, 0.75, 0.2)


def test_noise_of_a_crop_does_not_depend_on_its_batch(source: DigitScenes) -> None:
    """What lets low-shot fine-tuning augment a step's images rather than all of them."""
    crop, indices = RandomResizedCrop(), torch.arange(30)
    sizes = source.train().sizes(indices)
    together = crop.draw(sizes, Noise(1, 2, indices))[0]
    assert torch.equal(crop.draw(sizes[:4], Noise(1, 2, indices[10:14]))[0], together[10:14])
