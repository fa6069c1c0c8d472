"""Where results go is looked at before the work: nothing but a file, or nothing at all, gives way to a file."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from hpm.runtime.files import check_file, check_folder, read_text, replacing

Hpm = Callable[..., int]

COMMANDS = {
    "embed": ("embed", "run", "images", "--out", "out.parquet"),
    "sheet": ("visualize", "run", "--out", "out.png"),
    "strip": ("visualize", "run", "--strip", "--out", "out.png"),
    "timeline": ("visualize", "run", "--timeline", "--out", "out.png"),
    "weights": ("export", "run", "--out", "out.safetensors", "--format", "safetensors"),
    "timm": ("export", "run", "--out", "out"),
    "results": ("evaluate", "run", "--protocol", "knn"),
    "progress": ("evaluate", "run", "--protocol", "knn"),
    "training": ("pretrain", "tiny.gin", "--output", "out"),
}
PLACES = {"results": "run/evaluation-knn.json", "progress": "run/evaluation"}
FOLDERS = ("timm", "progress", "training")  # what is written there is a folder


@pytest.fixture
def run(pretrained: Callable[..., Path], hpm: Hpm, tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(pretrained("Schedule.epochs = 2"), tmp_path / "run", symlinks=True)
    (tmp_path / "images").mkdir()
    Image.new("L", (16, 16), 100).save(tmp_path / "images" / "one.png")
    return tmp_path / "run"


@pytest.mark.parametrize("kind", ["pipe", "link to nothing", "the other kind"])
@pytest.mark.parametrize("name", COMMANDS)
def test_only_a_file_gives_way(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str) -> None:
    words = COMMANDS[name]
    place = Path(PLACES.get(name, next((word for word in words if word.startswith("out")), "")))
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "link to nothing":
        place.symlink_to("nowhere")
    elif name in FOLDERS:
        place.touch()
    else:
        place.mkdir()
    before = _what(place)
    assert hpm(*words) == 2
    told = capsys.readouterr()
    assert str(place) in told.err
    assert "name a f" in told.err or "give a new name" in told.err
    assert "..." not in told.out  # nothing has begun
    assert _what(place) == before
    assert not Path("nowhere").exists()


def _what(place: Path) -> tuple[int, ...]:
    """Which file it is, and as it was written; a link that is read has another time of access."""
    status = place.lstat()
    return (status.st_mode, status.st_ino, status.st_mtime_ns)


def test_no_pipe_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    with pytest.raises(OSError, match="a pipe and no file"), replacing(tmp_path / "out"):
        raise AssertionError
    assert stat.S_ISFIFO((tmp_path / "out").stat().st_mode)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("metrics.jsonl", Path.mkdir),
        ("metrics.jsonl", os.mkfifo),
        ("unreadable.txt", os.mkfifo),
        ("pictures", Path.touch),
        ("checkpoints", Path.touch),
    ],
)
def test_a_run_goes_on_where_it_can_be_written_alone(
    hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str], name: str, make: Callable[[Path], object]
) -> None:
    place = Path("run", name)
    (run / "summary.json").unlink()
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    make(place)
    assert hpm("pretrain", "--resume", "--output", "run") == 2
    assert f"{place} is a" in capsys.readouterr().err


def test_what_may_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "new", "new/new"):
        check_file("--out", tmp_path / name)
    for name in ("folder", "new", "new/new"):
        check_folder("--out", tmp_path / name)
    with pytest.raises(Exception, match="file is a file and no folder"):
        check_folder("--out", tmp_path / "file" / "new")


def test_names_that_are_no_text_are_told(hpm: Hpm, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("images", os.fsdecode(b"caf\xe9"))
    folder.mkdir()
    shutil.copy("images/one.png", folder / os.fsdecode(b"\xff.png"))
    (folder / os.fsdecode(b"\xfe.png")).write_bytes(b"no image")
    assert hpm("embed", run, "images", "--out", "out.parquet") == 0
    assert "\\udcfe.png: " in capsys.readouterr().out
    table = pq.read_table("out.parquet").to_pydict()
    assert set(table["path"]) == {"caf\\udce9/\\udcff.png", "one.png"}
    assert "caf\\udce9" in table["label"]
    moved = Path(os.fsdecode(b"run-\xff"))
    shutil.copytree(run, moved, symlinks=True)
    assert hpm("export", moved, "--out", os.fsdecode(b"out-\xff.safetensors"), "--format", "safetensors") == 0
    assert "out-\\udcff.safetensors" in capsys.readouterr().out
    assert hpm("pretrain", "--resume", "--output", moved) == 0
    assert "run-\\udcff" in capsys.readouterr().out


def test_training_goes_on_past_an_unreadable_image_whose_name_is_no_text(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "photographs" / "cat"
    folder.mkdir(parents=True)
    for number in range(24):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number:02}.png")
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"no image")
    bindings = ["Trainer.source = @ImageFolder()", "ImageFolder.root = 'photographs'", "ImageFolder.img_size = 16"]
    bindings += ["Schedule.epochs = 2", "Loading.num_workers = 0", "Loading.max_unreadable = 0.2"]
    bindings += ["Schedule.batch_size = 25", "ImageFolder.validation_images = 0"]
    bindings += ["Monitoring.log_every = 1", "Monitoring.probes = []", "Monitoring.evaluations = []"]
    words = [word for binding in bindings for word in ("-b", binding)]
    assert hpm("pretrain", tiny, *words, "--output", "out") == 0
    assert "\\udcff.png" in capsys.readouterr().out
    assert "\\udcff.png" in read_text(Path("out/unreadable.txt"))
