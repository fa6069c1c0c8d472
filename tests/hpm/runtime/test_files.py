"""Files that are written whole or not at all, by several processes at once too."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from hpm.errors import RunInUseError, UserError
from hpm.runs.manifest import DataRecord, Manifest
from hpm.runs.run_folder import RunFolder
from hpm.runtime.files import begun_for, replacing, require_new, write_text
from hpm.visualization import style


def test_two_that_replace_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first.parent == second.parent == tmp_path
        assert sorted(begun_for(path)) == sorted([first, second])
    assert path.read_text() == "first"  # whoever ends last
    assert list(tmp_path.iterdir()) == [path]


def test_many_threads_replace_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                write_text(path, f"{number}" * 1000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(path.read_text())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_two_draw_one_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    (tmp_path / "a.png.partial").mkdir()  # whatever bears a name like that
    failed: list[BaseException] = []

    def draw() -> None:
        try:
            for _ in range(5):
                style.save(Figure((1, 1)), path)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=draw) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_failure_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.write_text("before")

    def write() -> None:
        with replacing(path) as partial:
            if kind == "file":
                partial.write_text("half")
            elif kind == "folder":
                partial.mkdir()
                (partial / "b").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_has_the_mode_of_other_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_what_killed_processes_left_is_removed_once_nobody_can_be_writing_it(tmp_path: Path) -> None:
    path = tmp_path / "[a]*.txt"  # no pattern
    old, new, other = (tmp_path / name for name in ("[a]*.txt.01234567.partial", "[a]*.txt.89abcdef.partial", "a.txt"))
    for left in (old, new, other):
        left.write_text("left")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    os.utime(other, (yesterday, yesterday))
    write_text(path, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, new, other])


def test_a_run_starts_where_a_start_was_killed(tmp_path: Path) -> None:
    manifest = Manifest("run", "pixels", "hard", "fp32", DataRecord("D", 1, "f"))
    (tmp_path / "config.gin.0123abcd.partial").write_text("half")
    (tmp_path / "run.json.0123abcd.partial").write_text("half")
    RunFolder(tmp_path).create("config", "operative", manifest)
    assert (tmp_path / "config.gin").read_text() == "config"
    # Of two processes that found no run at the same time, the second must not be told to resume: it was doing that.
    with pytest.raises(RunInUseError, match="another process has just started a run"):
        RunFolder(tmp_path).create("config", "operative", manifest, found_none=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt.0123abcd.partial").write_text("somebody's")
    with pytest.raises(UserError, match="is not empty"):
        RunFolder(tmp_path / "other").create("config", "operative", manifest)


def test_a_folder_that_another_program_made_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "features"

    def make() -> None:
        with replacing(out) as partial:
            partial.write_text("ours")
            out.mkdir()
            require_new("--out", out, partial)

    with pytest.raises(UserError, match="was made by another program meanwhile") as told:
        make()
    assert Path(str(told.value).rpartition(" ")[2]).read_text() == "ours"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_another_program_made_meanwhile_is_left_alone(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "features.parquet"

    def make() -> None:
        with replacing(out) as partial:
            if kind == "folder":
                partial.mkdir()
                (partial / "weights").write_text("ours")
            else:
                partial.write_text("ours")
            out.write_text("theirs")
            require_new("--out", out, partial)

    with pytest.raises(UserError, match=r"--out .*features\.parquet was made by another program .* is now \S+") as told:
        make()
    assert out.read_text() == "theirs"
    kept = Path(str(told.value).rpartition(" ")[2])
    assert kept.suffix == ".parquet"
    assert (kept / "weights" if kind == "folder" else kept).read_text() == "ours"
    assert sorted(tmp_path.iterdir()) == sorted([out, kept])
