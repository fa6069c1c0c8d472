"""Reads what `recording.RecordingCurriculum` appended."""

from pathlib import Path


def recorded_lines(path: Path) -> list[str]:
    """Not those that a kill tore, which may happen where a page of the file ends."""
    return [line[:-1] for line in path.read_text().splitlines() if line.endswith(";")]
