"""Find out whether a tag may be released: it names the version of the package, and CHANGELOG.md the day of it.

python .ci/check_tag.py v0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def problem(tag: str, root: Path) -> str | None:
    """What is wrong with a tag, in a sentence; None where nothing is.

    Args:
        tag: "v0.1.0".
        root: of the source.
    """
    (version,) = re.findall(r'^__version__ = "(.*)"$', (root / "hpm/__init__.py").read_text(), flags=re.M)
    newest = re.search(r"^## \[(.*)\] - (.*)$", (root / "CHANGELOG.md").read_text(), flags=re.M)
    if tag != f"v{version}":
        return f"the tag {tag!r} must be v{version}, the version that hpm/__init__.py has"
    if newest is None or newest[1] != version:
        return f"CHANGELOG.md must begin with {version}, and begins with {None if newest is None else newest[1]}"
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", newest[2]):
        return f"CHANGELOG.md says {newest[2]!r} of {version}; write the day of the release there, as 2026-01-31"
    return None


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1] if len(sys.argv) > 1 else "", Path(__file__).resolve().parents[1]))
