"""The space of a search: which bindings vary, and over what.

A space is written in gin as bindings and what each may be:

    Search.space = {
        'Curriculum.scheduler': "Categorical(['@Ramp()', '@Cyclic()'])",
        'Ramp.end': "Float(0, 1, when={'Curriculum.scheduler': '@Ramp()'})",
        'Cyclic.cycles': "Int(1, 8, when={'Curriculum.scheduler': '@Cyclic()'})",
        'Curriculum.mask_ratio': "Float(0.5, 0.9)",
    }
"""

from __future__ import annotations

import ast
import decimal
import math
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeGuard

import optuna

from hpm.errors import UserError

Value = bool | int | float | str | None
Assignment = dict[str, Value]
"""A point of a space: values by binding, e.g. `{"Ramp.end": 0.7}`."""


@dataclass(frozen=True)
class Parameter(ABC):
    """What one binding may be.

    Args:
        when: values that earlier parameters must have for this one to apply; empty where it always applies.
    """

    when: Mapping[str, Value] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.when, Mapping) or not all(isinstance(name, str) for name in self.when):
            raise ValueError(
                f"when = {self.when!r} must be a dictionary of earlier choices, e.g. {{'Ramp.shape': 'cosine'}}"
            )

    def applies(self, assignment: Assignment) -> bool:
        """Whether this parameter belongs to a point of which the earlier parameters are chosen."""
        return all(name in assignment and assignment[name] == value for name, value in self.when.items())

    @abstractmethod
    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Value:
        """A trial's value of it, chosen by the study's sampler."""

    @abstractmethod
    def holds(self, value: Value) -> bool:
        """Whether the parameter may have this value."""

    @abstractmethod
    def examples(self) -> Sequence[Value]:
        """Values that between them show every mistake that the space can hold."""

    @abstractmethod
    def values(self) -> Iterable[Value] | None:
        """All values; None where there is no end of them."""


