"""MetricsFile: a run's metrics, one JSON row a line."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload

from hpm.errors import Notice
from hpm.runtime.files import flush_to_disk, replacing, to_json

Row = dict[str, Any]

_LATEST = 1e12  # seconds since 1970; trackers count milliseconds in 64 bits


class MetricsFile:
    """A JSON-lines file of metrics. Survives a kill at any moment, and never holds a step twice.

    What cannot be written, e.g. because the disk is full, waits in memory and is written with the next row that can.

    Attributes:
        problem: why rows wait, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem: str | None = None
        self._waiting: list[bytes] = []
        self._whole: int | None = None  # bytes before half a line, where one stands at the end
        self._rows: list[Row] = []  # of the lines that were read so far
        self._offset = self._lines = 0  # bytes and lines of them
        self._file = -1  # the file's number

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; on its way to the disk when this returns, unless the disk refuses it, which is warned of once."""
        warned = self.problem is not None
        self._waiting.append(f"{to_json(row)}\n".encode())
        try:
            self.flush()
        except OSError:
            if not warned:
                warnings.warn(f"{self.problem}; metrics wait in memory", Notice, stacklevel=2)

    def flush(self) -> None:
        """Write what waits.

        Raises:
            OSError: if the disk refuses it; nothing is lost.
        """
        try:
            self._cut()
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.pop(0)
        except OSError as error:
            self.problem = f"{self.path} cannot be written: {error.strerror or error}"
            raise
        self.problem = None

    def _write(self, line: bytes) -> None:
        length = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(line if self._ends_whole() else b"\n" + line)
        except OSError:
            self._whole = length
            with suppress(OSError):
                self._cut()
            raise

    def _ends_whole(self) -> bool:
        """Whether a new line may follow: a kill may have cut the last one short."""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _cut(self) -> None:
        """Take off half a line, which would hide all that follow."""
        if self._whole is not None and self.path.exists():
            os.truncate(self.path, self._whole)
        self._whole = None

    def rows(self) -> list[Row]:
        """All rows, those that wait too. What is no number in them is NaN, which the file writes as null.

        Lines that were read before are not read again. A line that is damaged is left out, which is warned of once; so
        is a last one that a kill cut short, without a word.
        """
        waiting = map(parse_row, self._waiting)
        return [dict(row) for row in self.rows_until()] + [row for row in waiting if row is not None]

    def count_skipped(self) -> int:
        """Steps that were skipped, as far as rows say so."""
        counts = (row.get("skipped_steps", 0) for row in self.rows())
        return sum(count for count in counts if not math.isnan(count))

    def rows_until(self, step: int | None = None) -> Sequence[Row]:
        """The rows in the file up to a step, for training: however many there are, only new ones take time.

        Args:
            step: the last one. Default None, all of them.

        Returns:
            The rows themselves, which are not to be changed; more that are read later do not appear among them.
        """
        for number, _, row in self._read_on():
            if row is not None:
                self._rows.append(row)
            else:
                warnings.warn(f"{self.path}, line {number} is damaged; it is left out", Notice, stacklevel=2)
        count = len(self._rows)
        while step is not None and count and self._rows[count - 1]["step"] > step:
            count -= 1
        return _FirstRows(self._rows, count)

    def _read_on(self) -> Iterator[tuple[int, bytes, Row | None]]:
        """Number, text and row of each whole line from where the last call ended; None for a damaged one."""
        if not self.path.is_file():
            self._forget()
            return
        with self.path.open("rb") as file:
            now = os.fstat(file.fileno())
            if now.st_size < self._offset or now.st_ino != self._file:  # a process that goes on with the run wrote anew
                self._forget()
                self._file = now.st_ino
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                self._lines += 1
                yield self._lines, line, parse_row(line)

    def _forget(self) -> None:
        self._rows, self._offset, self._lines = [], 0, 0

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop rows, e.g. those after the checkpoint that a run goes on from. A damaged line stays as it is."""
        self._forget()
        kept = [line for _, line, row in self._read_on() if row is None or wanted(row)]
        kept += [line for line in self._waiting if (row := parse_row(line)) is None or wanted(row)]
        with replacing(self.path) as partial:
            partial.write_bytes(b"".join(kept))
            flush_to_disk(partial)
        self._forget()
        self._waiting = []
        self._whole = None
        self.problem = None


class _FirstRows(Sequence[Row]):
    """The first so many rows of a list that only grows, without a copy."""

    def __init__(self, rows: list[Row], count: int) -> None:
        self._rows = rows
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        numbers = range(self._count)[index]
        return self._rows[numbers] if isinstance(numbers, int) else [self._rows[number] for number in numbers]


def parse_row(line: bytes) -> Row | None:
    """The row of a line; None for a damaged one.

    Args:
        line: as the file has it.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not _is_row(row):
        return None
    # The rows of a long run share their names: half of the memory.
    return {sys.intern(name): math.nan if value is None else value for name, value in row.items()}


def _is_row(content: Any) -> bool:
    """Whether it is what training writes, so that no reader has to ask again.

    That is `kind`, a text, and `step`, the steps taken; `time` in seconds since 1970 and `skipped_steps`, no more than
    there were steps; and under all other names numbers. Those but `step` may be null. No name holds a list.
    """
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str):
        return False
    step, seconds, skipped = content.get("step"), content.get("time"), content.get("skipped_steps")
    return (
        type(step) is int
        and step >= 0
        and all(_is_number(value) for name, value in content.items() if name != "kind")
        and (seconds is None or 0 <= seconds < _LATEST)
        and (skipped is None or (isinstance(skipped, int) and 0 <= skipped <= step))
    )


def _is_number(value: Any) -> bool:
    """Whether it is null, or a number that a float can be; True is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < 2**63
    return value is None or isinstance(value, float)
