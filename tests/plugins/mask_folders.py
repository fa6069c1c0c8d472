"""Tiny folders of images and masks in the layouts that SegmentationFolder knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

OWN_CLASSES = ("wall", "window", "door")
ADE_CLASSES = ("wall", "building", "sky", "floor")


def numbers_of(seed: int, numbers: tuple[int, ...], height: int, width: int) -> np.ndarray:
    """Blocks of random class numbers, among them the first."""
    coarse = np.random.default_rng(seed).choice(numbers, (4, 4))
    coarse[0, 0] = numbers[0]
    return coarse.repeat(-(-height // 4), axis=0).repeat(-(-width // 4), axis=1)[:height, :width]


def save_pair(image: Path, mask: Path, seed: int, numbers: tuple[int, ...], *, mode: str = "L") -> np.ndarray:
    """An image whose red channel is the mask's first number plus its seed, and the mask; returns the mask."""
    height, width = 20 + seed % 3, 30 + seed % 2
    numbers_HW = numbers_of(seed, numbers, height, width)
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (10 * seed, 0, 50)).save(image)
    if mode == "I;16":
        Image.fromarray(numbers_HW.astype(np.uint16)).save(mask)
    else:
        picture = Image.fromarray(numbers_HW.astype(np.uint8))
        if mode == "P":
            picture = picture.convert("P")
            picture.putpalette([(7 * value) % 256 for value in range(768)])
        elif mode == "1":
            picture = Image.fromarray(numbers_HW.astype(bool))
        picture.save(mask)
    return numbers_HW


def own_layout(
    root: Path, parts: dict[str, int], numbers: tuple[int, ...] = (0, 1, 2, 255), mode: str = "L"
) -> dict[str, list[np.ndarray]]:
    """One's own layout with so many images in each part; returns their masks."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(OWN_CLASSES) + "\n")
    seeds = iter(range(25))
    return {
        part: [
            save_pair(root / part / "images" / f"{k}.png", root / part / "masks" / f"{k}.png", seed, numbers, mode=mode)
            for k, seed in zip(range(count), seeds, strict=False)
        ]
        for part, count in parts.items()
    }


def ade_layout(root: Path) -> dict[str, list[np.ndarray]]:
    """ADE20K's scene parsing benchmark, of four classes."""
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{k}\t0.1\t9\t9\t1\t{name}, another name" for k, name in enumerate(ADE_CLASSES, start=1)]
    root.mkdir(parents=True, exist_ok=True)
    (root / "objectInfo150.txt").write_text("\n".join(rows) + "\n")
    masks: dict[str, list[np.ndarray]] = {}
    for first, (part, count) in enumerate({"training": 4, "validation": 2}.items()):
        names = [f"ADE_{part[:-3]}_{k:08}" for k in range(count)]
        masks[part] = [
            save_pair(
                root / "images" / part / f"{name}.jpg",
                root / "annotations" / part / f"{name}.png",
                4 * first + k,
                (0, 1, 2, 3, 4),
            )
            for k, name in enumerate(names)
        ]
    return masks


def voc_layout(root: Path) -> dict[str, list[np.ndarray]]:
    """Pascal VOC's: lists, and palette masks whose objects have borders of 255."""
    masks: dict[str, list[np.ndarray]] = {}
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for first, part in enumerate(("train", "val")):
        names = [f"2007_{first}{k:04}" for k in range(3)]
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("\n".join(names) + "\n")
        masks[part] = [
            save_pair(
                root / "JPEGImages" / f"{name}.jpg",
                root / "SegmentationClass" / f"{name}.png",
                3 * first + k,
                (0, 1, 15, 20, 255),
                mode="P",
            )
            for k, name in enumerate(names)
        ]
    save_pair(root / "JPEGImages" / "in no list.jpg", root / "SegmentationClass" / "in no list.png", 9, (0,), mode="P")
    (root / "ImageSets" / "Segmentation" / "trainval.txt").write_text("in no list\n")
    return masks
