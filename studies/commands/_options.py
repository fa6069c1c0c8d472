"""The options that every command has which starts a study."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from inspect import Parameter
from typing import Any, get_type_hints

from studies.execution.options import StudyOptions


def with_study_options(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function whose first argument is `StudyOptions`.

    typer reads a command's options from its signature: in the place of the first argument, this command has an option
    for each field of `StudyOptions`.

    Args:
        function: the function, which may have options of its own after the first argument.
    """
    shared = list(_parameters_of_options())
    _, *own = inspect.signature(function, eval_str=True).parameters.values()

    @functools.wraps(function)
    def command(**values: Any) -> None:
        options = StudyOptions(**{parameter.name: values.pop(parameter.name) for parameter in shared})
        function(options, **values)

    parameters = [shared[0], *(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own), *shared[1:]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameters_of_options() -> Iterator[Parameter]:
    hints = get_type_hints(StudyOptions, include_extras=True)
    for field in dataclasses.fields(StudyOptions):
        default: Any = Parameter.empty
        if field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
