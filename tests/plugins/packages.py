"""Packages as pip installs them, for tests: a module beside the folder that tells Python of its entry points."""

from __future__ import annotations

from pathlib import Path

SAWTOOTH = '''
import gin
from curriculum import Scheduler


@gin.register
class {name}(Scheduler):
    """Alpha rises from 0 to `high` within each of `teeth` equal parts of the run.

    Args:
        high: the largest alpha.
        teeth: how many parts.
    """

    def __init__(self, *, high: float = 0.5, teeth: int = 5) -> None:
        self.high = high
        self.teeth = teeth

    def __call__(self, progress: float) -> float:
        return self.high * (progress * self.teeth % 1.0)
'''


def install(folder: Path, package: str, module: str, text: str, *, version: str = "1.2") -> None:
    """Put a package of one module into a folder that is on Python's path."""
    (folder / f"{module}.py").write_text(text)
    about = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (about / "entry_points.txt").write_text(f"[curriculum.parts]\nmasks = {module}\n")
