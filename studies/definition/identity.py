"""What makes a study the one it is, kept in its user attributes in Optuna's storage, and what Optuna says of it."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping
from typing import Any

import optuna

from hpm.tracking.redact import redact_all

IDENTITY, _KEY = "definition", "key"  # user attributes of a study


def identity_of(study: optuna.Study) -> dict[str, Any]:
    """What the study was started with, as `Definition.check` gave it; empty for a study of other tools."""
    return redact_all(study.user_attrs.get(IDENTITY, {}))  # of older studies it may hold the secrets of addresses


def key_of(study: optuna.Study) -> str:
    """What tells a study from another of the same name, e.g. one that was deleted."""
    return study.user_attrs.get(_KEY, study.study_name)


def give_identity(study: optuna.Study, identity: dict[str, Any]) -> None:
    """Let a new study remember what it is."""
    study.set_user_attr(_KEY, uuid.uuid4().hex)
    study.set_user_attr(IDENTITY, identity)


def update_baseline(study: optuna.Study, identity: Mapping[str, Any]) -> None:
    """Let a study remember another baseline, which its trials do not depend on."""
    known = identity_of(study)
    if known.get("baseline") != identity.get("baseline"):
        study.set_user_attr(IDENTITY, {**known, "baseline": identity.get("baseline")})


def difference(known: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What of two identities differs first, in words; None where they are of the same study.

    Args:
        known: the identity that a study has.
        now: the one that it is asked to go on with.
    """
    for key in now:
        before, after = known.get(key), now[key]
        if before == after or key == "baseline":
            continue
        if key in ("space", "variants") and isinstance(before, dict):
            return _difference_of_entries(key, before, after)
        if key == "config":
            return "another base configuration"
        return f"another {key}: {before!r} there, {after!r} here"
    return None


def _difference_of_entries(key: str, before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Of two spaces, or two sets of variants, that differ."""
    name = min(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    old, new = before.get(name), after.get(name)
    if key == "space":
        return f"another space: {name} is {old or 'not in it'} there and {new or 'not in it'} here"
    if old is None:
        return f"other variants: {name} is not in it"
    return f"other variants: {name} {'is not here' if new is None else 'is another there'}"


def quiet_optuna() -> None:
    """Keep to what a user can act on: the heartbeat has been called experimental since 2021."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
