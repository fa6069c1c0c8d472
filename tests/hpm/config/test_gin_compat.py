"""What this project takes from gin, function by function: a release of gin that changes it fails here."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpm.config import gin_compat, gin_text
from hpm.config.gin_compat import MACRO, Key
from hpm.config.gin_text import Binding, GinError, Include

MODULE = "gin_compat_parts"


class Inner:
    def __init__(self, *, size: int = 1) -> None:
        self.size = size


class Outer:
    def __init__(self, *, inner: Inner | None = None, sizes: tuple[int, ...] = (), name: str = "outer") -> None:
        self.inner = inner
        self.sizes = sizes
        self.name = name


Inner.__module__ = Outer.__module__ = MODULE
INNER, OUTER = f"{MODULE}.Inner", f"{MODULE}.Outer"


@pytest.fixture(autouse=True)
def _parts() -> Iterator[None]:
    gin_compat.put_in_force(gin_compat.Memory())
    gin_compat.register(Inner)
    gin_compat.register(Outer)
    yield
    gin_compat.put_in_force(gin_compat.Memory())


def read(text: str, **options: Any) -> list[Binding | Include]:
    found: list[Binding | Include] = []
    gin_text.read(text, found.append, **options)
    return found


def bind(text: str) -> None:
    for statement in read(text):
        assert isinstance(statement, Binding)
        gin_compat.bind(statement.key, statement.value)


def values(text: str) -> dict[Key, Any]:
    return {statement.key: statement.value for statement in read(text) if isinstance(statement, Binding)}


def test_private_names_stay_here() -> None:
    """No third module of `hpm` imports gin."""
    root = Path(gin_compat.__file__).parents[1]
    users = [path for path in root.rglob("*.py") if re.search(r"^\s*(import|from) gin\b", path.read_text(), re.M)]
    assert sorted(users) == [Path(gin_compat.__file__), Path(gin_text.__file__)]


# What can be named.


def test_register_and_registered() -> None:
    gin_compat.register(Inner)  # a second time changes nothing
    registered = gin_compat.registered()
    assert registered[INNER] is Inner
    assert registered[OUTER] is Outer
    assert not any(name.startswith("gin.") for name in registered)


def test_register_after_a_config_was_locked() -> None:
    class Late:
        pass

    Late.__module__ = MODULE
    gin_compat.finalize()
    gin_compat.register(Late)
    assert gin_compat.registered()[f"{MODULE}.Late"] is Late


def test_full_and_short_names() -> None:
    assert gin_compat.full_names("Inner") == gin_compat.full_names(INNER) == [INNER]
    assert gin_compat.full_names("Nothing") == []
    assert gin_compat.short_name(INNER) == "Inner"


def test_a_name_of_two_parts() -> None:
    class Twice:
        def __init__(self, *, size: int = 1) -> None: ...

    class Other:
        def __init__(self, *, size: int = 1) -> None: ...

    Twice.__module__, Other.__module__, Other.__name__ = f"{MODULE}_a", f"{MODULE}_b", "Twice"
    gin_compat.register(Twice)
    gin_compat.register(Other)
    assert sorted(gin_compat.full_names("Twice")) == [f"{MODULE}_a.Twice", f"{MODULE}_b.Twice"]
    assert gin_compat.short_name(f"{MODULE}_a.Twice") == f"{MODULE}_a.Twice"
    for text in ("Twice.size = 2", "Outer.inner = @Twice()"):
        with pytest.raises(GinError, match=r"Twice may be gin_compat_parts_a\.Twice or") as error:
            read(f"\n{text}\n")
        assert error.value.line == 2
        assert f"{MODULE}_b.Twice" in str(error.value)


# What a text says.


def test_read_gives_keys_values_and_lines() -> None:
    text = """
# A comment.
SIZE = 3
include 'other.gin'
Inner.size = %SIZE
a/b/Inner.size = 4
Outer:
    name = 'block'
    sizes = (1,
             2)