@dataclass(frozen=True)
class Float(Parameter):
    """A number from `low` to `high`, both included; spread over orders of magnitude with `log`, or in steps."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_range(self.low, self.high, self.log, self.step)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Value:
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def holds(self, value: Value) -> bool:
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-8)

    def examples(self) -> Sequence[Value]:
        return [float(self.low), float(self.high)]

    def values(self) -> Iterable[Value] | None:
        if self.step is None:
            return None
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        return (float(low + count * step) for count in range(round((self.high - self.low) / self.step) + 1))


@dataclass(frozen=True)
class Int(Parameter):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int
    log: bool = False
    step: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("low", self.low), ("high", self.high), ("step", self.step)):
            if not _is_whole(value):
                raise ValueError(f"low, high and step must be whole numbers, which {name} = {value!r} is not")
        _require_range(self.low, self.high, self.log, None if self.step == 1 else self.step)

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Value:
        return trial.suggest_int(name, self.low, self.high, log=self.log, step=self.step)

    def holds(self, value: Value) -> bool:
        return _is_whole(value) and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def examples(self) -> Sequence[Value]:
        return [self.low, self.high]

    def values(self) -> Iterable[Value] | None:
        return range(self.low, self.high + 1, self.step)


@dataclass(frozen=True)
class Categorical(Parameter):
    """One of several values; one that begins with `@` or `%` is a gin reference or macro."""

    choices: Sequence[Value]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.choices, list | tuple) or not self.choices:
            raise ValueError("choices must be a list of at least one value")
        for choice in self.choices:
            if not isinstance(choice, bool | int | float | str | None):
                raise ValueError(f"a choice must be a number, a string, a bool or None, got {choice!r}")
            if isinstance(choice, float) and not math.isfinite(choice):
                raise ValueError(f"a choice must be finite, got {choice!r}")
        if len(set(self.choices)) < len(self.choices):
            raise ValueError("a choice is named twice; 1, 1.0 and True are the same")

    def suggest(self, trial: optuna.trial.BaseTrial, name: str) -> Value:
        return trial.suggest_categorical(name, list(self.choices))

    def holds(self, value: Value) -> bool:
        # A number is no bool, though Python takes 1 for True.
        return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices)

    def examples(self) -> Sequence[Value]:
        return list(self.choices)

    def values(self) -> Iterable[Value] | None:
        return list(self.choices)


_NAME = re.compile(r"[\w./-]+")
_KINDS: dict[str, type[Parameter]] = {"Float": Float, "Int": Int, "Categorical": Categorical}


def _require_range(low: float, high: float, log: bool, step: float | None) -> None:
    for name, value in (("low", low), ("high", high), ("step", step)):
        if not _is_number(value) and not (name == "step" and value is None):
            raise ValueError(f"low, high and step must be numbers, which {name} = {value!r} is not")
    if not isinstance(log, bool):
        raise ValueError(f"log = {log!r} must be True or False")
    if not low < high:
        raise ValueError(f"low = {low} must be less than high = {high}")
    if log and low <= 0:
        raise ValueError(f"low = {low} must be positive with log=True")
    if log and step is not None:
        raise ValueError("log=True and step do not go together")
    if step is not None and step <= 0:
        raise ValueError(f"step = {step} must be positive")
    if step is not None:
        _require_grid(low, high, step)


def _require_grid(low: float, high: float, step: float) -> None:
    """Refuse a range that its steps do not end at, as decimals are written: 0.3 is three steps of 0.1."""
    first, last, width = (Decimal(str(value)) for value in (low, high, step))
    try:
        steps = (last - first) // width
    except decimal.InvalidOperation as error:
        raise ValueError(f"step = {step} is too small for a range from {low} to {high}") from error
    if first + steps * width != last:
        ends = [first + count * width for count in (steps, steps + 1) if count]
        raise ValueError(
            f"step = {step} does not lead from low = {low} to high = {high}; let high be {' or '.join(map(str, ends))}"
        )


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def parse_space(texts: Mapping[str, str]) -> dict[str, Parameter]:
    """Read a space as a config holds it; nothing of it is evaluated as code.

    Raises:
        UserError: naming the entry at fault.
    """
    space: dict[str, Parameter] = {}
    for name, text in texts.items():
        if not _NAME.fullmatch(name):
            raise UserError(f"Search.space names {name!r}, which is not what a binding binds, e.g. 'Ramp.end'")
        try:
            space[name] = _parse(text)
        except (ValueError, TypeError, SyntaxError) as error:
            raise UserError(
                f"Search.space['{name}'] = {text!r} is not a parameter: {error}; write 'Float(0, 1)', "
                "'Float(1e-5, 1e-3, log=True)', 'Int(1, 8)' or \"Categorical(['linear', 'cosine'])\""
            ) from error
        for other, value in space[name].when.items():
            known = space.get(other)
            if known is None or other == name:
                raise UserError(f"Search.space['{name}'] depends on {other}, which must stand before it in the space")
            if not known.holds(value):
                raise UserError(f"Search.space['{name}'] depends on {other} = {value!r}, which it never is")
    return space


def _parse(text: str) -> Parameter:
    if not isinstance(text, str):
        raise ValueError("it must be a string")
    call = ast.parse(text.strip(), mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in _KINDS:
        raise ValueError(f"it must be one of {', '.join(_KINDS)}")
    _refuse_doubles(call)
    arguments = [ast.literal_eval(argument) for argument in call.args]
    keywords = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    return _KINDS[call.func.id](*arguments, **keywords)


def _refuse_doubles(call: ast.Call) -> None:
    """An argument or a key that stands there twice, of which Python would take the last."""
    names = [str(keyword.arg) for keyword in call.keywords]
    keys = [ast.unparse(key) for node in ast.walk(call) if isinstance(node, ast.Dict) for key in node.keys if key]
    for found in (names, keys):
        if twice := [name for place, name in enumerate(found) if name in found[:place]]:
            raise ValueError(f"{twice[0]} stands there twice")


def suggest(trial: optuna.trial.BaseTrial, space: Mapping[str, Parameter]) -> Assignment:
    """Have a trial choose a point of the space: the parameters that apply, in the order of the space."""
    assignment: Assignment = {}
    for name, parameter in space.items():
        if parameter.applies(assignment):
            assignment[name] = parameter.suggest(trial, name)
    return assignment


def example_assignments(space: Mapping[str, Parameter]) -> Iterator[Assignment]:
    """Points in which every choice and every bound occurs, each once; the others keep their first value."""

    def complete(fixed: Assignment) -> Assignment:
        assignment: Assignment = {}
        for name, parameter in space.items():
            if parameter.applies(assignment):
                assignment[name] = fixed.get(name, parameter.examples()[0])
        return assignment

    seen: list[Assignment] = []
    for name, parameter in space.items():
        for value in parameter.examples():
            assignment = complete({**_needed(space, name), name: value})
            if assignment not in seen:
                seen.append(assignment)
                yield assignment


def _needed(space: Mapping[str, Parameter], name: str) -> Assignment:
    """What must be chosen for a parameter to apply."""
    needed: Assignment = {}
    for other, value in space[name].when.items():
        needed |= {**_needed(space, other), other: value}
    return needed


def binding(name: str, value: Value) -> str:
    """A value as a gin binding."""
    reference = isinstance(value, str) and value.startswith(("@", "%"))
    return f"{name} = {value if reference else repr(value)}"
