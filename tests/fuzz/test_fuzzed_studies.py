"""Definitions of studies, with whatever their parts may be bound to."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from fuzzing import assert_ends_well, ended, fuzz, lines_of, names_in
from hypothesis import given
from hypothesis import strategies as st

from studies.definition.ablation import Ablation
from studies.definition.loading import load_definition
from studies.definition.search import Search

SPACES = lines_of("odd_spaces.txt")
KEYS = ("Ramp.end", "Ramp.shape", "Nothing.end", "Ramp.nothing", "Trainer.seed", "", "Ramp", "END", "a/Ramp.end", "=")
ODD = lines_of("odd_definitions.txt")


@st.composite
def definitions(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A kind of study, and what is bound of it."""
    part = draw(st.sampled_from([Ablation, Search]))
    names = [name for name in inspect.signature(part).parameters if name != "base"]
    spaces = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(SPACES), max_size=3).map(repr)
    whole = {
        "variants": draw(st.one_of(st.just("{'a': [], 'b': ['Ramp.end = 0.3']}"), st.sampled_from(ODD))),
        "space": draw(st.one_of(spaces, st.just("{'Ramp.end': 'Float(0, 1)'}"))),
        "metric": "'knn/pretrained'",
        "seeds": "[0]",
    }
    for name in draw(st.lists(st.sampled_from(names), max_size=2, unique=True)):
        whole[name] = draw(st.sampled_from(ODD))
    bound = [f"{part.__name__}.{name} = {value}" for name, value in whole.items() if name in names]
    return part.kind, bound


@fuzz
@given(defined=definitions())
def test_a_definition(tiny: Path, scratch: Path, defined: tuple[str, list[str]]) -> None:
    kind, bound = defined
    part = bound[0].partition(".")[0]
    mine = scratch / "study.gin"
    mine.write_text("\n".join([f"{part}.base = ['tiny']", *bound]))
    named = re.findall(r"'([\w/.]{4,})'", " ".join(bound))  # configs that variants name, which a refusal may quote
    assert_ends_well(ended(lambda: load_definition(kind, [str(mine)]).check()), ["study.gin", *named, *names_in(bound)])
