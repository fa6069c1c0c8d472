"""Several configurations in one process: none disturbs another, nor what somebody else has configured by gin."""

from __future__ import annotations

import gin
import pytest

from hpm.config import in_force, parse_config
from hpm.errors import UserError

RANDOM = ["quickstart", "curricula/random"]


def test_an_earlier_config_stays_what_it_was() -> None:
    first = parse_config(["quickstart"], ["Ramp.end = 0.7", "Trainer.seed = 3"])
    text = first.text()
    second = parse_config(RANDOM)
    scheduler = first.parameter("Curriculum", "scheduler")
    assert (scheduler.start, scheduler.end) == (0.0, 0.7)
    assert second.parameter("Curriculum", "scheduler")(1.0) == 0.0
    assert first.text() == text
    assert first.parameter("Trainer", "seed") == 3
    assert second.parameter("Trainer", "seed") == 0


def test_bindings_that_nothing_uses_are_those_of_the_config_itself() -> None:
    first = parse_config(RANDOM, ["Ramp.end = 0.7"])
    second = parse_config(["quickstart"], ["Ramp.end = 0.7"])
    for config in (first, second):
        config.parameter("Curriculum", "scheduler")
    second.check_bindings()
    with pytest.raises(UserError, match=r"Ramp\.end"):
        first.check_bindings()


def test_a_config_that_is_refused_leaves_the_one_before() -> None:
    config = parse_config(["quickstart"], ["Ramp.end = 0.7"])
    with pytest.raises(UserError, match="quickstrat"):
        parse_config(["quickstrat"])
    with pytest.raises(UserError, match=r"Ramp\.ending"):
        parse_config(["quickstart"], ["Ramp.ending = 1"])
    assert config.parameter("Curriculum", "scheduler").end == 0.7


def test_parameters_consumed_are_those_of_the_config_itself() -> None:
    first, second = parse_config(["quickstart"]), parse_config(RANDOM)
    first.build_part("Curriculum")
    second.build_part("Curriculum")
    assert "Ramp.end" in first.parameters()
    assert "Constant.value" in second.parameters()
    assert "Ramp.end" not in second.parameters()


def test_what_somebody_else_bound_is_in_force_again_after_each_question() -> None:
    """A config is parsed in force; whoever shares the process puts theirs back by `isolated`."""
    from hpm.config import keeping_gin

    with gin.unlock_config():
        gin.bind_parameter("curriculum.schedulers.ramps.Ramp.end", 0.25)
    before = gin.config_str()
    with keeping_gin():
        config = parse_config(["quickstart"])
        assert config.parameter("Curriculum", "scheduler").end == 0.5
    assert gin.config_str() == before
    assert config.parameter("Curriculum", "scheduler").end == 0.5
    assert gin.config_str() == before
    assert gin.query_parameter("curriculum.schedulers.ramps.Ramp.end") == 0.25


def test_what_an_earlier_config_comes_to_is_its_own() -> None:
    first = parse_config(["quickstart"], ["Ramp.end = 0.7"])
    found = in_force(first)
    parse_config(RANDOM)
    assert in_force(first) == found
    assert "Ramp" in {part.name for part in found.used}


def test_a_scope_that_a_program_has_opened_is_none_of_a_configs() -> None:
    plain = parse_config(["quickstart"])
    plain.build_part("Curriculum")
    with gin.config_scope("somebodys"):
        scoped = parse_config(["quickstart"])
        scoped.build_part("Curriculum")
        assert gin.current_scope() == ["somebodys"]
    assert scoped.parameters() == plain.parameters()
    assert scoped.operative_text() == plain.operative_text()
