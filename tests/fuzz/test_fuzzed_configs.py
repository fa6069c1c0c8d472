"""Texts of configs, damaged."""

from __future__ import annotations

from pathlib import Path

from fuzzing import assert_ends_well, fuzz, lines_of, run
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged

from hpm.cli import main
from hpm.config import configs_folder

CONFIGS = sorted(
    path for folder in ("curricula", "data", "models") for path in (configs_folder() / folder).glob("*.gin")
)
PIECES = lines_of("odd_lines.txt")


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A shipped config with lines of its own put in, or damaged."""
    lines = draw(st.sampled_from(CONFIGS)).read_text().splitlines()
    for _ in range(draw(st.integers(0, 3))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(PIECES)))
    text = "\n".join(lines).encode()
    return draw(damaged(text)) if draw(st.booleans()) else text


@fuzz
@given(text=texts())
def test_a_text(tiny: Path, scratch: Path, text: bytes) -> None:
    mine = scratch / "mine.gin"
    mine.write_bytes(text)
    # A refusal may be of a value that goes with what the text left out, and names that.
    words = text.decode(errors="replace").split()
    bound = {word.split(".")[0] for word in words if "." in word} | {word for word in words if word.startswith("%")}
    assert_ends_well(run(main, "plan", tiny, mine), ["mine.gin", *bound, "hpm plan"])
