"""Finding and reading configs, and the sentence for each mistake in one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hpm.config import find_config, make_importable, parse_config
from hpm.errors import UserError
from hpm.runs.manifest import DataRecord, Manifest
from hpm.runs.run_folder import RunFolder

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a config into an empty folder."""

    def write(text: str, name: str = "mine.gin") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def refused(*configs: object, bindings: tuple[str, ...] = ()) -> str:
    with pytest.raises(UserError) as error:
        parse_config([str(config) for config in configs], bindings)
    message = str(error.value)
    assert "\n" not in message
    return message


# Files.


def test_a_path_with_or_without_ending_and_a_shipped_name(tiny: Path) -> None:
    assert find_config(str(tiny)) == find_config(str(tiny.with_suffix(""))) == tiny
    assert find_config("quickstart") == find_config("configs/quickstart.gin")


def test_no_such_config() -> None:
    message = refused("quikstart")
    assert "no config file 'quikstart'" in message
    assert "Did you mean quickstart?" in message
    assert "Did you mean curricula/attention?" in refused("attention")
    assert "Did you mean" not in refused("zzz")
    assert "name at least one config" in refused()


def test_includes_are_looked_for_beside_the_configs_then_shipped_then_here(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write("include 'quickstart.gin'\ninclude 'more/deep.gin'\n", "a/first.gin")
    write("Ramp.end = 0.25\n", "a/quickstart.gin")
    (tmp_path / "a" / "more").mkdir()
    write("Ramp.start = 0.1\ninclude 'curricula/random.gin'\ninclude 'here.gin'\n", "a/more/deep.gin")
    write("Ramp.until = 0.5\n", "b/here.gin")
    monkeypatch.chdir(tmp_path / "b")
    config = parse_config([str(first)])
    assert config.name == "first"
    assert [
        (statement.key[2], statement.where) for statement in config.statements if statement.key[1].endswith("Ramp")
    ] == [
        ("end", "quickstart.gin, line 1"),
        ("start", "deep.gin, line 1"),
        ("until", "here.gin, line 1"),
    ]
    assert "Constant.value = 0.0" in config.text()


def test_what_a_shipped_config_includes_is_shipped(write: Write, tmp_path: Path) -> None:
    """A user's own `base.gin` may start from the shipped quickstart, which starts from the shipped base."""
    config = parse_config([str(write("include 'quickstart.gin'\nRamp.end = 0.25\n", "base.gin"))])
    assert config.build_part("Ramp").end == 0.25
    assert "Trainer.method = @Method()" in config.text()


def test_an_include_that_is_not_there(write: Write) -> None:
    assert "mine.gin, line 2 includes 'nowhere.gin', which is neither" in refused(write("\ninclude 'nowhere.gin'\n"))


def test_a_file_that_includes_itself(write: Write) -> None:
    write("include 'mine.gin'\n", "other.gin")
    message = refused(write("include 'base.gin'\ninclude 'other.gin'\n"))
    assert message == "mine.gin includes itself: mine.gin -> other.gin -> mine.gin"


def test_a_file_that_is_included_twice(write: Write) -> None:
    """As `base.gin` is by a config and a recipe: what comes later counts."""
    write("Ramp.end = 0.25\n", "common.gin")
    mine = write("include 'common.gin'\nRamp.end = 0.75\ninclude 'common.gin'\n")
    assert parse_config([str(mine)]).build_part("Ramp").end == 0.25


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "image.gin"
    path.write_bytes(b"\x89PNG\xff\xfe")
    assert f"{path} cannot be read as a config" in refused(path)


# Statements.


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\nRamp.fnish = 0.7\n", "Ramp.fnish (mine.gin, line 2) cannot be bound: Ramp takes start, end, shape"),
        ("Uniform.x = 1\n", "Uniform.x (mine.gin, line 1) cannot be bound: Uniform takes no parameters"),
        ("\nRampe.end = 0.7\n", "mine.gin, line 2: there is no part called Rampe; `hpm list` shows all"),
        ("Curriculum.scheduler = @Rampe()\n", "mine.gin, line 1: there is no part called Rampe"),
        ("Ramp.end = = 1\n", "mine.gin, line 1: Unable to parse value"),
        ("Ramp.end 1\n", "mine.gin, line 1: Couldn't parse statement"),
        ("\nRamp.shape = cosine\n", "mine.gin, line 2: what follows '=' is no value; write text in quotes"),
        ("\nimport not_there_at_all\n", "mine.gin, line 2: 'import not_there_at_all' fails with ModuleNotFoundError"),
        ("\nRamp.end = 'oops'\n", "Ramp.end = 'oops' (mine.gin, line 2) has the wrong type: float is wanted"),
        ("a/KNN.k = 2.5\n", "a/KNN.k = 2.5 (mine.gin, line 1) has the wrong type: "),
        ("K = 'x'\n\nKNN.k = %K\n", "KNN.k = 'x' (mine.gin, line 3) has the wrong type"),
        ("gin.macro.x = 1\n", "mine.gin, line 1: a macro is set by its own name"),
        (
            "\nMLflowTracker.tags = {'a': 'x', 'b': 'x',\n  'a': 'y'}\n",
            "mine.gin, line 3: MLflowTracker.tags has the key 'a' twice; each may stand there once",
        ),
        ("a/MLflowTracker:\n  tags = {'a': '',\n\n 'a': ''}\n", "mine.gin, line 4: a/MLflowTracker.tags has the key"),
        ("X = [({'a': {1: 2, 1.0: 3}},)]\n", "mine.gin, line 1: X has the key 1.0 twice"),
    ],
)
def test_mistakes_name_file_line_and_binding(write: Write, text: str, told: str) -> None:
    assert refused(write(text)).startswith(told)


