"""Folders of runs in which one file is damaged, is missing, or is another thing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from fuzzing import assert_ends_well, fuzz, run
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed_json, damaged
from PIL import Image

from hpm.cli import main

COMMANDS = (
    ("pretrain", "--resume", "--output", "run"),
    ("evaluate", "run", "--protocol", "knn"),
    ("visualize", "run", "--count", "1", "--out", "sheet.png"),
    ("visualize", "run", "--timeline", "--out", "timeline.png"),
    ("embed", "run", "images", "--out", "features.parquet"),
    ("export", "run", "--out", "encoder.safetensors", "--format", "safetensors"),
    ("export", "run", "--out", "encoder"),
)
KINDS = ("damaged", "changed", "missing", "folder", "link", "pipe")


@fuzz
@given(data=st.data())
def test_a_run(pretrained: Callable[..., Path], scratch: Path, data: st.DataObject) -> None:
    for left in scratch.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    folder = Path(shutil.copytree(pretrained(), scratch / "run", symlinks=True))
    (scratch / "images").mkdir()
    Image.new("RGB", (20, 20)).save(scratch / "images" / "0.png")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".png")
    file = data.draw(st.sampled_from(files), "file")
    kind = data.draw(st.sampled_from(KINDS), "kind")
    content = file.read_bytes()
    if kind == "damaged":
        file.write_bytes(data.draw(damaged(content), "content"))
    elif kind == "changed" and file.suffix == ".json":
        file.write_bytes(data.draw(changed_json(content), "content"))
    else:
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "link":
            file.symlink_to("nowhere")
        elif kind == "pipe":
            os.mkfifo(file)
    command = data.draw(st.sampled_from(COMMANDS), "command")
    ended = run(main, *command)
    assert_ends_well(ended, [file.name, "run", file.parent.name], codes=(0, 2, 3))
