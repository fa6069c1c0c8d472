"""Difficulties of whole images, against direct readings, and what the image curriculum keeps of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from curriculum import (
    Batch,
    ImageCurriculum,
    ImageLoss,
    ImageShare,
    ImageWeights,
    LabelNoise,
    Noise,
    PrototypeDistance,
    SelfPaced,
    Stream,
    TrainingContext,
)
from curriculum.noise import hash_words


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def clusters(seed: int, images: int = 60, width: int = 6) -> tuple[Tensor, Tensor]:
    """Features around three directions, and which each is around."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (images,), generator=generator)
    centers = 4 * torch.eye(width)[:3]
    return centers[labels] + torch.randn(images, width, generator=generator), labels


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_to_prototypes_is_what_k_means_gives_step_by_step(seed: int) -> None:
    features, _ = clusters(seed)
    points = [unit(feature.double()) for feature in features]
    noise_seed = hash_words(seed, Stream.PROTOTYPES)
    first = sorted(range(60), key=lambda image: int(Noise(noise_seed, 0, torch.tensor([image])).bits(1)))[:4]
    centers = [points[image] for image in first]
    for _ in range(5):
        nearest = [max(range(4), key=lambda k: float(point @ centers[k])) for point in points]
        for k in range(4):
            members = [point for point, near in zip(points, nearest, strict=True) if near == k]
            if members:
                centers[k] = unit(torch.stack(members).sum(dim=0))
    expected = [1 - max(float(point @ center) for center in centers) for point in points]
    found = PrototypeDistance(clusters=4, iterations=5).score(features, None, seed=seed)
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


def test_an_image_far_from_all_others_is_the_hardest() -> None:
    features, _ = clusters(0)
    features[7] = -10.0
    assert int(PrototypeDistance(clusters=3).score(features, None, seed=0).argmax()) == 7


def test_a_label_counts_as_wrong_where_the_mean_of_another_class_is_nearer() -> None:
    features, labels = clusters(1)
    wrong = labels.clone()
    flipped = torch.tensor([3, 11, 40])
    wrong[flipped] = (wrong[flipped] + 1) % 3
    scores = LabelNoise().score(features, wrong, seed=0)
    means = [unit(sum(unit(features[i].double()) for i in range(60) if wrong[i] == k)) for k in range(3)]
    for image in range(60):
        cosines = [float(unit(features[image].double()) @ mean) for mean in means]
        own = cosines.pop(int(wrong[image]))
        assert float(scores[image]) == pytest.approx(max(cosines) - own, abs=1e-5)
    assert set(scores.topk(3).indices.tolist()) == set(flipped.tolist())


def test_a_class_without_images_is_nobodys_other_class() -> None:
    features, labels = clusters(2)
    with_gaps, without = (LabelNoise().score(features, numbers, seed=0) for numbers in (labels * 2, labels))
    torch.testing.assert_close(with_gaps, without, rtol=0, atol=1e-6)


def test_passes_come_when_they_are_due() -> None:
    due = [
        [epoch for epoch in range(8) if difficulty.is_due(epoch)]
        for difficulty in (
            PrototypeDistance(),
            PrototypeDistance(first_epoch=2, every=3),
            LabelNoise(first_epoch=0),
            ImageLoss(),
            ImageLoss(every=3),
        )
    ]
    assert due == [[1], [2, 5], [0], [], [1, 4, 7]]


def prepared(curriculum: ImageCurriculum, *, images: int = 6, masks_per_image: int = 1) -> ImageCurriculum:
    curriculum.prepare(
        TrainingContext(
            num_images=images,
            steps_per_epoch=3,
            in_chans=1,
            patch_size=4,
            grid=(2, 2),
            device=torch.device("cpu"),
            seed=0,
            masks_per_image=masks_per_image,
        )
    )
    return curriculum


def batch(*indices: int) -> Batch:
    return Batch(torch.zeros(len(indices), 1, 8, 8), 4, torch.tensor(indices))


def remembering(momentum: float = 0.0, *, masks_per_image: int = 1) -> ImageCurriculum:
    curriculum = ImageCurriculum(difficulty=ImageLoss(momentum=momentum), selection=ImageShare(share=0.5))
    return prepared(curriculum, masks_per_image=masks_per_image)