b/SIZE = 5
"""
    found = read(text)
    assert [(s.line, s.file if isinstance(s, Include) else s.key) for s in found] == [
        (3, ("SIZE", MACRO, "value")),
        (4, "other.gin"),
        (5, ("", INNER, "size")),
        (6, ("a/b", INNER, "size")),
        (8, ("", OUTER, "name")),
        (9, ("", OUTER, "sizes")),
        (11, ("b/SIZE", MACRO, "value")),
    ]
    assert [s.value for s in found if isinstance(s, Binding)][2:5] == [4, "block", (1, 2)]


def test_a_statement_is_taken_before_the_next_is_read() -> None:
    class Included:
        pass

    Included.__module__ = MODULE

    def take(found: Binding | Include) -> None:
        if isinstance(found, Include):
            gin_compat.register(Included)  # as an import of an included file would
            taken.append(found)

    taken: list[Include] = []
    gin_text.read("include 'other.gin'\nOuter.inner = @Included()\n", take)
    assert len(taken) == 1


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("\nNothing.size = 3\n", 2, "there is no part called Nothing"),
        ("\n\nOuter.inner = @Nothing()\n", 3, "there is no part called Nothing"),
        ("Outer.inner = [@a/Nothing()]\n", 1, "there is no part called Nothing"),
        ("SIZE = 1\nInner.size = = 3\n", 2, "Unable to parse value"),
        ("SIZE = 1\nInner.size 3\n", 2, "expected ':' or '='"),
        ("\nOuter.sizes = (1,\n", 2, "EOF in multi-line statement"),
        ("\nimport not_a_module_at_all\n", 2, "No module named 'not_a_module_at_all'"),
        ("a b c\n", 1, ""),
    ],
)
def test_what_cannot_be_read_names_the_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(GinError) as error:
        read(text)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert abs(error.value.line - line) <= ("EOF" in reason)


def test_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gin_compat_plugin.py").write_text("import gin\n@gin.register\nclass Plugin:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert read("import gin_compat_plugin\n", run_imports=False) == []
    assert "gin_compat_plugin" not in sys.modules
    assert gin_compat.imports() == {}
    read("import gin_compat_plugin\nfrom os import path as p\nOuter.inner = @Plugin()\n")
    assert gin_compat.imports() == {
        "gin_compat_plugin": "import gin_compat_plugin",
        "os.path": "from os import path as p",
    }
    assert "import gin_compat_plugin" in gin_compat.config_text().splitlines()
    gin_compat.put_in_force(gin_compat.Memory())
    assert gin_compat.imports() == {}


# What values refer to.


def test_references() -> None:
    found = values(
        "SIZE = 2\nOuter.inner = @a/b/Inner()\nOuter.sizes = [%SIZE, {'x': (@Inner, 1)}]\nOuter.name = 'x'\n"
    )
    assert gin_compat.references(found["", OUTER, "inner"]) == [("a/b", INNER)]
    assert sorted(gin_compat.references(found["", OUTER, "sizes"])) == [("", INNER), ("SIZE", MACRO)]
    assert gin_compat.references(found["", OUTER, "name"]) == []
    assert gin_compat.is_reference(found["", OUTER, "inner"])
    assert not gin_compat.is_reference(found["", OUTER, "sizes"])
    assert gin_compat.macro_name(found["", OUTER, "sizes"][0]) == "SIZE"
    assert gin_compat.macro_name(found["", OUTER, "inner"]) is gin_compat.macro_name("SIZE") is None


def test_references_are_written_as_they_are_read() -> None:
    found = values("SIZE = 2\nOuter.inner = @a/Inner()\nOuter.sizes = [%SIZE, @Inner]\n")
    assert str(found["", OUTER, "inner"]) == "@a/Inner()"
    assert str(found["", OUTER, "sizes"]) == "[%SIZE, @Inner]"


# The configuration in force.


def test_bind_forget_and_clear() -> None:
    bind("SIZE = 2\nInner.size = %SIZE\na/Inner.size = 3\nOuter.name = 'x'\n")
    keys = [("SIZE", MACRO, "value"), ("", INNER, "size"), ("a", INNER, "size"), ("", OUTER, "name")]
    assert list(gin_compat.bound()) == keys
    gin_compat.forget(("a", INNER, "size"))
    assert list(gin_compat.bound()) == [key for key in keys if key[0] != "a"]
    assert "a/Inner" not in gin_compat.config_text()
    gin_compat.put_in_force(gin_compat.Memory())
    assert gin_compat.bound() == gin_compat.consumed() == {}


def test_a_configuration_is_put_in_force_for_a_while_with_what_it_consumed_and_its_lock() -> None:
    bind("Inner.size = 2")
    gin_compat.finalize()
    gin_compat.build("Inner")
    other = gin_compat.Memory()
    with gin_compat.using(other):
        assert gin_compat.bound() == gin_compat.consumed() == {}
        bind("Inner.size = 3")
        assert gin_compat.build("Inner").size == 3
    assert gin_compat.build("Inner").size == 2
    assert gin_compat.consumed() == {("", INNER, "size"): 2}
    with pytest.raises(RuntimeError):
        gin_compat.bind(("", INNER, "size"), 4)
    with gin_compat.using(other):
        assert gin_compat.consumed() == {("", INNER, "size"): 3}
        gin_compat.bind(("", INNER, "size"), 5)


def test_what_a_part_does_not_take_cannot_be_bound() -> None:
    with pytest.raises(ValueError, match="nothing"):
        gin_compat.bind(("", INNER, "nothing"), 3)


def test_finalize_locks() -> None:
    bind("Inner.size = 2")
    gin_compat.finalize()
    with pytest.raises(RuntimeError):
        gin_compat.bind(("", INNER, "size"), 3)
    gin_compat.put_in_force(gin_compat.Memory())
    gin_compat.bind(("", INNER, "size"), 3)


def test_building_follows_references_macros_and_scopes_and_is_noted() -> None:
    bind("SIZE = 2\nOuter.inner = @a/Inner()\na/Inner.size = %SIZE\nInner.size = 7\n")
    assert gin_compat.consumed() == {}
    built = gin_compat.build("Outer")
    assert type(built) is Outer
    assert (type(built.inner), built.inner.size) == (Inner, 2)
    consumed = gin_compat.consumed()
    assert set(consumed) == {
        ("", OUTER, "inner"),
        ("", OUTER, "sizes"),
        ("", OUTER, "name"),
        ("a", INNER, "size"),
        ("SIZE", MACRO, "value"),
    }
    assert consumed["", OUTER, "name"] == "outer"


def test_evaluate_builds_one_value_alone() -> None:
    bind("SIZE = 2\nOuter.inner = @Inner()\nOuter.sizes = (%SIZE, 5)\n")
    bound = gin_compat.bound()
    assert gin_compat.evaluate(bound["", OUTER, "sizes"]) == (2, 5)
    assert isinstance(gin_compat.evaluate(bound["", OUTER, "inner"]), Inner)
    assert ("SIZE", MACRO, "value") in gin_compat.consumed()
    assert not any(selector == OUTER for _, selector, _ in gin_compat.consumed())


def test_errors_of_parts_keep_their_message_and_say_in_which_call() -> None:
    """`as_user_error` takes the lines that gin adds away."""

    class Refusing:
        def __init__(self) -> None:
            raise ValueError("Refusing.size = 3 is too much")

    Refusing.__module__ = MODULE
    gin_compat.register(Refusing)
    with pytest.raises(ValueError, match="is too much") as error:
        gin_compat.build("Refusing")
    first, *others = str(error.value).splitlines()
    assert first == "Refusing.size = 3 is too much"
    assert all(line.strip().startswith("In call to configurable") for line in others)


@pytest.mark.parametrize("which", ["config_text", "operative_text"])
def test_texts_mean_the_same(which: str) -> None:
    bind("SIZE = 2\nOuter.inner = @a/Inner()\na/Inner.size = %SIZE\nOuter.sizes = (1, 2)\nOuter.name = 'a b'\n")
    gin_compat.build("Outer")
    before, text = gin_compat.bound(), getattr(gin_compat, which)()
    gin_compat.put_in_force(gin_compat.Memory())
    bind(text)
    assert {key: str(value) for key, value in gin_compat.bound().items()} == {
        key: str(value) for key, value in before.items()
    }
    assert max(map(len, text.splitlines())) <= 110
