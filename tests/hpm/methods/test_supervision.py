"""Semi-supervised training: labels of some images, pseudo-labels of the easy ones of the others, by direct readings."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from curriculum import Batch, Constant, Curriculum, Noise, Plateau, Ramp, Random, Uniform
from curriculum.testing import refuse_host_sync
from hpm.methods.decay import HorizonDecay
from hpm.methods.labeled_images import draw_labeled
from hpm.methods.loss_prediction import AbsoluteLoss, PredictionLoss
from hpm.methods.method import Method
from hpm.methods.recent_difficulties import RecentDifficulties
from hpm.methods.supervision import SemiSupervised
from hpm.models.base import MaskedModel
from hpm.models.cross_mae import CrossMAE
from hpm.models.simmim import SimMIM
from hpm.models.swin import Swin
from hpm.models.vit import ViT
from hpm.optim.param_groups import build_adamw
from hpm.optim.schedule import Schedule
from hpm.runtime.distributed import DistributedContext
from hpm.runtime.settings import Runtime
from hpm.targets import NormalizedPixels
from hpm.training.checks import check_method
from hpm.training.step import TrainingStep

IMAGES, CLASSES, ROWS = 40, 4, 12
DECODERS: dict[str, Any] = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


def vit() -> ViT:
    return ViT(img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2)


def swin() -> Swin:
    return Swin(img_size=32, patch_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2), window_size=4)


MODELS: dict[str, Callable[[], MaskedModel]] = {
    "MAE": tiny_model,
    "blanked patches": lambda: tiny_model(blank_token=True),
    "three class tokens": lambda: tiny_model(class_tokens=3),
    "CrossMAE": lambda: CrossMAE(encoder=vit(), loss_predictor_depth=1, **DECODERS),
    "SimMIM": lambda: SimMIM(encoder=vit()),
    "SimMIM with a Swin": lambda: SimMIM(encoder=swin()),
}


def labels() -> torch.Tensor:
    return torch.arange(IMAGES) % CLASSES


def images() -> torch.Tensor:
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def method(name: str = "MAE", *, prepare: bool = True, prediction: PredictionLoss | None = None, **how: Any) -> Method:
    curriculum = Curriculum(
        scheduler=Constant(value=0.0),
        difficulty=Uniform(),
        sampler=Random(),
        blank_ratio=0.5 if name == "blanked patches" else 0.0,
    )
    supervision = SemiSupervised(num_classes=CLASSES, **{"labeled_share": 0.3} | how)
    built = Method(
        model=MODELS[name](),
        curriculum=curriculum,
        target=NormalizedPixels(),
        prediction_loss=AbsoluteLoss(standardized=False) if prediction is None else prediction,
        ema_decay=HorizonDecay(),
        supervision=supervision,
    )
    built.initialize(torch.device("cpu"), autocast=None, seed=0)
    generator = torch.Generator().manual_seed(3)
    for model in (built.student, built.teacher.model):  # which start alike, and sure of nothing
        for parameter in model.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    if prepare:
        supervision.prepare(labels(), batch_size=ROWS, device=torch.device("cpu"))
    return built


def part_of(built: Method) -> SemiSupervised:
    assert built.supervision is not None
    return built.supervision


def batch(number: int = 0, rows: slice = slice(0, ROWS)) -> Batch:
    chosen = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(number))[:ROWS][rows]
    return Batch(images()[chosen], 8, chosen)


def noise(step: int = 0, rows: slice = slice(0, ROWS)) -> Noise:
    return Noise(0, step, torch.arange(ROWS)[rows])


def cross_entropy(logits: torch.Tensor, label: int) -> float:
    values = logits.double().tolist()
    return math.log(sum(math.exp(value) for value in values)) - values[label]


def pooled_logits(model: MaskedModel, one: Batch, mask: Any) -> torch.Tensor:
    """Token by token, from what the encoder gives for the masked images."""
    assert model.class_head is not None
    tokens, prefix = model.encode(one.images, mask), model.encoder.num_prefix_tokens
    rows = []
    for row, visible in zip(tokens, mask.visible, strict=True):
        patches = row[prefix:]
        if len(patches) != len(visible):  # mask tokens among them
            patches = torch.stack([patches[place] for place in visible.tolist()])
        mean = sum(patch.double() for patch in patches) / len(patches)
        rows.append(model.class_head.weight.double() @ mean + model.class_head.bias.double())
    return torch.stack(rows)


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_are_those_of_a_direct_reading(name: str) -> None:
    built = method(name, weight=0.7, pseudo_weight=1.3)
    labeled = draw_labeled(labels(), share=0.3, per_class=None, seed=0)
    share = labeled.sum().item() / IMAGES
    assert share == 0.3  # 3 of 10 in each of 4 classes
    one = batch()
    with torch.no_grad():
        head, full = built.teacher.model.class_head, built.teacher.model.encode(one.images)
        assert head is not None
        teacher = full[:, built.student.encoder.num_prefix_tokens :].mean(dim=1) @ head.weight.T + head.bias
    sure = sorted(math.exp(-cross_entropy(row, int(row.argmax()))) for row in teacher)
    part_of(built).confidence = limit = (sure[4] + sure[5]) / 2
    losses = built.losses(one, 0.5, noise())
    with torch.no_grad():
        student = pooled_logits(built.student, one, losses.mask)
    supervised = pseudo = taken = right = 0.0
    assert one.indices is not None
    for row, image in enumerate(one.indices.tolist()):
        if labeled[image]:
            supervised += cross_entropy(student[row], image % CLASSES)
            continue
        guess = int(teacher[row].argmax())
        if math.exp(-cross_entropy(teacher[row], guess)) >= limit:
            pseudo += cross_entropy(student[row], guess)
            taken += 1
            right += guess == image % CLASSES
    unlabeled = sum(not labeled[image] for image in one.indices.tolist())
    assert 0 < taken < unlabeled
    supervised, pseudo = supervised / (ROWS * share), pseudo / (ROWS * (1 - share))
    assert losses.supervision is not None
    expected = torch.tensor([supervised, pseudo, unlabeled / ROWS, taken / ROWS, right / ROWS])
    torch.testing.assert_close(losses.supervision.measured(), expected, atol=1e-5, rtol=1e-5)
    whole = losses.reconstruction + losses.prediction + 0.7 * supervised + 1.3 * pseudo
    torch.testing.assert_close(losses.total, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["MAE", "CrossMAE", "SimMIM"])
def test_the_gradient_is_that_of_the_losses(name: str) -> None:
    """Against differences in double precision, along a random direction of encoder and classifier."""
    built = method(name, confidence=0.0)
    built.student.double()
    built.teacher.model.double()
    one = Batch(batch().images.double(), 8, batch().indices)
    own = [
        parameter
        for key, parameter in built.student.named_parameters()
        if key.startswith(("encoder.", "class_head.")) and parameter.requires_grad
    ]
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in own]

    def supervision() -> torch.Tensor:
        losses = built.losses(one, 0.5, noise())
        assert losses.supervision is not None
        return losses.supervision.total

    supervision().backward()
    slope = sum(float((p.grad * d).sum()) for p, d in zip(own, direction, strict=True) if p.grad is not None)
    assert all(parameter.grad is None for parameter in built.teacher.model.parameters())
    ends, eps = [], 1e-6
    for sign in (1, -2):
        with torch.no_grad():
            for parameter, change in zip(own, direction, strict=True):
                parameter.add_(change, alpha=sign * eps)
        ends.append(supervision().item())
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * eps), rel=1e-5)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("difficulty", ["predicted_loss", "reconstruction_loss", "confidence"])
def test_the_share_is_of_the_least_difficult_of_the_last_steps(difficulty: str) -> None:
    """Three steps of a window of two, each image's difficulty computed anew and compared one by one."""
    built = method(confidence=0.0, share=0.4, difficulty=difficulty, window=2)
    labeled = draw_labeled(labels(), share=0.3, per_class=None, seed=0)
    history: list[list[float]] = []
    for step in range(4):
        losses = built.losses(one := batch(step), 0.5, noise(step))
        with torch.no_grad():
            if difficulty == "predicted_loss":
                each = [sum(row) / 16 for row in built.teacher.model.predict_loss(one.images).tolist()]
            elif difficulty == "reconstruction_loss":
                each = [sum(row) / 12 for row in losses.true_NM.tolist()]
            else:
                each = [cross_entropy(row, int(row.argmax())) for row in built.teacher.model.class_logits(one.images)]
        assert one.indices is not None
        free = [value for value, image in zip(each, one.indices.tolist(), strict=True) if not labeled[image]]
        known = sorted(value for past in history[-2:] for value in past)
        limit = known[math.ceil(0.4 * len(known)) - 1] if known else -math.inf
        assert losses.supervision is not None
        taken = losses.supervision.taken.item() * ROWS
        assert taken == pytest.approx(sum(value <= limit + 1e-6 for value in free))
        assert (taken > 0) == (step > 0)
        history.append(free)


