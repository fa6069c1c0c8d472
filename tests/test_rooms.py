"""The house: rooms import in one direction only, and stay small enough to live in."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("curriculum", "hpm", "studies")

# From the ground up: a room may import those that stand before it, and the rooms of one line nothing of each other.
ORDER = [
    {"curriculum"},
    {"hpm", "hpm.errors"},
    {"hpm.runtime", "hpm.optim", "hpm.metrics"},
    {"hpm.models", "hpm.data", "hpm.runs"},
    {"hpm.targets", "hpm.tracking"},
    {"hpm.methods"},
    {"hpm.evaluation"},
    {"hpm.visualization"},
    {"hpm.training"},
    {"hpm.config"},
    {"hpm.inference", "hpm.planning"},
    {"hpm.interface"},
    {"hpm.commands"},
    {"hpm.cli"},
    {"hpm.__main__"},
    {"studies"},
    {"studies.definition"},
    {"studies.analysis"},
    {"studies.reporting"},
    {"studies.execution"},
    {"studies.commands"},
    {"studies.cli"},
    {"studies.__main__"},
]
MOST_LINES = 300
MOST_FLOORS = 13  # of the rooms of hpm


@cache
def modules() -> dict[str, Path]:
    """Every module of the packages, by its name."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def room_of(module: str) -> str:
    """The folder or top-level module of a package; `curriculum` is one room."""
    parts = module.split(".")
    return parts[0] if parts[0] == "curriculum" else ".".join(parts[:2])


def imported(path: Path) -> Iterator[str]:
    """The modules of our own that a file imports when it runs; what only type checkers see does not count."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in PACKAGES:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in PACKAGES)


@cache
def rooms() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    needs: dict[str, set[str]] = defaultdict(set)
    for name, path in modules().items():
        needs[room_of(name)] |= {room_of(other) for other in imported(path)} - {room_of(name)}
    return needs


def test_imports_go_one_way() -> None:
    height = {room: number for number, line in enumerate(ORDER) for room in line}
    assert set(rooms()) <= set(height), f"rooms that ORDER does not know: {set(rooms()) - set(height)}"
    pairs = [(room, other) for room, others in rooms().items() for other in others]
    upward = [f"{room} imports {other}" for room, other in pairs if height[other] >= height[room]]
    assert not upward


def test_no_more_floors_than_a_person_climbs() -> None:
    @cache
    def floor(room: str) -> int:
        return 1 + max((floor(other) for other in rooms()[room]), default=0)

    assert max(floor(room) for room in rooms() if room.startswith("hpm.") and room != "hpm.__main__") <= MOST_FLOORS


def test_few_modules_lie_outside_the_rooms() -> None:
    assert len(list((ROOT / "hpm").glob("*.py"))) <= 4


@pytest.mark.parametrize("package", PACKAGES)
def test_files_are_read_in_one_sitting(package: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / package).rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): count for path, count in lengths.items() if count > MOST_LINES}


def source_lines(*folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for number, line in enumerate(path.read_text().splitlines(), start=1):
                yield f"{path.relative_to(ROOT)}:{number}", line


def test_the_formatter_is_never_switched_off() -> None:
    mark = "fmt: " + "skip"
    assert not [place for place, line in source_lines(*PACKAGES, "tests", "benchmarks", "examples") if mark in line]


def test_gin_stays_at_the_edge() -> None:
    importing = re.compile(r"^\s*(import gin\b|from gin\b)")
    places = [place for place, line in source_lines(*PACKAGES) if importing.match(line)]
    assert not [place for place in places if not place.startswith("hpm/config/")]


def test_private_names_of_gin_have_two_owners() -> None:
    private = re.compile(r"\bgin_config\._|\bconfig_parser\.|\bgin\.config\._")
    places = [place for place, line in source_lines(*PACKAGES) if private.search(line)]
    assert not [
        place for place in places if not place.startswith(("hpm/config/gin_compat.py", "hpm/config/gin_text.py"))
    ]


# Concrete classes that another room has no business to know: it asks the object instead.
CONCRETE = {
    "hpm.models": ("MaskedAutoencoder", "SimMIM", "ViT", "Swin"),
    "hpm.data": ("Composites", "DigitScenes", "FashionMNIST", "ImageFolder", "StampScenes", "TimmDataset"),
    "hpm.evaluation": ("KNN", "LinearMAE", "Ridge", "FineTune", "LowShot", "Agreement", "Diagnostics", "HardnessShare"),
    "studies.definition": ("Ablation", "Search"),
    "curriculum": ("HardestFirst", "Quotas", "Parts", "UniformRatio", "PredictedLoss"),
}


@pytest.mark.parametrize("home", CONCRETE)
def test_nobody_asks_for_a_concrete_class(home: str) -> None:
    asking = re.compile(rf"isinstance\([^)]*\b({'|'.join(CONCRETE[home])})\b")
    found = [
        f"{name}: {line.strip()}"
        for name, path in modules().items()
        for line in path.read_text().splitlines()
        if room_of(name) != home and asking.search(line)
    ]
    assert not found
