"""JPEGs decoded in batches, on the CPU in the place of a GPU: the same code but for the decoder itself."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from curriculum.noise import Noise
from hpm.config import register_configurables, resume_changes
from hpm.data import DigitScenes, TimmDataset
from hpm.data.crops import RandomResizedCrop
from hpm.data.gpu_decode import _PIXELS_AT_ONCE, Decoder, JpegSplit, _together
from hpm.data.loader import Loader
from hpm.data.sources.folder_split import FolderSplit
from hpm.data.sources.image_folder import ImageFolder
from hpm.errors import TrainingError
from hpm.training.settings import Loading

SIZE = 24
PICTURES = {
    "0.jpg": {},
    "1.jpg": {"width": 60, "height": 90},
    "2.png": {},
    "3.jpg": {"mode": "L"},
    "4.jpg": {"mode": "CMYK"},
    "5.jpg": {"progressive": True},
    "6.jpg": {"keep_rgb": True},
    "7.jpg": {"subsampling": 0, "width": 41},
    "8.jpg": {"exif": True},
    "9.jpg": {"trailing": b"\0\0"},
    "10.jpg": {"width": 130, "height": 30},
    "11.jpg": {"mode": "L", "width": 77},
}
JPEGS = {"0.jpg", "1.jpg", "3.jpg", "5.jpg", "7.jpg", "8.jpg", "10.jpg", "11.jpg"}  # left to the device


def picture(seed, width, height, mode="RGB"):
    """Smooth, so that decoders may differ by little alone."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(seed, width=80, height=50, mode="RGB", format="JPEG", exif=False, trailing=b"", **options):
    file = io.BytesIO()
    if exif:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6  # orientation: turned by 90 degrees
    picture(seed, width, height, mode).save(file, format, **({"quality": 95} | options if format == "JPEG" else {}))
    return file.getvalue() + trailing


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for seed, (name, options) in enumerate(PICTURES.items()):
        (root / name).write_bytes(encode(seed, format="PNG" if name.endswith("png") else "JPEG", **options))
    return [root / name for name in PICTURES]


def choose(split, indices_N):
    boxes_N4, flips_N = RandomResizedCrop().draw(split.sizes(indices_N), noise(indices_N))
    return lambda rows, sizes_N2: (boxes_N4[rows], flips_N[rows])


def noise(indices_N):
    return Noise(3, 0, indices_N)


def decoded(split, indices_N, choose):
    """Crops as a loader process and the device make them together, and what failed."""
    jpegs = JpegSplit(split)
    crops = jpegs.view(indices_N, SIZE, choose)
    encoded = jpegs.take(indices_N, SIZE)
    return *Decoder(split.mode, torch.device("cpu"))(encoded, crops.boxes_N4, crops.flips_N), encoded


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_crops_are_those_that_pillow_decodes(paths, mode):
    split = FolderSplit(paths, None, mode)
    indices_N = torch.tensor([3, 0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 0])
    images_NCSS, failed, encoded = decoded(split, indices_N, choose(split, indices_N))
    assert failed == []
    assert (images_NCSS.dtype, images_NCSS.shape) == (torch.float32, (13, 3 if mode == "RGB" else 1, SIZE, SIZE))
    expected = split.view(indices_N, SIZE, choose(split, indices_N)).images_NCSS.float()
    differ_N = (images_NCSS - expected).abs().amax(dim=(1, 2, 3))
    assert differ_N.max() < 4.0, differ_N
    assert {paths[i].name for i, n in zip(indices_N, encoded.layout_N4[:, 0], strict=True) if n} == JPEGS


def test_boxes_between_pixels(paths):
    split = FolderSplit(paths, None)
    boxes_N4 = torch.tensor([[12.5, 3.25, 20.0, 31.5], [0.0, 0.0, 60.0, 90.0]])
    images_NCSS, _, _ = decoded(
        split, torch.tensor([0, 1]), lambda rows, sizes: (boxes_N4[rows], torch.tensor([True, False])[rows])
    )
    expected = split.crop(torch.tensor([0, 1]), boxes_N4, torch.tensor([True, False]), SIZE)
    # At the edges Pillow sees parts of pixels.
    assert (images_NCSS - expected)[:, :, 1:-1, 1:-1].abs().max() < 4.0


def test_many_and_large_images_are_decoded_in_parts():
    small = (9, 512, 512, 0)
    large = (9, 6000, 4000, 0)
    gray = (9, 512, 512, 1)
    done = (0, 0, 0, 0)
    layout = [small] * 40 + [done] + [large] * 2 + [gray] * 3 + [small]
    parts = list(_together(layout))
    assert parts == [list(range(32)), list(range(32, 40)), [41], [42], [46], [43, 44, 45]]
    assert _PIXELS_AT_ONCE == 32 * 512 * 512


def test_what_cannot_be_decoded_is_told_and_the_others_are_kept(paths):
    """A file whose header is sound and whose content is not."""
    split = FolderSplit(paths, None)
    jpegs, indices_N = JpegSplit(split), torch.tensor([0, 1, 5])
    crops = jpegs.view(indices_N, SIZE, choose(split, indices_N))
    encoded = jpegs.take(indices_N, SIZE)
    start, length = encoded.layout_N4[0, 0], encoded.layout_N4[1, 0]
    encoded.bytes_B[start + 2 : start + length] = 0
    images_NCSS, failed = Decoder("RGB", torch.device("cpu"))(encoded, crops.boxes_N4, crops.flips_N)
    assert failed == [1]
    assert not images_NCSS[1].any()
    expected = split.view(indices_N, SIZE, choose(split, indices_N)).images_NCSS
    assert (images_NCSS[[0, 2]] - expected[[0, 2]]).abs().max() < 4.0


