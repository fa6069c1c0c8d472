"""Which variant each variant is compared with."""

from __future__ import annotations

import re
from collections.abc import Collection


def baselines(against: str, variants: Collection[str]) -> dict[str, str]:
    """The baseline of each variant; a baseline's own is itself.

    Args:
        against: a variant that all are compared with; or, with a `*`, one for each group of variants: those that begin
            with the same, as far as the star reaches. Under '*_random', 'hog_easy_to_hard' is compared with
            'hog_random'. Of several that fit, the longest counts.
        variants: all there are. In 'study/variant', `against` may leave out the study.

    Raises:
        ValueError: if `against` names none, names several without a star, or leaves a variant without one.
    """
    choices = ", ".join(variants)
    if against.count("*") > 1:
        raise ValueError(f"{against} has more than one star; one says what groups are named by")
    if "*" not in against:
        matching = [name for name in variants if name == against or name.endswith(f"/{against}")]
        if len(matching) != 1:
            what = "is the name of several variants" if matching else "is not a variant"
            raise ValueError(f"{against} {what}; choose one of {choices}")
        return dict.fromkeys(variants, matching[0])
    before, _, after = against.partition("*")
    pattern = re.compile(f"({re.escape(before)}.*){re.escape(after)}")
    groups = {match[1]: name for name in variants if (match := pattern.fullmatch(name))}
    if not groups:
        raise ValueError(f"{against} fits no variant; choose one of {choices}, or put a * for what differs")
    chosen = {name: name for name in groups.values()}
    for name in variants:
        own = [group for group in groups if name.startswith(group)]
        if not own:
            raise ValueError(f"{against} gives {name} no baseline; its name must begin like one of {', '.join(groups)}")
        chosen.setdefault(name, groups[max(own, key=len)])
    return chosen