@pytest.mark.parametrize(
    ("binding", "told"),
    [
        ("Ramp.fnish = 0.7", "Ramp.fnish (-b) cannot be bound: Ramp takes start"),
        ("Rampe.end = 0.7", "-b 'Rampe.end = 0.7': there is no part called Rampe"),
        ("Ramp.end 0.7", "binding 'Ramp.end 0.7' has no '='; write -b 'Ramp.end = 0.7'"),
        ("# Ramp.end = 0.7", "-b '# Ramp.end = 0.7': it binds nothing"),
        ("Ramp.end = [", "-b 'Ramp.end = [': "),
        ("Ramp.end = 'oops'", "Ramp.end = 'oops' (-b) has the wrong type"),
        ("X = {%K: 1, %K: 2}", "-b 'X = {%K: 1, %K: 2}': X has the key %K twice"),
        ("Ramp.shape = cosine", "-b 'Ramp.shape = cosine': what follows '=' is no value; write text in quotes"),
    ],
)
def test_mistakes_on_the_command_line_name_the_binding(tiny: Path, binding: str, told: str) -> None:
    assert refused(tiny, bindings=(binding,)).startswith(told)


@pytest.mark.parametrize(
    ("binding", "meant"),
    [
        ("Ramp.ennd = 0.7", "Ramp.end"),
        ("a/Ramp.END = 0.7", "a/Ramp.end"),
        ("Rampe.end = 0.7", "Ramp"),
        ("schedulers.Rampe.end = 0.7", "Ramp"),
        ("knnn.k = 5", "KNN"),
        ("Curriculum.scheduler = @ramp()", "Ramp"),
        ("Ramp.end = %IMGSIZE", "%IMG_SIZE"),
    ],
)
def test_names_that_are_misspelt(tiny: Path, binding: str, meant: str) -> None:
    message = refused(tiny, bindings=(binding,))
    assert f". Did you mean {meant}" in message
    assert message.endswith("?")


