"""Parts that installed packages offer. An entry point of the group `curriculum.parts` names a module; importing it
registers the parts, by `@gin.register`, and configs name them without an import of their own.

The modules are imported once somebody asks: `hpm list`, or a config with a name that nothing else has. So a package
that is broken is in nobody's way who does not use it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from hpm.config import gin_compat
from hpm.config.gin_compat import Key
from hpm.config.imports import installed_path
from hpm.config.registry import configurables, imported_configurables, register_all, taken_name
from hpm.errors import UserError

GROUP = "curriculum.parts"


@dataclass(frozen=True)
class Offer:
    """What one entry point brings.

    Args:
        package: that has it, as it is installed by.
        version: of that.
        entry_point: as the package declares it, "masks = my_masks.parts".
        selectors: of its parts.
        problem: why there are none, in words; "" for none.
    """

    package: str
    version: str
    entry_point: str
    selectors: tuple[str, ...] = ()
    problem: str = ""

    @property
    def complaint(self) -> str:
        """A sentence without its end about what is wrong."""
        return f"the package {self.package} offers parts by its entry point '{self.entry_point}', but {self.problem}"


_loaded: dict[tuple[str, str], Offer] = {}  # by package and entry point; those whose module was imported


def load_offers() -> list[Offer]:
    """Import what all installed packages offer, unless that is done; their parts can be named from now on."""
    offers = []
    for distribution, point in _entry_points():
        package, declared = distribution.metadata["Name"], f"{point.name} = {point.value}"
        offer = _loaded.get((package, declared)) or _load(Offer(package, distribution.version, declared), point.module)
        if point.module in sys.modules:  # which Python imports once; another that fails is tried again
            _loaded[package, declared] = offer
        offers.append(offer)
    return offers


def _entry_points() -> Iterator[tuple[metadata.Distribution, metadata.EntryPoint]]:
    """Those of the group, in alphabetical order of the packages; of two that are called alike Python takes the first.

    Folders that configs brought along are not asked: somebody's run must not get its modules imported that way.
    """
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions(path=installed_path()):
        if (name := distribution.metadata["Name"]) is not None:
            found.setdefault(name, distribution)
    for _, distribution in sorted(found.items()):
        for point in distribution.entry_points:
            if point.group == GROUP:
                yield distribution, point


def _load(offer: Offer, module: str) -> Offer:
    """Import a module; what it registers before it fails is forgotten."""
    register_all()  # first, so that a name that is taken is found so
    before = set(gin_compat.registered())
    try:
        with gin_compat.unlocked():
            importlib.import_module(module)
        problem = ""
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # somebody's module may raise anything, and SystemExit would look like success
        problem = f"importing {module} fails with {type(error).__name__}: {error}"
    parts = gin_compat.registered()
    own = [
        selector
        for selector, part in parts.items()
        if selector not in before or f"{part.__module__}.".startswith(f"{module}.")
    ]
    problem = problem or taken_name(own) or ("" if own else f"importing {module} registers none, by @gin.register")
    if problem:
        for selector in set(parts) - before:
            gin_compat.unregister(selector)
        return Offer(offer.package, offer.version, offer.entry_point, problem=problem)
    return Offer(offer.package, offer.version, offer.entry_point, tuple(sorted(own)))


def parts_by_kind() -> dict[str, list[Any]]:
    """Every part that can be named now, by what it is, and beside the shipped ones by what brought it."""
    load_offers()
    kinds: dict[str, list[Any]] = dict(configurables())
    parts, imported = gin_compat.registered(), imported_configurables()
    for offer in (offer for offer in _loaded.values() if offer.selectors):
        offered = [parts[selector] for selector in offer.selectors]
        kinds.setdefault(f"from the package {offer.package} {offer.version}", []).extend(offered)
        imported = [part for part in imported if part not in offered]
    return kinds | ({"imported by the config": imported} if imported else {})


def parts_called(name: str) -> list[Any]:
    """What a name means in a config: one part, none, or several of different modules."""
    register_all()
    load_offers()
    parts = gin_compat.registered()
    return [parts[selector] for selector in gin_compat.full_names(name) if selector in parts]


def packages_of(bound: Mapping[Key, Any]) -> dict[str, str]:
    """Versions of the packages whose parts are bound or referred to, by name."""
    named = {selector for _, selector, _ in bound}
    named |= {selector for value in bound.values() for _, selector in gin_compat.references(value)}
    return {offer.package: offer.version for offer in _loaded.values() if named & set(offer.selectors)}


def require_packages(packages: Mapping[str, str], where: object) -> None:
    """Refuse to go on where packages are missing whose parts a run uses.

    Args:
        packages: as `packages_of` gave them when it was started.
        where: the run, for errors.

    Raises:
        UserError: naming them.
    """
    missing = " and ".join(f"{name} {version}" for name, version in packages.items() if not _is_installed(name))
    if missing:
        raise UserError(f"{where} uses parts of packages that are not installed here: {missing}")


def _is_installed(package: str) -> bool:
    installed: Iterable[metadata.Distribution] = metadata.distributions(name=package)
    return next(iter(installed), None) is not None
