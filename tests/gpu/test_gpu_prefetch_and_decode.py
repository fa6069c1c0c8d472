"""The loader on a GPU: the copy ahead, images that lie there, and JPEGs that are decoded there."""

import numpy as np
import pytest
import torch
from PIL import Image

from hpm.data import DigitScenes, ImageFolder, RandomResizedCrop
from hpm.data.loader import Loader

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

GPU = torch.device("cuda", 0)
NAMES = ("indices", "boxes", "flips", "images")
GRAY_LEVEL = 1 / 255 / 0.224  # of normalized pixels, at most


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """JPEGs of several sizes and kinds, and a PNG."""
    root = tmp_path_factory.mktemp("folder")
    random = np.random.default_rng(0)
    for k in range(96):
        coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((500 - 3 * k, 300 + 2 * k), Image.Resampling.BICUBIC)
        if k == 0:
            picture.save(root / "00.png")
        else:
            mode = {1: "L", 2: "CMYK"}.get(k, "RGB")
            picture.convert(mode).save(root / f"{k:02}.jpg", quality=95, progressive=k == 3, subsampling=k % 3)
    return ImageFolder(root=root, img_size=64)


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes(train_size=130, test_size=10)


def make(source, device=GPU, **options):
    defaults = {"batch_size": 16, "patch_size": 8, "crop": RandomResizedCrop(), "seed": 5}
    return Loader(source=source, device=device, **(defaults | options))


def batches_of(loader, epoch=0):
    return [batch for step in loader.epoch(epoch) for batch in step]


def normalized_beforehand(source):
    """What is made once for the device waits for it."""
    source.normalize(torch.zeros(1, source.in_chans, 1, 1, device=GPU))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("name", ["scenes", "folder"])
def test_the_same_batches_as_on_the_cpu_in_the_same_order(request, name, num_workers, accumulate):
    source = request.getfixturevalue(name)
    ours = batches_of(make(source, num_workers=num_workers, accumulate=accumulate))
    theirs = batches_of(make(source, torch.device("cpu"), accumulate=accumulate))
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert all(getattr(one, name).device == GPU for name in NAMES)
        assert all(torch.equal(getattr(one, name).cpu(), getattr(other, name)) for name in NAMES[:3])
        torch.testing.assert_close(one.images.cpu(), other.images, rtol=0, atol=1e-4)


def test_normalization_has_the_bits_of_the_cpus(folder):
    pixels = torch.randint(0, 256, (4, 3, 50, 60), dtype=torch.uint8)
    for given in (pixels, pixels.float(), pixels.contiguous(memory_format=torch.channels_last)):
        on_gpu = folder.normalize(given.to(GPU))
        assert on_gpu.is_contiguous()
        assert torch.equal(on_gpu.cpu(), folder.normalize(pixels))


@pytest.mark.parametrize("decode", [False, True])
def test_batches_stay_whole_while_the_gpu_is_busy(folder, decode):
    """What a step reads late must not have been overwritten by the batches brought since."""
    loader = make(folder, num_workers=2, gpu_decode=decode, batch_size=8)
    expected = [[getattr(batch, name).clone() for name in NAMES] for batch in batches_of(loader)]
    torch.cuda.synchronize()
    read = []
    for (batch,) in loader.epoch(0):
        torch.cuda._sleep(20_000_000)  # about 10 ms, in which the host runs ahead
        read.append([getattr(batch, name).clone() for name in NAMES])
        del batch
    for ours, theirs in zip(read, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("decode", [False, True])
def test_the_host_waits_for_nothing(folder, decode):
    normalized_beforehand(folder)
    loader = make(folder, num_workers=2, gpu_decode=decode)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = batches_of(loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(batches) == loader.steps_per_epoch


def test_jpegs_decoded_by_the_gpu_are_those_that_pillow_decodes(folder):
    ours = batches_of(make(folder, num_workers=2, gpu_decode=True))
    theirs = batches_of(make(folder, num_workers=2))
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES[:3])
        differ_NCSS = (one.images - other.images).abs() / GRAY_LEVEL
        names = [folder.train().paths[index] for index in one.indices.tolist()]
        most, mean = (getattr(differ_NCSS, kind)(dim=(1, 2, 3)).tolist() for kind in ("amax", "mean"))
        assert max(mean) < 1, dict(zip(names, mean, strict=True))
        assert max(most) < 12, dict(zip(names, most, strict=True))  # subsampled color is interpolated differently


def test_what_the_gpu_cannot_decode_is_left_out_like_any_other(folder, tmp_path):
    for k, path in enumerate(folder.train().paths[:32]):
        data = open(path, "rb").read()  # noqa: PTH123, SIM115
        if k == 9:  # between a header that opens and an end that looks sound
            tables = data.index(b"\xff\xc4")
            data = data[:tables] + bytes(len(data) - tables - 2) + data[-2:]
        (tmp_path / f"{k:02}{path[-4:]}").write_bytes(data if k != 7 else data[: len(data) // 2])
    damaged = ImageFolder(root=tmp_path, img_size=64)
    by_gpu, by_pillow = (
        make(damaged, num_workers=2, gpu_decode=decode, max_unreadable=0.1) for decode in (True, False)
    )
    indices = [torch.cat([batch.indices for batch in batches_of(loader)]) for loader in (by_gpu, by_pillow)]
    assert torch.equal(*indices)
    assert set(by_gpu.unreadable) == set(by_pillow.unreadable) == {damaged.train().paths[k] for k in (7, 9)}


def test_resampling_does_not_use_tf32(scenes):
    """With TF32, pixels would move by more than rounding."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        ours = batches_of(make(scenes))
    finally:
        torch.set_float32_matmul_precision(before)
    for one, other in zip(ours, batches_of(make(scenes, torch.device("cpu"))), strict=True):
        torch.testing.assert_close(one.images.cpu(), other.images, rtol=0, atol=1e-4)