def test_a_macro_that_is_misspelt(tiny: Path) -> None:
    with pytest.raises(UserError, match=r"nothing in this run uses it; .* Did you mean IMG_SIZE\?"):
        parse_config([str(tiny)], ["IMG_SIZ = 32"]).build()


def test_names_like_no_other(tiny: Path) -> None:
    assert "Did you mean" not in refused(tiny, bindings=("Ramp.zzz = 0.7",))
    assert "Did you mean" not in refused(tiny, bindings=("Zzzzz.end = 0.7",))


def test_a_mistake_in_an_included_file_names_that_file(write: Write) -> None:
    write("\n\nRamp.fnish = 1\n", "inner.gin")
    assert "Ramp.fnish (inner.gin, line 3)" in refused(write("include 'inner.gin'\n"))


def test_types_that_are_right(tiny: Path) -> None:
    bindings = [
        "Ramp.end = 1",
        "KNN.k = (3, 5)",
        "Curriculum.mask_ratio = @UniformRatio()",
        "LowShot.test_images = None",
    ]
    parse_config([str(tiny)], bindings)


def test_what_a_part_refuses_is_one_sentence(tiny: Path) -> None:
    with pytest.raises(UserError) as error:
        parse_config([str(tiny)], ["Curriculum.mask_ratio = 1.0"]).build()
    assert str(error.value).startswith("Curriculum.mask_ratio = 1.0 must lie strictly between 0 and 1")
    assert "In call to" not in str(error.value)
    with pytest.raises(UserError) as error:  # of one that raises a UserError itself
        parse_config([str(tiny)], ["TimmDataset.name = 'wds/x'"]).build_part("TimmDataset")
    assert "In call to" not in str(error.value)


def test_what_is_not_bound_is_named(write: Write) -> None:
    with pytest.raises(UserError) as error:
        parse_config(["curricula/random"]).build()
    assert str(error.value).startswith("Trainer.method and Trainer.source and Trainer.crop are not bound; bind them")
    assert "e.g. quickstart" in str(error.value)
    with pytest.raises(UserError) as error:
        parse_config([str(write("Curriculum.scheduler = @Held()\n"))]).build_part("Held")
    assert str(error.value) == "Held.scheduler is not bound; bind it"


def test_an_editors_mark_at_the_beginning_is_no_text(tiny: Path) -> None:
    tiny.write_bytes(b"\xef\xbb\xbf" + tiny.read_bytes())
    parse_config([str(tiny)]).build()


@pytest.mark.parametrize("name", ["macro.value", "gin.macro.value", "a/macro.value"])
def test_a_macro_is_set_by_its_own_name(tiny: Path, name: str) -> None:
    with pytest.raises(UserError, match="a macro is set by its own name, SIZE = 32"):
        parse_config([str(tiny)], [f"{name} = 3"])


@pytest.mark.parametrize(
    "how", ["raise SystemExit(0)", "import sys; sys.exit()", "class Odd(BaseException): ...\nraise Odd"]
)
def test_an_import_that_ends_the_program_is_no_success(write: Write, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    write(f"{how}\n", "part_that_exits.py")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError, match=r"mine.gin, line 1: 'import part_that_exits' fails with (SystemExit|Odd)"):
        parse_config([str(write("import part_that_exits\n"))])


