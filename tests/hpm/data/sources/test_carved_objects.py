"""A source of one's own that knows objects, and has its validation images carved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from hpm.data import FolderSplit, ImageFolder, ImageSource, Split, TensorSplit
from hpm.data.sources.split import Subset

PLACES_K = torch.arange(40) % 4  # the patch of each training image that holds the object


class OneBrightPatch(ImageSource):
    """Images of four patches, one of them white; where it is, is known for the images that `read` gives."""

    def __init__(self, folder: Path) -> None:
        super().__init__(img_size=4, in_chans=3, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.folder = folder

    def pixels(self) -> Tensor:
        patches_K22 = torch.nn.functional.one_hot(PLACES_K, 4).view(-1, 1, 2, 2).to(torch.uint8) * 255
        return patches_K22.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3).expand(-1, 3, -1, -1).contiguous()

    def read(self, split: str) -> Split:
        return TensorSplit(self.pixels())

    @property
    def knows_objects(self) -> bool:
        return True

    def object_map(self, split: Split, indices_N: Tensor, *, patch_size: int) -> Tensor:
        places_K = PLACES_K if split.indices_K is None else PLACES_K[split.indices_K]
        return torch.nn.functional.one_hot(places_K[indices_N], 4).bool()


class InFiles(OneBrightPatch):
    def read(self, split: str) -> Split:
        paths: Sequence[Path] = [self.folder / f"{number}.png" for number in range(40)]
        for path, image_CSS in zip(paths, self.pixels(), strict=True):
            Image.fromarray(image_CSS.permute(1, 2, 0).numpy()).save(path)
        return FolderSplit(paths, None)


class Referring(OneBrightPatch):
    def read(self, split: str) -> Split:
        class Own(TensorSplit):
            def subset(self, indices_K: Tensor) -> Split:  # type: ignore[override]
                return Subset(self, indices_K)

        return Own(self.pixels())


@pytest.mark.parametrize("kind", [OneBrightPatch, InFiles, Referring])
def test_the_object_is_where_the_pixels_say(kind: type[OneBrightPatch], tmp_path: Path) -> None:
    source = kind(tmp_path)
    assert [len(source.train()), len(source.validation()), len(source.test())] == [36, 4, 40]
    for split in (source.train(), source.validation(), source.test(), source.train().to(torch.device("cpu"))):
        indices_N = torch.arange(len(split)).flip(0)
        seen_NL = source.load(split, indices_N)[:, 0, ::2, ::2].flatten(1) > 0.5
        assert torch.equal(source.object_map(split, indices_N, patch_size=2), seen_NL)
    assert source.test().indices_K is None


def test_a_split_on_another_device_remembers() -> None:
    moved = (
        TensorSplit(torch.zeros(5, 1, 2, 2, dtype=torch.uint8)).subset(torch.tensor([4, 1])).to(torch.device("meta"))
    )
    assert moved.indices_K is not None
    assert moved.indices_K.tolist() == [4, 1]


def test_a_folder_that_is_all_for_training_was_not_taken_from_another(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert ImageFolder(root=tmp_path, img_size=4).train().indices_K is None
