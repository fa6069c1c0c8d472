"""Images a second of the loader, for files and for tar shards, against timm's on the same ones. Prints JSON.

python benchmarks/loader.py [--images 2000] [--workers 1] [--rounds 5]
python benchmarks/loader.py --images 20000 --workers 2 --rounds 1 --damaged 0.001

The images, JPEGs of 500 x 375 pixels, are made in a temporary folder. Both loaders take random crops of 20 to 100 % of
the area, resample them to 224 pixels by a bicubic filter, mirror half of them and normalize. They take turns, epoch by
epoch, in one order and then the other. With `--damaged`, that share of the files is damaged and our loader runs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from PIL import Image
from timm.data import ImageDataset, create_loader
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from hpm.data import Loader, RandomResizedCrop, TimmDataset

_WIDTH = 500
_HEIGHT = 375
_SIZE = 224
_SCALE = (0.2, 1.0)
_CLASSES, _SHARDS = 10, 8


def make_folder(root: Path, images: int) -> list[Path]:
    """Class folders of JPEGs of about 50 kB: something smooth, and noise on it."""
    random = np.random.default_rng(0)
    noise = random.normal(0.0, 9.0, (2 * _HEIGHT, 2 * _WIDTH, 1)).astype(np.float32)
    paths = []
    for k in range(images):
        coarse = Image.fromarray(random.integers(0, 256, (8, 10, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        top, left = random.integers(0, _HEIGHT), random.integers(0, _WIDTH)
        pixels = (smooth + noise[top : top + _HEIGHT, left : left + _WIDTH]).clip(0, 255).astype(np.uint8)
        path = root / "train" / f"class{k % _CLASSES}" / f"{k:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=85)
        paths.append(path)
    return paths


def make_shards(root: Path, folder: Path, paths: list[Path]) -> None:
    """The same files in tar files."""
    root.mkdir()
    for shard in range(_SHARDS):
        with tarfile.open(root / f"{shard:03}.tar", "w") as file:
            for path in paths[shard::_SHARDS]:
                file.add(path, path.relative_to(folder / "train"))


def damage(paths: list[Path], share: float) -> int:
    """Truncate, empty or overwrite that share of the files, spread evenly; returns how many."""
    count = round(share * len(paths))
    for n in range(count):
        path = paths[n * len(paths) // count]
        data = path.read_bytes()
        path.write_bytes((data[: len(data) // 2], b"", b"not an image" * 1000)[n % 3])
    return count


def our_loader(root: Path, options: argparse.Namespace, max_unreadable: float = 0.0) -> Loader:
    """Our loader of `root`."""
    return Loader(
        source=TimmDataset(root=root, img_size=_SIZE),
        batch_size=options.batch_size,
        patch_size=16,
        crop=RandomResizedCrop(scale=_SCALE),
        seed=0,
        num_workers=options.workers,
        max_unreadable=max_unreadable,
    )


def timm_loader(root: Path, options: argparse.Namespace) -> torch.utils.data.DataLoader:
    """timm's, with the same augmentation."""
    tars = any(root.glob("*.tar"))
    dataset = ImageDataset(str(root), reader=ReaderImageInTar(str(root), cache_tarinfo=False) if tars else None)
    return create_loader(
        dataset,
        (3, _SIZE, _SIZE),
        options.batch_size,
        is_training=True,
        scale=_SCALE,
        hflip=0.5,
        color_jitter=0.0,
        interpolation="bicubic",
        num_workers=options.workers,
        device=torch.device("cpu"),
        persistent_workers=False,
    )


def processor_seconds() -> float:
    """Of this process and of the workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure(epoch: Callable[[], int]) -> dict[str, float]:
    """Images a second and a core-second of one epoch, its workers' start included."""
    started, processor = time.perf_counter(), processor_seconds()
    images = epoch()
    seconds, core_seconds = time.perf_counter() - started, processor_seconds() - processor
    return {"images_per_second": images / seconds, "images_per_core_second": images / core_seconds}


def our_epoch(loader: Loader, epoch: int) -> int:
    """Read an epoch; returns its images."""
    return sum(len(batch) for step in loader.epoch(epoch) for batch in step)


def timm_epoch(loader: torch.utils.data.DataLoader) -> int:
    """Read an epoch; returns its images."""
    return sum(len(images) for images, _ in loader)


def summary(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(root: Path, options: argparse.Namespace) -> dict[str, object]:
    """Both loaders in turns; a first round is not counted."""
    ours, theirs = our_loader(root, options), timm_loader(root, options)
    measured: dict[str, list[dict[str, float]]] = {"ours": [], "timm": []}
    for turn in range(options.rounds + 1):
        contestants: list[tuple[str, Callable[[], int]]] = [
            ("ours", lambda turn=turn: our_epoch(ours, turn)),  # type: ignore[misc]
            ("timm", lambda: timm_epoch(theirs)),
        ]
        for name, epoch in contestants if turn % 2 else reversed(contestants):
            figures = measure(epoch)
            if turn:
                measured[name].append(figures)
    report: dict[str, object] = {
        name: {key: summary([one[key] for one in figures]) for key in figures[0]} for name, figures in measured.items()
    }
    for key in ("images_per_second", "images_per_core_second"):
        pairs = zip(measured["ours"], measured["timm"], strict=True)
        report[f"times_{key}_of_timm"] = summary([one[key] / other[key] for one, other in pairs])
    return report


def read_damaged(root: Path, options: argparse.Namespace, damaged: int) -> dict[str, object]:
    """Our loader alone on a folder of which some files are damaged."""
    loader = our_loader(root, options, max_unreadable=min(0.99, 2 * options.damaged))
    figures = [measure(lambda epoch=epoch: our_epoch(loader, epoch)) for epoch in range(options.rounds)]  # type: ignore[misc]
    return {
        "damaged": damaged,
        "named": len(loader.unreadable),
        "steps_per_epoch": loader.steps_per_epoch,
        "reasons": sorted({reason.partition(" (")[0] for reason in loader.unreadable.values()}),
        "ours": {key: summary([one[key] for one in figures]) for key in figures[0]},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=125)
    parser.add_argument("--damaged", type=float, default=0.0)
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder, shards = Path(temporary, "folder"), Path(temporary, "shards")
        paths = make_folder(folder, options.images)
        report: dict[str, object] = {
            "benchmark": "loader",
            "images": options.images,
            "workers": options.workers,
            "rounds": options.rounds,
            "batch_size": options.batch_size,
            "kilobytes_per_image": statistics.mean(path.stat().st_size for path in paths) / 1000,
        }
        if options.damaged:
            report["folder"] = read_damaged(folder, options, damage(paths, options.damaged))
        else:
            make_shards(shards, folder, paths)
            report |= {"folder": compare(folder / "train", options), "tar_shards": compare(shards, options)}
    report["machine"] = describe_machine("cpu")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
