"""Everything that is bound is used, replaced with its part, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from curriculum import HardestFirst
from hpm.config import Config, parse_config
from hpm.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a config beside the tiny one."""

    def write(text: str, name: str = "mine.gin") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refused(*configs: object, bindings: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as error:
        parse_config([str(config) for config in configs], bindings).build()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_scope_is_consumed_by_its_own_name(tiny: Path) -> None:
    bindings = [
        "Monitoring.evaluations = [@a/KNN()]",
        "Monitoring.probes = [@b/KNN()]",
        "a/KNN.k = 3",
        "b/KNN.k = 5",
        "KNN.test_images = 10",
        "KNN.train_images = 20",
    ]
    monitoring = parse_config([str(tiny)], bindings).build().monitoring
    assert [evaluation.ks for evaluation in (*monitoring.evaluations, *monitoring.probes)] == [(3,), (5,)]
    assert "c/KNN.k (-b) is bound, but nothing" in refused(tiny, bindings=(*bindings, "c/KNN.k = 7"))


# Replaced parts.


def test_what_a_replaced_part_refers_to_goes_with_it(tiny: Path, write: Write) -> None:
    mixture = write(
        "Curriculum.difficulty = @Mixture()\n"
        "Mixture.estimators = [@Smoothed(), @EdgeDensity()]\n"
        "Smoothed.estimator = @Attention()\n"
        "WEIGHTS = [1.0, 2.0]\n"
        "Mixture.weights = %WEIGHTS\n"
    )
    config = parse_config([str(tiny), str(mixture), "curricula/random"])
    config.build()
    for name in ("Mixture", "Smoothed", "WEIGHTS", "Ramp"):
        assert name not in config.text()


def test_a_binding_after_its_part_was_replaced_is_refused(tiny: Path, write: Write) -> None:
    mine = write("Ramp.end = 0.7\n")
    assert "Ramp.end (mine.gin, line 1) is bound, but nothing in this run uses Ramp; put @Ramp()" in refused(
        tiny, "curricula/random", mine
    )
    assert "Ramp.end (-b)" in refused(tiny, "curricula/random", bindings=("Ramp.end = 0.7",))
    parse_config([str(tiny), str(mine), "curricula/random"]).build()


def test_a_part_that_is_replaced_here_and_used_there_keeps_its_bindings(tiny: Path) -> None:
    bindings = [
        "Curriculum.scheduler = @Reversed()",
        "Reversed.scheduler = @Ramp()",
    ]
    trainer = parse_config([str(tiny)], bindings).build()
    assert trainer.method.curriculum.alpha(0.0) == 0.5


# Macros.


def test_a_macro_that_nobody_uses(tiny: Path, write: Write) -> None:
    assert "END (mine.gin, line 2) is bound, but nothing in this run uses it; write %END" in refused(
        tiny, write("\nEND = 0.7\n")
    )
    assert "END (-b) is bound, but nothing" in refused(tiny, bindings=("END = 0.7",))


def test_a_macro_of_replaced_parts_alone_may_be_set_anywhere(tiny: Path, write: Write) -> None:
    """A config of data sets macros whatever the model; who says so on the command line means it."""
    mine = write("PARTS = 4\n")
    config = parse_config([str(tiny), "curricula/semmae", "curricula/random", str(mine)])
    config.build()
    assert "PARTS" not in config.text()
    assert "PARTS (-b)" in refused(tiny, "curricula/semmae", "curricula/random", bindings=("PARTS = 4",))


def test_a_macro_that_is_not_set(tiny: Path, write: Write) -> None:
    message = refused(tiny, write("\nRamp.end = %END\n"))
    assert message.startswith("Ramp.end (mine.gin, line 2) is %END, which is not set; write END = ...")
    assert "%OTHER, which is not set" in refused(tiny, bindings=("END = %OTHER", "Ramp.end = %END"))
    assert "%SIZE, which is not set" in refused(tiny, bindings=("Mixture.weights = [1.0, %SIZE]",))


def test_a_macro_that_only_a_replaced_part_wants_need_not_be_set(tiny: Path, write: Write) -> None:
    wants = write("Ramp.end = %END\n")
    config = parse_config([str(tiny), str(wants), "curricula/random"])
    config.build()
    assert "END" not in config.text()
    # Not replaced everywhere: the ramp is another's part now.
    other = write("Curriculum.scheduler = @Reversed()\nReversed.scheduler = @Ramp()\n", "other.gin")
    assert "%END, which is not set" in refused(tiny, wants, other)


def test_parameters_have_macros_values(tiny: Path) -> None:
    config = parse_config(
        [str(tiny)], ["END = 0.25", "Ramp.end = %END", "Monitoring.evaluations = [@KNN()]", "K = 3", "KNN.k = (%K, 5)"]
    )
    config.build()
    parameters = config.parameters()
    assert (parameters["Ramp.end"], parameters["KNN.k"]) == ("0.25", "(3, 5)")
    assert parameters["MaskedAutoencoder.img_size"] == parameters["DigitScenes.img_size"] == "16"
    assert not {"END", "K", "IMG_SIZE"} & parameters.keys()


# Parts built one by one.


@pytest.fixture
def config(tiny: Path) -> Config:
    return parse_config([str(tiny)], ["Trainer.seed = 3", "KNN.k = 5", "Trainer.progress_per = 'step'"])


def test_parameter_builds_that_alone(config: Config) -> None:
    assert config.parameter("Trainer", "seed") == 3
    assert config.parameter("Trainer", "source").train_size == 160
    assert config.parameter("Curriculum", "polarity") == "hardest"
    assert isinstance(config.parameter("Curriculum", "sampler"), HardestFirst)
    with pytest.raises(UserError, match=r"Held\.scheduler is not bound"):
        config.parameter("Held", "scheduler")


def test_bindings_of_the_command_line_are_used_once_their_part_or_parameter_was_taken(config: Config) -> None:
    for name, take in (
        ("Trainer.seed", lambda: config.parameter("Trainer", "seed")),
        ("KNN.k", lambda: config.build_part("KNN")),
        ("Trainer.progress_per", lambda: config.parameter("Trainer", "progress_per")),
    ):
        with pytest.raises(UserError) as error:
            config.check_bindings()
        assert f"{name} (-b) is bound, but nothing in this run uses" in str(error.value)
        take()
    config.check_bindings()
    with pytest.raises(UserError, match=r"\(base\.gin, line \d+\) is bound, but nothing"):
        config.check_bindings(in_files=True)


def test_bindings_of_a_part(config: Config) -> None:
    assert config.binds("Ramp")
    assert config.binds("KNN")
    assert not config.binds("Cyclic")
    assert not config.binds("Nothing")
    assert config.bindings_of("KNN") == {"k": 5}
    assert config.bindings_of("Cyclic") == {}
    assert type(config.bindings_of("Curriculum")["scheduler"]).__name__ == "Ramp"