def test_recent_difficulties_are_kept_by_step_and_row() -> None:
    recent = RecentDifficulties(window=2, batch_size=4)
    assert recent.threshold(0, 0.5).isnan()
    recent.keep(0, torch.tensor([2, 3]), torch.tensor([7.0, math.nan]))
    assert recent.threshold(0, 0.5).isnan()  # within a step the answer stands
    recent.keep(0, torch.tensor([0, 1]), torch.tensor([5.0, 6.0]))
    assert [recent.threshold(1, share).item() for share in (0.3, 0.34, 0.67, 1.0)] == [5.0, 6.0, 7.0, 7.0]
    assert recent.threshold(1, 0.0).isnan()
    recent.keep(1, torch.arange(4), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert recent.threshold(2, 1.0).item() == 7.0
    recent.keep(2, torch.arange(4), torch.full((4,), math.nan))
    assert recent.threshold(3, 1.0).item() == 4.0  # step 0 is forgotten
    hundred = RecentDifficulties(window=1, batch_size=100)
    hundred.keep(0, torch.arange(100), torch.arange(1.0, 101.0))
    found = [hundred.threshold(step, step / 100).item() for step in range(1, 101)]
    assert found == list(range(1, 101))


def test_as_a_share_of_one_every_pseudo_label_is_taken_from_the_first_step_on() -> None:
    built = method(confidence=0.0, share=Ramp(start=0.0, end=1.0))
    for step, (progress, taken) in enumerate([(0.0, 0.0), (1.0, 1.0)]):
        supervision = built.losses(batch(), progress, noise(step)).supervision
        assert supervision is not None
        assert (supervision.taken / supervision.unlabeled).item() == taken
    whole = method(confidence=0.0)
    assert part_of(whole).module is None
    supervision = whole.losses(batch(), 0.5, noise()).supervision
    assert supervision is not None
    assert supervision.taken == supervision.unlabeled


def test_without_weight_no_teacher_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    built = method(confidence=0.0, pseudo_weight=Ramp(start=0.0, end=2.0))
    asked = []
    answer = built.teacher.class_logits
    monkeypatch.setattr(built.teacher, "class_logits", lambda found: asked.append(1) or answer(found))
    first, last = (built.losses(batch(), progress, noise()).supervision for progress in (0.0, 1.0))
    assert first is not None
    assert last is not None
    assert len(asked) == 1
    assert first.pseudo == first.taken == 0
    torch.testing.assert_close(last.total, last.supervised + 2 * last.pseudo)


def training_step(how: dict[str, Any], label_K: torch.Tensor | None = None) -> TrainingStep:
    built = method(prepare=False, **how)
    known = labels() if label_K is None else label_K
    part_of(built).prepare(known, batch_size=ROWS, device=torch.device("cpu"))
    optimizer = build_adamw(built.student, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
    return TrainingStep(built, optimizer, processes=DistributedContext(), seed=0, batch_size=ROWS)


def train(step: TrainingStep, micro: int = 1, steps: int = 6) -> None:
    for number in range(steps):
        parts = [slice(start, start + ROWS // micro) for start in range(0, ROWS, ROWS // micro)]
        batches = [batch(number, rows) for rows in parts]
        step(batches, step=number, progress=(number + 1) / steps, lr=1e-3, decay=0.9)


SHARES: dict[str, dict[str, Any]] = {
    "predicted_loss": {"confidence": 0.2, "share": Ramp(start=0.3, end=0.9), "window": 2},
    "reconstruction_loss": {"confidence": 0.2, "share": 0.5, "difficulty": "reconstruction_loss"},
    "confidence": {"confidence": 0.0, "share": 0.5, "difficulty": "confidence"},
    "FixMatch": {"confidence": 0.27},
}


@pytest.mark.parametrize("how", SHARES)
def test_accumulation_equals_the_large_batch(how: str) -> None:
    whole, parts = training_step(SHARES[how]), training_step(SHARES[how])
    train(whole)
    train(parts, micro=4)
    torch.testing.assert_close(parts.tally.sums, whole.tally.sums, atol=1e-5, rtol=1e-5)
    assert 0 < whole.tally.sums[11] < whole.tally.sums[10]  # some pseudo-labels were taken, and others not
    others = dict(parts.method.student.named_parameters())
    for name, parameter in whole.method.student.named_parameters():
        if not name.endswith("bias"):  # some have no gradient but rounding, of which AdamW makes steps
            torch.testing.assert_close(others[name], parameter, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("how", SHARES)
def test_labels_of_unlabeled_images_change_nothing_but_the_measured_accuracy(how: str) -> None:
    """They are shuffled among images that both data leave unlabeled; every weight, moment and loss keeps its bits."""
    chosen = draw_labeled(labels(), share=0.3, per_class=None, seed=0)
    never = ~draw_labeled(labels(), share=0.6, per_class=None, seed=0)  # a larger share labels the same and more
    others = never.nonzero().squeeze(1)
    shuffled = labels()
    shuffled[others] = labels()[others.roll(1)]
    assert torch.equal(draw_labeled(shuffled, share=0.3, per_class=None, seed=0), chosen)
    assert (shuffled != labels()).sum() > 10
    one, other = training_step(SHARES[how]), training_step(SHARES[how], shuffled)
    train(one)
    train(other)
    for first, second in (
        (one.method.student, other.method.student),
        (one.method.teacher.model, other.method.teacher.model),
    ):
        for name, tensor in first.state_dict().items():
            assert torch.equal(tensor, second.state_dict()[name]), name
    assert torch.equal(one.tally.sums[:12], other.tally.sums[:12])
    assert one.tally.sums[12] != other.tally.sums[12]  # what is right


def test_other_labels_of_labeled_images_change_the_training() -> None:
    """So that the test above could fail."""
    one, other = training_step({}), training_step({}, (labels() + 1) % CLASSES)
    train(one, steps=2)
    train(other, steps=2)
    assert one.tally.sums[8] != other.tally.sums[8]


def test_without_weights_the_rest_trains_as_without_supervision() -> None:
    def bare(**how: Any) -> TrainingStep:
        curriculum = Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random())
        built = Method(
            model=tiny_model(), curriculum=curriculum, target=NormalizedPixels(), ema_decay=HorizonDecay(), **how
        )
        built.initialize(torch.device("cpu"), autocast=None, seed=0)
        if built.supervision is not None:
            built.supervision.prepare(labels(), batch_size=ROWS, device=torch.device("cpu"))
        optimizer = build_adamw(built.student, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
        return TrainingStep(built, optimizer, processes=DistributedContext(), seed=0, batch_size=ROWS)

    plain = bare()
    weightless = bare(supervision=SemiSupervised(num_classes=CLASSES, weight=0.0, pseudo_weight=0.0))
    train(plain)
    train(weightless)
    found = weightless.method.student.state_dict()
    for name, tensor in plain.method.student.state_dict().items():
        assert torch.equal(found[name], tensor), name
    assert torch.equal(weightless.tally.sums[:8], plain.tally.sums)


@pytest.mark.parametrize("averaged", [True, False])
def test_what_the_teacher_says_has_no_graph(averaged: bool) -> None:
    """Or what is kept of it would hold the graphs of all steps before."""
    built = method(difficulty="confidence", share=0.5)
    if not averaged:
        built.ema_decay = None
        built.start_teacher()
    part = part_of(built)
    pseudo = part.ask(batch(), built.teacher)
    assert not pseudo.surprise_N.requires_grad
    for step in range(2):
        built.losses(batch(step), 0.5, noise(step)).total.backward()
    assert isinstance(part.module, RecentDifficulties)
    assert not part.module.kept_WB.requires_grad
    assert not part.module.threshold(2, 0.5).requires_grad


def test_nothing_waits_for_the_device() -> None:
    step = training_step(SHARES["predicted_loss"])
    train(step, steps=1)  # AdamW makes its moments
    found = [batch(number) for number in range(3)]
    with refuse_host_sync():
        for number, one in enumerate(found):
            step([one], step=number, progress=0.5, lr=1e-3, decay=0.9)


@pytest.mark.parametrize("name", MODELS)
def test_the_other_weights_start_as_without_a_classifier(name: str) -> None:
    plain, classifying = MODELS[name](), MODELS[name]()
    classifying.set_classes(CLASSES)
    for model in (plain, classifying, classifying):  # the second time from weights that are not at 0
        model.init_weights(torch.Generator().manual_seed(1))
        known = plain.state_dict()
        assert list(classifying.state_dict())[: len(known)] == list(known)
        if model is classifying:
            for key, tensor in classifying.state_dict().items():
                assert torch.equal(tensor, known.get(key, torch.zeros_like(tensor))), key
            for parameter in classifying.parameters():
                parameter.data.add_(1.0)


def test_the_labeled_images_are_the_same_for_all() -> None:
    """Of each class its share, rounded, at least one; by the label seed alone; nested in a larger share."""
    classes = torch.tensor([0] * 20 + [1] * 9 + [3] * 2)[torch.randperm(31, generator=torch.Generator().manual_seed(0))]
    drawn = draw_labeled(classes, share=0.17, per_class=None, seed=0)
    assert [int(drawn[classes == label].sum()) for label in (0, 1, 3)] == [3, 2, 1]
    assert torch.equal(drawn, draw_labeled(classes, share=0.17, per_class=None, seed=0))
    more = draw_labeled(classes, share=0.5, per_class=None, seed=0)
    assert (drawn & ~more).sum() == 0
    assert not torch.equal(drawn, draw_labeled(classes, share=0.17, per_class=None, seed=1))
    assert [int(draw_labeled(classes, share=0.1, per_class=2, seed=0)[classes == label].sum()) for label in (0, 3)] == [
        2,
        2,
    ]
    assert draw_labeled(classes, share=1.0, per_class=None, seed=0).all()


def test_the_moving_average_has_a_classifier_of_its_own() -> None:
    built = method()
    before = copy.deepcopy(built.teacher.model.class_head)
    built.teacher.update(built.student, 0.75)
    student, teacher = built.student.class_head, built.teacher.model.class_head
    assert student is not None
    assert teacher is not None
    assert before is not None
    torch.testing.assert_close(teacher.weight, 0.75 * before.weight + 0.25 * student.weight)


def test_a_prediction_of_the_loss_itself_compares_images() -> None:
    """Mean squared error to the loss as it is; standardized in each image it does not change with the image's level."""
    predicted, true = torch.randn(3, 5), torch.rand(3, 5)
    total, count = AbsoluteLoss(standardized=False)(predicted, true)
    expected = sum((p - t) ** 2 for p, t in zip(predicted.flatten().tolist(), true.flatten().tolist(), strict=True))
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert count == 15
    level = torch.tensor([[0.0], [1.0], [2.0]])
    assert AbsoluteLoss()(predicted, true + level)[0].item() == pytest.approx(
        AbsoluteLoss()(predicted, true)[0].item(), rel=1e-4
    )


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"num_classes": 1}, r"SemiSupervised.num_classes = 1 must be at least 2"),
    ({"labeled_share": 0.0}, r"SemiSupervised.labeled_share = 0.0 must lie in \(0, 1\]"),
    ({"labeled_per_class": 0, "labeled_share": None}, r"SemiSupervised.labeled_per_class = 0 must be at least 1"),
    ({"labeled_per_class": 4}, r"labeled_share = 0.3 and labeled_per_class = 4 say twice how many images are labeled"),
    ({"weight": -1.0}, r"SemiSupervised.weight = -1.0 must be at least 0"),
    ({"pseudo_weight": Ramp(start=-1.0, end=1.0)}, r"SemiSupervised.pseudo_weight = -1.0 must be at least 0"),
    ({"confidence": 1.5}, r"SemiSupervised.confidence = 1.5 must lie in \[0, 1\]"),
    ({"share": Ramp(start=0.0, end=2.0)}, r"SemiSupervised.share = .* must lie in \[0, 1\]"),
    ({"share": float("nan")}, r"SemiSupervised.share = nan must be at least 0"),
    ({"share": "all"}, r"SemiSupervised.share must be a float or int or Scheduler, got 'all'"),
    ({"difficulty": "entropy"}, r"SemiSupervised.difficulty = 'entropy' is unknown; choose 'predicted_loss', "),
    ({"window": 0}, r"SemiSupervised.window = 0 must lie in \[1, 10000\]"),
    ({"window": 10**11}, r"SemiSupervised.window = 100000000000 must lie in \[1, 10000\]"),
]


@pytest.mark.parametrize(("how", "message"), WRONG)
def test_wrong_settings_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SemiSupervised(**{"num_classes": CLASSES, "labeled_share": 0.3} | how)


def test_predicted_losses_must_compare_images() -> None:
    parts: dict[str, Any] = {
        "curriculum": Curriculum(scheduler=Constant(value=0.0), difficulty=Uniform(), sampler=Random()),
        "target": NormalizedPixels(),
        "supervision": SemiSupervised(num_classes=CLASSES, share=0.5),
    }
    message = (
        r"SemiSupervised.difficulty = 'predicted_loss' compares images, and Method.prediction_loss = RelativeLoss "
        r"learns what is harder within an image alone; set it to @AbsoluteLoss\(\) with AbsoluteLoss.standardized = "
    )
    with pytest.raises(ValueError, match=message):
        Method(model=tiny_model(), **parts)
    loss = AbsoluteLoss(standardized=False)
    with pytest.raises(ValueError, match=r"asks a loss predictor, and MaskedAutoencoder.loss_predictor_depth is None"):
        Method(model=tiny_model(loss_predictor_depth=None), prediction_loss=loss, **parts)
    with pytest.raises(ValueError, match=r"asks a loss predictor, which Method.prediction_weight = 0 leaves untrained"):
        Method(model=tiny_model(), prediction_loss=loss, prediction_weight=0, **parts)
    assert Method(model=tiny_model(), prediction_loss=loss, **parts).uses_predictions
    free = parts | {"supervision": SemiSupervised(num_classes=CLASSES, share=0.5, difficulty="confidence")}
    assert not Method(model=tiny_model(), **free).uses_predictions


def test_a_teacher_of_low_precision_may_predict_for_pseudo_labels_alone() -> None:
    runtime = Runtime(precision="bf16", teacher_precision="bf16")
    check_method(method(share=0.5, prepare=False), runtime, Schedule())
    with pytest.raises(
        ValueError, match=r"teacher_precision = 'bf16' is of a moving average that predicts losses, and"
    ):
        check_method(method(share=0.5, difficulty="confidence", prepare=False), runtime, Schedule())


def test_data_that_do_not_suit_are_refused() -> None:
    part = SemiSupervised(num_classes=CLASSES)
    part.check_labels(labels(), CLASSES, "Digits")
    with pytest.raises(ValueError, match=r"learns from labels, and the images of Digits have none; choose labeled"):
        part.check_labels(None, 0, "Digits")
    with pytest.raises(ValueError, match=r"SemiSupervised.num_classes = 4, and Digits has 10; set it to 10"):
        part.check_labels(labels(), 10, "Digits")
    with pytest.raises(ValueError, match=r"tell classes apart, and the images of Digits are of one; choose images of"):
        part.check_labels(torch.zeros(20, dtype=torch.int64), 1, "Digits")  # which no num_classes could be set to
    with pytest.raises(ValueError, match=r"labels every training image, so that there is none for a pseudo-label; set"):
        SemiSupervised(num_classes=CLASSES, labeled_per_class=10).check_labels(labels(), CLASSES, "Digits")
    SemiSupervised(num_classes=CLASSES, labeled_share=1.0, pseudo_weight=0.0).check_labels(labels(), CLASSES, "Digits")
    message = r"SemiSupervised.labeled_per_class = 11 is more than the 10 training images of class 0; lower it"
    with pytest.raises(ValueError, match=message):
        SemiSupervised(num_classes=CLASSES, labeled_per_class=11).check_labels(labels(), CLASSES, "Digits")
    built = method()
    with pytest.raises(ValueError, match=r"must know which training image each one is: Batch.indices is None"):
        built.losses(Batch(batch().images, 8), 0.5, noise())


def test_what_cannot_be_recorded_or_watched_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Runtime.cuda_graphs = True needs Method.supervision = None"):
        check_method(method(), Runtime(cuda_graphs=True), Schedule())
    with pytest.raises(ValueError, match=r"watches the metric 'pseudo_label_accuracy'; this run measures .*, super"):
        method(share=Plateau(start=0.2, end=1.0, step=0.1, metric="pseudo_label_accuracy"))
    with pytest.raises(ValueError, match=r"watches the metric 'pseudo_labels_taken'; this run measures"):
        method(pseudo_weight=0.0, weight=Plateau(start=0.2, end=1.0, step=0.1, metric="pseudo_labels_taken"))
    with pytest.raises(ValueError, match=r"this model has no classifier; set Method.supervision"):
        tiny_model().class_logits(batch().images)
