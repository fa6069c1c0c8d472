import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms import RandomResizedCrop as Reference
from torchvision.transforms import functional as F

from curriculum.noise import Noise
from hpm.data.crops import RandomResizedCrop, central_boxes, resample, whole_boxes


def rows(count: int, seed: int = 3) -> Noise:
    return Noise(seed, 0, torch.arange(count))


def by_the_rule(height, width, uniform, scale, ratio):
    """torchvision's loop, fed with the same uniform numbers; a crop has a pixel at least."""
    for k in range(10):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[k])
        aspect = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * uniform[10 + k])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return [int(uniform[20] * (width - w + 1)), int(uniform[21] * (height - h + 1)), w, h]
    if width / height < ratio[0]:
        w, h = width, max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w, h = max(1, round(height * ratio[1])), height
    else:
        w, h = width, height
    return [(width - w) // 2, (height - h) // 2, w, h]


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 700), st.integers(1, 700)), min_size=1, max_size=20),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([(0.2, 1.0), (0.9, 1.0), (0.01, 0.05), (1.0, 1.0)]),
    ratio=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (0.2, 0.3)]),
)
def test_boxes_follow_the_rule_and_fit(sizes, seed, scale, ratio):
    sizes_N2, noise = torch.tensor(sizes), rows(len(sizes), seed)
    boxes_N4, flips_N = RandomResizedCrop(scale=scale, ratio=ratio).draw(sizes_N2, noise)
    assert boxes_N4.dtype == torch.float32
    assert flips_N.dtype == torch.bool
    uniform = noise.uniform(23).double().tolist()
    expected = [by_the_rule(h, w, u, scale, ratio) for (h, w), u in zip(sizes, uniform, strict=True)]
    assert boxes_N4.tolist() == expected
    assert (boxes_N4[:, :2] >= 0).all()
    assert (boxes_N4[:, 2:] >= 1).all() or min(min(size) for size in sizes) == 1
    assert (boxes_N4[:, :2] + boxes_N4[:, 2:] <= sizes_N2.flip(1)).all()


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (97, 13)])
def test_the_fallback_is_torchvisions(size):
    scale = (0.95, 1.0)  # too large to fit at any allowed ratio
    boxes_N4, _ = RandomResizedCrop(scale=scale).draw(torch.tensor([size]), rows(1))
    top, left, height, width = Reference.get_params(torch.zeros(3, *size), list(scale), [3 / 4, 4 / 3])
    assert boxes_N4.tolist() == [[left, top, width, height]]


@pytest.mark.parametrize(("ratio", "size"), [((0.1, 0.4), (1, 9)), ((0.01, 0.02), (20, 30)), ((30, 60), (40, 10))])
def test_a_crop_has_a_pixel_at_least(ratio, size):
    boxes, _ = RandomResizedCrop(ratio=ratio).draw(torch.tensor([size]).repeat(50, 1), rows(50))
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= torch.tensor([size[1], size[0]])).all()


def test_the_distribution_is_torchvisions():
    count, size = 4000, (60, 90)
    boxes_N4, flips_N = RandomResizedCrop().draw(torch.tensor([size]).expand(count, 2), rows(count))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, *size)
        reference = [Reference.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    reference_N4 = torch.tensor(reference).float()[:, [1, 0, 3, 2]]
    for quantile in (0.1, 0.5, 0.9):
        ours, theirs = boxes_N4.quantile(quantile, dim=0), reference_N4.quantile(quantile, dim=0)
        assert torch.allclose(ours, theirs, atol=2.5), (quantile, ours, theirs)
    assert abs(flips_N.float().mean().item() - 0.5) < 0.03


def test_a_draw_does_not_depend_on_the_batch():
    sizes_N2 = torch.randint(5, 300, (100, 2), generator=torch.Generator().manual_seed(0))
    crop = RandomResizedCrop()
    boxes_N4, flips_N = crop.draw(sizes_N2, rows(100))
    picked = torch.tensor([70, 3, 99])
    few_boxes, few_flips = crop.draw(sizes_N2[picked], Noise(3, 0, picked))
    assert torch.equal(few_boxes, boxes_N4[picked])
    assert torch.equal(few_flips, flips_N[picked])


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_flip_probability_at_its_ends(flip):
    _, flips_N = RandomResizedCrop(flip=flip).draw(torch.full((500, 2), 32), rows(500))
    assert (flips_N == bool(flip)).all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 0.2)),
        ("scale", (0.5, 1.1)),
        ("ratio", (0.0, 1.0)),
        ("ratio", (2, 1)),
        ("flip", 1.5),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=rf"RandomResizedCrop\.{argument} = "):
        RandomResizedCrop(**{argument: value})


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(2, 60),
    width=st.integers(2, 60),
    size=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
)
def test_resampling_is_torchvisions(height, width, size, channels, seed):
    random = torch.Generator().manual_seed(seed)
    images_NCHW = torch.randint(0, 256, (3, channels, height, width), generator=random, dtype=torch.uint8)
    boxes_N4, flips_N = RandomResizedCrop().draw(torch.tensor([[height, width]] * 3), rows(3, seed))
    ours = resample(images_NCHW, boxes_N4, flips_N, size)
    for image, (left, top, w, h), flip, our in zip(images_NCHW, boxes_N4.int().tolist(), flips_N, ours, strict=True):
        theirs = F.resized_crop(image.float(), top, left, h, w, [size, size], InterpolationMode.BICUBIC, antialias=True)
        theirs = F.hflip(theirs) if flip else theirs
        assert (our - theirs.clamp(0, 255)).abs().max() < 1e-3 * 255


@pytest.mark.parametrize("size", [1, 28, 32, 57])
def test_the_whole_image_at_its_own_size_is_returned_exactly(size):
    random = torch.Generator().manual_seed(1)
    images_NCHW = torch.randint(0, 256, (4, 3, size, size), generator=random, dtype=torch.uint8)
    same = resample(images_NCHW, whole_boxes(torch.full((4, 2), size)), torch.zeros(4, dtype=torch.bool), size)
    assert same.dtype == torch.float32
    assert torch.equal(same, images_NCHW.float())
    mirrored = resample(images_NCHW, whole_boxes(torch.full((4, 2), size)), torch.ones(4, dtype=torch.bool), size)
    assert torch.equal(mirrored, images_NCHW.flip(3).float())


def test_a_constant_image_stays_constant_and_no_pixel_outside_the_box_is_seen():
    images_NCHW = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    images_NCHW[:, :, 5:15, 4:12] = 200
    inside = resample(images_NCHW, torch.tensor([[4.0, 5.0, 8.0, 10.0]]), torch.tensor([False]), 23)
    assert (inside - 200).abs().max() < 1e-3


def test_boxes_for_evaluation():
    sizes_N2 = torch.tensor([[256, 256], [256, 512], [400, 200]])
    assert whole_boxes(sizes_N2).tolist() == [[0, 0, 256, 256], [0, 0, 512, 256], [0, 0, 200, 400]]
    assert central_boxes(sizes_N2, 0.875).tolist() == [[16, 16, 224, 224], [144, 16, 224, 224], [12.5, 112.5, 175, 175]]
