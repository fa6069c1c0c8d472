"""Runs one command in this process, and says what no command may do: raise, hang, or refuse without a reason."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings

from hpm.config.registry import configurables
from hpm.errors import UserError

LONGEST = 10.0  # seconds
_BINDINGS = {
    f"{part.__name__}.{name}"
    for parts in configurables().values()
    for part in parts
    for name in inspect.signature(part).parameters
}

# A few cases in `make test`, the same ones each time; as many as it says, always others, in `make fuzz`.
CASES = int(os.environ.get("HPM_FUZZ_CASES", "0"))
fuzz = settings(
    max_examples=CASES or 12,
    derandomize=not CASES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)


def lines_of(name: str) -> list[str]:
    """A list beside this file: one in each line, where \\n and \\t are spelled."""
    text = Path(__file__).with_name(name).read_text()
    return [line.replace("\\n", "\n").replace("\\t", "\t") for line in text.splitlines()]


class Hang(BaseException):
    """A command took too long; no `except Exception` on the way hides it."""


class Ended(NamedTuple):
    """How a command ended.

    Args:
        code: its exit status.
        told: what it wrote to standard error, on one line.
    """

    code: int
    told: str


def run(main: Callable[[], None], *words: object) -> Ended:
    """Run a command to its end; see `ended`."""
    before = sys.argv
    sys.argv = [main.__module__.partition(".")[0], *map(str, words)]
    try:
        return ended(main)
    finally:
        sys.argv = before


def ended(work: Callable[[], object]) -> Ended:
    """Do something to its end.

    Raises:
        Hang: after `LONGEST` seconds.
        Exception: whatever escapes, where a person would see a traceback.
    """
    code, errors = 0, io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), time_limit():
            work()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    except UserError as error:
        return Ended(2, str(error))
    return Ended(code, " ".join(errors.getvalue().split()))


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raises `Hang` where what is within takes longer than `LONGEST`."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_ends_well(ended: Ended, at_fault: Iterable[str], codes: Sequence[int] = (0, 2)) -> None:
    """It worked, or was refused in words that name what is at fault.

    Args:
        ended: how the command ended.
        at_fault: bindings, files and values, one of which a refusal names.
        codes: exit statuses that may be.
    """
    assert ended.code in codes, ended
    assert "Traceback" not in ended.told, ended
    assert not re.search(r"0x[0-9a-f]{8}", ended.told), ended  # an object's address tells nobody anything
    if ended.code:
        # A binding that was drawn may be refused by the name of another that it does not go with.
        assert any(name in ended.told for name in (*at_fault, *_BINDINGS) if name), ended


def names_in(bindings: Iterable[str]) -> list[str]:
    """What a refusal may name of bindings: their keys, parts, parameters, and what they are bound to."""
    names: list[str] = []
    for binding in bindings:
        key, _, value = binding.partition("=")
        names += [key.strip(), *key.strip().rpartition("/")[2].split("."), value.strip().strip("'\"@()%")]
        names += re.findall(r"[@%]([\w/]+)", value)
    return [name for name in names if len(name) > 1]
