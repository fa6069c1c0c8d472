"""What refers to itself, too deep, or to too much, is refused before it is followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpm.config import parse_config
from hpm.errors import UserError


def refused(*configs: object, bindings: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as error:
        parse_config([str(config) for config in configs], bindings)
    return str(error.value)


@pytest.mark.parametrize(
    ("bindings", "circle"),
    [
        (("A = %B", "B = %A", "Ramp.end = %A"), "%A -> %B -> %A"),
        (("A = [1, %A]", "Ramp.end = %A"), "%A -> %A"),
        (("Curriculum.scheduler = @Reversed()", "Reversed.scheduler = @Reversed()"), "Reversed -> Reversed"),
        (
            (
                "Curriculum.difficulty = @Smoothed()",
                "Smoothed.estimator = %D",
                "D = @Mixture()",
                "Mixture.estimators = [@Smoothed()]",
            ),
            "Smoothed -> %D -> Mixture -> Smoothed",
        ),
    ],
)
def test_what_is_made_of_itself_is_refused(tiny: Path, bindings: tuple[str, ...], circle: str) -> None:
    message = refused(tiny, bindings=bindings)
    assert "would be made of itself" in message
    assert any(turned in message for turned in _turns(circle))


def _turns(circle: str) -> list[str]:
    """A circle from each of its members on."""
    names = circle.split(" -> ")[:-1]
    return [" -> ".join([*names[k:], *names[:k], names[k]]) for k in range(len(names))]


def test_a_part_in_a_scope_of_its_own_is_no_circle(tiny: Path) -> None:
    bindings = [
        "Curriculum.scheduler = @Reversed()",
        "Reversed.scheduler = @inner/Reversed()",
        "inner/Reversed.scheduler = @Ramp()",
    ]
    trainer = parse_config([str(tiny)], bindings).build()
    assert trainer.method.curriculum.alpha(0.5) == 0.25


def test_a_chain_of_macros(tiny: Path) -> None:
    def chain(length: int) -> tuple[str, ...]:
        return (*(f"A{k} = %A{k + 1}" for k in range(length)), f"A{length} = 0.25", "Ramp.end = %A0")

    assert parse_config([str(tiny)], chain(60)).build_part("Ramp").end == 0.25
    assert "through more than 100 references" in refused(tiny, bindings=chain(1500))


@pytest.mark.parametrize(
    ("doubled", "name"),
    [
        (("A0 = [1, 2]", *(f"A{k + 1} = [%A{k}, %A{k}]" for k in range(40)), "Ramp.end = %A40"), "%A"),
        (
            (
                "Curriculum.scheduler = @s0/Chained()",
                *(f"s{k}/Chained.schedulers = [@s{k + 1}/Chained(), @s{k + 1}/Chained()]" for k in range(40)),
                "s40/Chained.schedulers = [@Constant(), @Constant()]",
            ),
            "Chained",
        ),
    ],
)
def test_what_doubles_again_and_again(tiny: Path, doubled: tuple[str, ...], name: str) -> None:
    message = refused(tiny, bindings=doubled)
    assert "comes to more than 100,000 parts and macros" in message
    assert message.startswith(name)


@pytest.mark.parametrize("depth", [60, 1500])
def test_lists_in_lists(tiny: Path, depth: int) -> None:
    assert "lists" in refused(tiny, bindings=(f"Ramp.end = {'[' * depth}{']' * depth}",))


def test_files_that_include_files_without_end(tmp_path: Path) -> None:
    for k in range(60):
        (tmp_path / f"deep{k}.gin").write_text(f"include 'deep{k + 1}.gin'\n")
        (tmp_path / f"double{k}.gin").write_text(f"include 'double{k + 1}.gin'\n" * 2 if k < 20 else "")
    assert "deep0.gin includes more than" in refused(tmp_path / "deep0.gin")
    assert "double0.gin includes more than 1000 files" in refused(tmp_path / "double0.gin")