def test_what_the_device_refuses_is_left_to_pillow(paths):
    split, indices_N = FolderSplit(paths, None), torch.tensor([0, 1])
    jpegs = JpegSplit(split, refused={1})
    jpegs.view(indices_N, SIZE, choose(split, indices_N))
    encoded = jpegs.take(indices_N, SIZE)
    assert encoded.layout_N4[:, 0].tolist() == [paths[0].stat().st_size, 0]
    assert torch.equal(encoded.crops_MCSS[0], split.view(indices_N, SIZE, choose(split, indices_N)).images_NCSS[1])


DAMAGE = {7: "truncated", 8: "empty", 9: "not an image", 40: "damaged", 79: "missing"}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    root = tmp_path_factory.mktemp("damaged")
    for k in range(80):
        data = encode(k, width=60 + k % 7) if k % 5 else encode(k, format="PNG")
        damage = DAMAGE.get(k)
        if damage == "truncated":
            data = data[: len(data) // 2]
        elif damage == "damaged":  # between a header that Pillow opens and an end that looks sound
            data = encode(k)
            tables = data.index(b"\xff\xc4")
            data = data[:tables] + bytes(len(data) - tables - 2) + data[-2:]
        elif damage is not None:
            data = b"" if damage == "empty" else b"text" * 99
        (root / f"{k:02}.{'jpg' if k % 5 or k == 40 else 'png'}").write_bytes(data)
    source = ImageFolder(root=root, img_size=16)
    source.train()  # finds the files, one of which is then removed
    (root / "79.jpg").unlink()
    return source


def make(source, **options):
    defaults = {"batch_size": 8, "patch_size": 8, "crop": RandomResizedCrop(), "seed": 3, "max_unreadable": 0.1}
    return Loader(source=source, **(defaults | options))


def rows(loader, epoch):
    batches = [batch for step in loader.epoch(epoch) for batch in step]
    return tuple(torch.cat([getattr(b, name) for b in batches]) for name in ("indices", "boxes", "flips", "images"))


@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"num_workers": 1, "rank": 1, "world_size": 2}])
def test_only_pixels_differ_and_those_by_little(damaged, options):
    by_pillow, by_device = make(damaged, **options), make(damaged, gpu_decode=True, **({"num_workers": 2} | options))
    for epoch in (0, 1):
        *expected, images = rows(by_pillow, epoch)
        *ours, decoded = rows(by_device, epoch)
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))
        assert (decoded - images).abs().max() < 4 / 255 / 0.224
    assert by_device.unreadable == by_pillow.unreadable
    if not options:
        assert len(by_device.unreadable) == len(DAMAGE)


def test_too_many_unreadable_images_end_the_run(damaged):
    with pytest.raises(TrainingError, match=r"of 80 .* Loading\.max_unreadable = 0\.02 allows 1"):
        rows(make(damaged, gpu_decode=True, num_workers=1, max_unreadable=0.02), 0)


def test_an_epoch_repeats(damaged):
    loader = make(damaged, gpu_decode=True, num_workers=2)
    first = rows(loader, 1)
    again = rows(loader, 1)
    fresh = rows(make(damaged, gpu_decode=True, num_workers=1), 1)
    for other in (again, fresh):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_gray_images_of_any_data_set(tmp_path):
    (tmp_path / "train").mkdir()
    for k in range(8):
        (tmp_path / "train" / f"{k}.jpg").write_bytes(encode(k))
    source = TimmDataset(root=tmp_path, in_chans=1, mean=(0.5,), std=(0.2,), img_size=16, test_split=None)
    images, decoded = (rows(make(source, num_workers=1, gpu_decode=on), 0)[3] for on in (False, True))
    assert decoded.shape == (8, 1, 16, 16)
    assert (images - decoded).abs().max() < 4 / 255 / 0.2


def test_it_needs_loader_processes_and_files(damaged):
    with pytest.raises(ValueError, match=r"Loading\.gpu_decode = True needs .* Loading\.num_workers to 1 or more"):
        make(damaged, gpu_decode=True)
    with pytest.raises(ValueError, match=r"Loading\.gpu_decode = True decodes files, .* DigitScenes lie in memory"):
        make(DigitScenes(train_size=20, test_size=10), gpu_decode=True, num_workers=1)


@pytest.mark.parametrize("saved", ["Loading.num_workers = 2\n", "Loading.gpu_decode = False\n"])
def test_a_resumed_run_keeps_it(saved):
    register_configurables([Loading])
    refused, rounding = resume_changes(saved, "Loading.num_workers = 1\nLoading.gpu_decode = True\n")
    assert [line.split(":")[0] for line in refused] == ["Loading.gpu_decode"]
    assert rounding == []


def test_a_run_without_a_gpu_is_refused_in_a_sentence(hpm, tiny, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")
    bindings = ["-b", "Runtime.device = 'cpu'", "-b", "Loading.num_workers = 1", "-b", "Loading.gpu_decode = True"]
    assert hpm("pretrain", tiny, *bindings) == 2
    told = capsys.readouterr()
    assert "Loading.gpu_decode = True needs a CUDA device, this is cpu; set it to False" in told.out + told.err
