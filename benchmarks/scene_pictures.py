"""Scenes of StampScenes, and where their objects are: a picture with pairs of rows, scenes above the objects in them.

    python benchmarks/scene_pictures.py [--img-size 48] [--columns 12] [--rows 3] [--out docs/images/stamp_scenes.png]

Needs the Debian packages that configs/data/stamp_scenes.gin names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image

from hpm.data import TRAIN, StampScenes
from hpm.visualization import style


def montage(img_size: int, columns: int, rows: int) -> Image.Image:
    """The first training scenes; below each its object, with what is not the object in gray."""
    count = columns * rows
    source = StampScenes(img_size=img_size, train_size=count)
    train, indices = source.read(TRAIN), torch.arange(count)
    scenes_N3SS, masks_N1SS = train.images(indices), source.object_masks(train, indices).unsqueeze(1)
    objects_N3SS = torch.where(masks_N1SS, scenes_N3SS, 208)
    both = torch.stack([part.unflatten(0, (rows, columns)) for part in (scenes_N3SS, objects_N3SS)], dim=1)
    framed = torch.nn.functional.pad(both, (1, 1, 1, 1), value=255)
    sheet_HW3 = framed.permute(0, 1, 4, 2, 5, 3).reshape(2 * rows * (img_size + 2), columns * (img_size + 2), 3)
    return Image.fromarray(sheet_HW3.numpy())


def main() -> None:
    """Draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img-size", type=int, default=48)
    parser.add_argument("--columns", type=int, default=12)
    parser.add_argument("--rows", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/images/stamp_scenes.png"))
    options = parser.parse_args()
    style.check_name(options.out)
    torch.set_num_threads(1)
    montage(options.img_size, options.columns, options.rows).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
