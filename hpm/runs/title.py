"""A run's name as people read it: its configs, and what is bound over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

_LONGEST = 100  # characters; lists of runs show fewer


def run_title(configs: Sequence[str], settings: Mapping[str, object]) -> str:
    """A run's name, e.g. "quickstart + attention, Ramp.end=0.7".

    Args:
        configs: names of configs, without folder and suffix.
        settings: values by binding, e.g. `{"Ramp.end": 0.7}`.
    """
    return _shortened([" + ".join(configs), *_assignments(settings)])


def settings_title(settings: Mapping[str, object]) -> str:
    """Settings in a line, e.g. "Ramp.end=0.7, Ramp.shape=cosine".

    Args:
        settings: values by binding.
    """
    return _shortened(_assignments(settings))


def header_of(config: Path) -> str:
    """The comment that a config begins with, without its signs; empty where it has none."""
    lines = []
    for line in config.read_text(encoding="utf-8-sig").splitlines():
        if not line.startswith("#"):
            break
        lines.append(f"    {text.strip()}" if (text := line[1:]).startswith("   ") else text.strip())
    return "\n".join(lines).strip()


def _assignments(settings: Mapping[str, object]) -> list[str]:
    return [f"{name}={f'{value:.4g}' if isinstance(value, float) else value}" for name, value in settings.items()]


def _shortened(items: Sequence[str]) -> str:
    """As many items as fit, then an ellipsis for the others."""
    title = ", ".join(items)
    if len(title) <= _LONGEST:
        return " ".join(title.split())
    return " ".join(f"{title[: _LONGEST - 1].rpartition(', ')[0] or title[: _LONGEST - 1]}…".split())
