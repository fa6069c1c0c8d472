"""How far long work is: sparse lines in a log, bars on a terminal, nothing where nobody asked."""

from __future__ import annotations

import re
from io import StringIO

import pytest
import torch
from rich.console import Console

from hpm.runtime.console import make_console
from hpm.runtime.progress import progress_to, track, tracked

BATCHES = torch.arange(10).split(4)


def log() -> tuple[Console, StringIO]:
    text = StringIO()
    return make_console(file=text), text


def test_items_come_as_they_are_and_nothing_is_shown_where_nobody_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(BATCHES, "looking at", 10, count=len)) == list(BATCHES)
    assert capsys.readouterr() == ("", "")


def test_a_log_is_told_how_far_work_is_and_how_long_it_takes() -> None:
    console, text = log()
    with progress_to(console, seconds_between_lines=0):
        assert len(list(track(BATCHES, "looking at", 10, count=len))) == 3
    assert re.fullmatch(
        r"looking at 4/10 images, about [\d,]+ s left\nlooking at 8/10 images, about [\d,]+ s left\n", text.getvalue()
    )


def test_a_log_stays_empty_where_work_is_short() -> None:
    console, text = log()
    with progress_to(console, "evaluating ..."), tracked("fine-tuning:", 3, unit="steps") as work:
        for _ in range(3):
            work.advance()
    assert text.getvalue() == ""


def test_work_that_goes_on_counts_what_was_done_before() -> None:
    console, text = log()
    with progress_to(console, seconds_between_lines=0), tracked("fine-tuning:", 100, done=50, unit="steps") as work:
        work.advance(10)
    assert text.getvalue().startswith("fine-tuning: 60/100 steps, about ")


def test_a_terminal_has_a_bar_for_each_work_that_is_not_over() -> None:
    text = StringIO()
    console = make_console(file=text, force_terminal=True, color_system=None, width=100)
    with progress_to(console, "evaluating ..."), tracked("fine-tuning:", 1000, unit="steps") as outer:
        outer.advance(300)
        for _ in track(BATCHES, "looking at", 10, count=len):
            console.print("a line beside")
    shown = text.getvalue()
    for told in ("evaluating ...", "fine-tuning:", "300/1,000 steps", "looking at", "0/10 images", "a line beside"):
        assert told in shown


def test_work_that_breaks_off_leaves_no_bar_behind() -> None:
    console, text = log()
    with progress_to(console, seconds_between_lines=0):
        broken = track(BATCHES, "first", 10, count=len)
        next(broken)
        with pytest.raises(ValueError, match="broken"):
            broken.throw(ValueError("broken"))
        list(track(BATCHES, "second", 10, count=len))
    assert "first" not in text.getvalue()
    assert "second 8/10" in text.getvalue()


def test_a_quiet_console_says_nothing() -> None:
    text = StringIO()
    console = make_console(file=text, quiet=True, force_terminal=True)
    with progress_to(console, "evaluating ...", seconds_between_lines=0):
        list(track(BATCHES, "looking at", 10, count=len))
    assert text.getvalue() == ""