def test_the_mean_loss_of_an_image_is_remembered_and_how_often_it_was_shown() -> None:
    images = remembering(momentum=0.25)
    images.remember(batch(4, 1), torch.tensor([[1.0, 3.0], [0.5, 0.5]]))
    images.remember(batch(1, 0), torch.tensor([[2.0, 4.0], [8.0, 8.0]]))
    nan = math.nan
    expected = torch.tensor([8.0, 0.25 * 0.5 + 0.75 * 3.0, nan, nan, 2.0, nan])
    torch.testing.assert_close(images.scores, expected, equal_nan=True)
    assert images.shown.tolist() == [1, 2, 0, 0, 1, 0]


def test_an_image_that_comes_twice_in_a_batch_keeps_its_last_loss() -> None:
    images = remembering()
    images.remember(batch(2, 2, 0), torch.tensor([[1.0], [5.0], [2.0]]))
    assert images.scores[2] == 5.0
    assert images.shown.tolist() == [1, 0, 2, 0, 0, 0]


def test_the_masks_of_an_image_count_as_one_showing_with_their_mean_loss() -> None:
    images = remembering(masks_per_image=2)
    images.remember(batch(2, 2, 0, 0), torch.tensor([[1.0], [5.0], [2.0], [4.0]]))
    assert images.scores[[2, 0]].tolist() == [3.0, 3.0]
    assert images.shown.tolist() == [1, 0, 1, 0, 0, 0]


def test_a_loss_that_is_not_finite_is_left_out() -> None:
    images = remembering()
    images.remember(batch(0, 1), torch.tensor([[1.0], [math.inf]]))
    images.remember(batch(0, 2), torch.tensor([[math.nan], [3.0]]))
    assert images.scores[:3].tolist()[0::2] == [1.0, 3.0]
    assert images.scores[1].isnan()


def test_all_images_are_shown_alike_until_one_is_scored() -> None:
    images = remembering()
    images.start_epoch(0.1)
    assert images.weights.tolist() == [1.0] * 6
    images.remember(batch(0, 1, 2, 3, 4, 5), torch.arange(6.0).unsqueeze(1))
    images.start_epoch(0.2)
    assert images.weights.tolist() == [1, 1, 1, 0, 0, 0]


def test_the_other_polarity_shows_the_hardest() -> None:
    images = prepared(
        ImageCurriculum(difficulty=ImageLoss(every=1), selection=ImageShare(share=0.5), polarity="hardest")
    )
    images.start_epoch(0.5, torch.arange(6.0))
    assert images.weights.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.component_names() == ["ImageLoss", "ImageShare", "hardest"]


def test_what_measures_all_images_remembers_no_losses() -> None:
    images = prepared(ImageCurriculum(difficulty=PrototypeDistance(clusters=2), selection=ImageWeights(beta=1.0)))
    images.remember(batch(0, 1), torch.ones(2, 3))
    assert images.scores.isnan().all()
    assert images.shown.tolist() == [1, 1, 0, 0, 0, 0]


def test_it_takes_the_memory_that_it_says() -> None:
    module = prepared(remembering(), images=100).module
    assert sum(buffer.nbytes for buffer in module.buffers()) == ImageCurriculum.bytes_for(100)


@pytest.mark.parametrize(
    ("difficulty", "polarity", "given"),
    [
        (LabelNoise(), "easiest", "LabelNoise with ImageCurriculum.polarity = 'easiest'"),
        (ImageLoss(), "hardest", "ImageLoss with ImageCurriculum.polarity = 'hardest'"),
    ],
)
def test_a_growing_threshold_follows_losses_of_the_easiest(
    difficulty: ImageLoss | LabelNoise, polarity: str, given: str
) -> None:
    with pytest.raises(ValueError, match=f"ImageCurriculum.selection = SelfPaced compares .* cannot follow {given}"):
        ImageCurriculum(difficulty=difficulty, selection=SelfPaced(), polarity=polarity)


def test_momentum_is_of_losses_that_are_remembered() -> None:
    with pytest.raises(ValueError, match=r"ImageLoss.momentum = 0.5 is of losses that are remembered, and .*every = 2"):
        ImageLoss(momentum=0.5, every=2)


def test_more_prototypes_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"PrototypeDistance.clusters = 100 must be at most the number of .* 6"):
        prepared(ImageCurriculum(difficulty=PrototypeDistance(), selection=ImageShare(share=0.5)))
