"""Files of configs: where the shipped ones are, what each is about, and which of them a name means.

Nothing here takes time to import: shell completion asks for names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hpm.errors import UserError
from hpm.runtime.files import expanded, read_text
from hpm.runtime.suggestions import did_you_mean, names_like

# Where the first sentence ends: not within "et al. 2022" or "e.g. this".
_SENTENCE = re.compile(r".*?(?<!\bet al)(?<!\be\.g)(?<!\bi\.e)[.?!](?=\s|$)")


def configs_folder() -> Path:
    """The shipped configs: beside the package in a wheel, beside the source in a clone."""
    here = Path(__file__).resolve().parents[1]
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def config_names() -> list[str]:
    """The shipped configs as commands take them: "quickstart", "curricula/attention"."""
    folder = configs_folder()
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.gin"))


def find_config(name: str, *, also: Iterable[str] = ()) -> Path:
    """A config by path, or by the name of a shipped one: `quickstart`, `curricula/attention`.

    Args:
        name: path or name.
        also: what else may have been meant, to ask about where there is none.

    Raises:
        UserError: if there is none, naming those that are called alike.
    """
    given = expanded(name)
    shipped = configs_folder() / name.removeprefix("configs/")
    for path in [*_with_and_without_suffix(given), *_with_and_without_suffix(shipped)]:
        if path.is_file():
            return path.resolve()
    meant = did_you_mean(_names_like(name.removeprefix("configs/").removesuffix(".gin"), [*also, *config_names()]))
    raise UserError(
        f"no config file {name!r}.{meant} Give the path of one, or the name of a shipped one; `hpm configs` shows all"
    )


def _with_and_without_suffix(path: Path) -> list[Path]:
    return [path, path.with_name(f"{path.name}.gin")] if path.name else []


def _names_like(name: str, known: Iterable[str]) -> list[str]:
    """Names that are written alike, without their folders where those differ."""
    known = list(known)
    if alike := names_like(name, known):
        return alike
    by_stem: dict[str, list[str]] = {}
    for other in known:
        by_stem.setdefault(other.rpartition("/")[2], []).append(other)
    return [other for stem in names_like(name.rpartition("/")[2], by_stem) for other in by_stem[stem]]


def first_sentence(path: Path) -> str:
    """What a config is about: the first sentence of the comment that it begins with; "" where there is none."""
    lines: list[str] = []
    for line in read_text(path).splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        lines.append(text)
    comment = " ".join(lines)
    sentence = _SENTENCE.match(comment)
    return sentence[0] if sentence else comment