def test_a_part_that_ends_the_program_is_no_success(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    part = "import gin\nfrom curriculum import Constant\n@gin.register\nclass Leaving(Constant):\n"
    write(f"{part}    def __init__(self):\n        raise SystemExit(0)\n", "part_that_leaves.py")
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = parse_config([str(write("import part_that_leaves\nCurriculum.scheduler = @Leaving()\n"))])
    with pytest.raises(UserError, match=r"a part ended the program by sys.exit\(0\) while it was built"):
        config.build_part("Leaving")


def test_a_fault_in_a_users_own_part_says_where_it_lies(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = "import gin\nfrom curriculum import Constant\n@gin.register\nclass Faulty(Constant):\n"
    file = write(f"{part}    def __init__(self):\n        self.nothing.more()\n", "part_with_a_fault.py")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(UserError) as error:
        parse_config([str(write("import part_with_a_fault\nCurriculum.scheduler = @Faulty()\n"))]).build_part("Faulty")
    assert str(error.value) == (f"'Faulty' object has no attribute 'nothing' (AttributeError in {file}, line 6)")


def test_later_files_go_over_earlier_ones_and_bindings_over_all(tiny: Path, write: Write) -> None:
    two, three = write("Ramp.end = 0.2\nRamp.start = 0.2\n", "two.gin"), write("Ramp.end = 0.3\n", "three.gin")
    config = parse_config([str(tiny), str(two), str(three)], ["Ramp.until = 0.5", "Ramp.until = 0.6"])
    ramp = config.build_part("Ramp")
    assert (ramp.start, ramp.end, ramp.until) == (0.2, 0.3, 0.6)
    assert config.name == "tiny"


# A user's own modules.


def test_imports_and_plugins(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_scheduler_part.py").write_text(
        "import gin\nfrom curriculum import Constant\n@gin.register\nclass OwnConstant(Constant):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = parse_config([str(write("import own_scheduler_part\nimport json\nOwnConstant.value = 0.3\n"))])
    assert config.build_part("OwnConstant").value == 0.3
    assert config.imports == ("import json", "import own_scheduler_part")
    assert config.plugins()["own_scheduler_part"] == str(tmp_path)
    assert config.text().startswith("import json\nimport own_scheduler_part\n")


def test_a_module_beside_a_config_in_another_folder(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the file that imports it, an included one's too, and not where the command is started."""
    part = "import gin\nfrom curriculum import Constant\n@gin.register\nclass {}(Constant):\n    pass\n"
    write(part.format("Beside"), "part_beside_a_config.py")
    write(part.format("Deeper"), "inner/part_beside_an_included_config.py")
    write("import part_beside_an_included_config\nDeeper.value = 0.2\n", "inner/inner.gin")
    mine = write("import part_beside_a_config\ninclude 'inner/inner.gin'\nBeside.value = 0.3\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = parse_config([str(mine)])
    assert config.build_part("Beside").value == 0.3
    assert config.build_part("Deeper").value == 0.2
    assert config.plugins() == {
        "part_beside_a_config": str(tmp_path),
        "part_beside_an_included_config": str(tmp_path / "inner"),
    }


def test_a_runs_config_finds_the_modules_of_its_run(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hpm pretrain runs/NAME/config.gin` repeats a run whose own parts lie in another folder."""
    part = "import gin\nfrom curriculum import Constant\n@gin.register\nclass OfARun(Constant):\n    pass\n"
    write(part, "parts/part_of_a_run.py")
    config = write("import part_of_a_run\nOfARun.value = 0.3\n", "run/config.gin")
    plugins = {"part_of_a_run": str(tmp_path / "parts")}
    Manifest("run", "pixels", "hard", "fp32", DataRecord("D", 1, "f"), plugins=plugins).write(
        RunFolder(config.parent).manifest
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert parse_config([str(config)]).build_part("OfARun").value == 0.3


def test_make_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    make_importable({"a": str(tmp_path), "b": str(tmp_path), "c": str(tmp_path / "gone")})
    assert sys.path.count(str(tmp_path)) == 1
    assert str(tmp_path / "gone") not in sys.path


# What a configuration is called.


def test_fingerprints_are_of_what_is_bound(tiny: Path, write: Write) -> None:
    one = parse_config([str(tiny)], ["Ramp.end = 0.7", "Ramp.start = 0.1"]).fingerprint()
    mine = write("Ramp.start = 0.1\nRamp.end = 0.7\n")
    assert parse_config([str(tiny), str(mine)]).fingerprint() == one
    assert parse_config([str(tiny), str(mine)], ["Ramp.end = 0.6"]).fingerprint() != one
