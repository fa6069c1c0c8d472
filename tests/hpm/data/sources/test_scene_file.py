"""Rendered scenes are stored once, and what is not whole is rendered again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hpm.data import SPLITS, Composites
from hpm.data.sources.scene_file import scene_file, stored_scenes
from hpm.errors import UserError

SHAPE = (3, 3, 4, 4)
SCENES = torch.arange(144, dtype=torch.uint8).view(SHAPE)


@pytest.fixture
def rendered() -> list[int]:
    """How often scenes were rendered: once for each entry."""
    return []


@pytest.fixture
def render(rendered: list[int]) -> Callable[[], Tensor]:
    def scenes() -> Tensor:
        rendered.append(1)
        return SCENES.clone()

    return scenes


def test_scenes_are_rendered_once(tmp_path: Path, render: Callable[[], Tensor], rendered: list[int]) -> None:
    path = scene_file(tmp_path / "new" / "folder", "scenes", 1, "a")
    for _ in range(3):
        assert torch.equal(stored_scenes(path, SHAPE, render), SCENES)
    assert rendered == [1]
    assert {found.name for found in path.parent.iterdir()} <= {path.name, f"{path.name}.lock"}


def test_everything_that_defines_the_pixels_is_in_the_name(tmp_path: Path) -> None:
    names = [scene_file(tmp_path, *words).name for words in (("a", 1, 2), ("a", 12), ("a", 1, 3), ("b", 1, 2))]
    assert len(set(names)) == 4
    assert scene_file(tmp_path / "other", "a", 1, 2).name == names[0]


@pytest.mark.parametrize("damage", ["a byte", "a byte of the digest", "the end", "more", "all", "another's"])
def test_what_is_not_whole_is_rendered_again(
    tmp_path: Path, render: Callable[[], Tensor], rendered: list[int], damage: str
) -> None:
    path = scene_file(tmp_path, "scenes", 1)
    stored_scenes(path, SHAPE, render)
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[70] ^= 1
    elif damage == "a byte of the digest":
        content[-1] ^= 1
    elif damage == "the end":
        del content[-1:]
    elif damage == "more":
        content += b"0"
    elif damage == "all":
        content.clear()
    else:
        stored_scenes(scene_file(tmp_path, "scenes", 2), SHAPE, lambda: 255 - SCENES)
        content = bytearray(scene_file(tmp_path, "scenes", 2).read_bytes())
    path.write_bytes(content)
    assert torch.equal(stored_scenes(path, SHAPE, render), SCENES)
    assert torch.equal(stored_scenes(path, SHAPE, render), SCENES)
    assert rendered == [1, 1]


def test_an_error_while_rendering_leaves_nothing(tmp_path: Path, render: Callable[[], Tensor]) -> None:
    def fails() -> Tensor:
        raise UserError("a photograph is damaged")

    path = scene_file(tmp_path, "scenes", 1)
    with pytest.raises(UserError, match="a photograph is damaged"):
        stored_scenes(path, SHAPE, fails)
    assert not path.exists()
    assert torch.equal(stored_scenes(path, SHAPE, render), SCENES)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, render: Callable[[], Tensor]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"the folder .*/file/within for rendered scenes cannot be made: Not a dir"):
        scene_file(tmp_path / "file" / "within", "scenes", 1)
    path = scene_file(tmp_path, "scenes", 1)
    path.mkdir()
    with pytest.raises(UserError, match=r"rendered scenes cannot be read from or written to .*\.scenes: Is a dir"):
        stored_scenes(path, SHAPE, render)


def test_a_source_reads_what_another_stored(composite_folders: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    settings = {**composite_folders(), "img_size": 16, "train_size": 12, "validation_size": 9, "test_size": 7}
    plain, first, second = (Composites(**settings, cache_dir=folder) for folder in (None, tmp_path, tmp_path))
    for name in SPLITS:
        indices_N = torch.arange(7)
        expected = plain.get_split(name).images(indices_N)
        assert torch.equal(first.get_split(name).images(indices_N), expected)
        stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"Composites-{name}-*.scenes")}
        assert len(stored) == 1
        for path in stored:
            os.utime(path, ns=(0, 0))  # a file that is written again is younger
        assert torch.equal(second.get_split(name).images(indices_N), expected)
        assert [path.stat().st_mtime_ns for path in stored] == [0]
        assert second.get_split(name).fingerprint() == plain.get_split(name).fingerprint()
        masks_NSS = second.object_masks(second.get_split(name), indices_N)
        assert torch.equal(masks_NSS, plain.object_masks(plain.get_split(name), indices_N))
    Composites(**settings | {"occlusion": 0.0}, cache_dir=tmp_path).train().prepare()
    assert len(list(tmp_path.glob("Composites-train-*.scenes"))) == 2


def test_scenes_are_rendered_when_pixels_are_asked_for(
    composite_folders: Callable[..., dict[str, str]], tmp_path: Path
) -> None:
    settings = {**composite_folders(), "img_size": 16, "train_size": 12, "validation_size": 9, "test_size": 7}
    source = Composites(**settings, cache_dir=tmp_path)
    labels_K = source.train().labels
    assert labels_K is not None
    assert len(source.train()) == len(labels_K) == source.known_train_size == 12
    assert source.train().fingerprint() != source.test().fingerprint()
    assert not list(tmp_path.glob("*.scenes"))
    source.prepare()  # what was asked for so far
    assert sorted(path.name.split("-")[1] for path in tmp_path.glob("*.scenes")) == ["test", "train"]
