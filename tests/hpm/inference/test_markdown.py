"""Whatever a value holds, a page shows it letter by letter, in a line or a cell of its own."""

from __future__ import annotations

import pytest
from cards import plain, tables_of, tokens_of
from hypothesis import given
from hypothesis import strategies as st

from hpm.inference.markdown import block, code, escape, shareable

# What Markdown and HTML give a meaning to, in any order.
HOSTILE = st.lists(
    st.sampled_from(
        [
            *"\\`*_[](){}|~#$!<>&-+=.:/@\"' \n\r\t1a",
            "](http://x)",
            "<b>",
            "</details>",
            "```",
            "&lt;",
            "https://x.y",
            "\u2028",
        ]
    ),
    max_size=12,
).map("".join)


def spaced(text: str) -> str:
    return " ".join(text.replace("\u2028", " ").split())


@given(HOSTILE)
def test_a_value_is_shown_as_it_is(text: str) -> None:
    page = f"# one\n\nvalue {escape(text)} end\n"
    (_, line) = [token for token in tokens_of(page) if token.type == "inline"]
    assert spaced(plain(line)) == spaced(f"value {text} end")


@given(HOSTILE, HOSTILE)
def test_a_cell_stays_a_cell(text: str, other: str) -> None:
    page = f"# t\n\n| | |\n| --- | --- |\n| {escape(text)} | {code(other)} |\n"
    ((first, second),) = tables_of(page)["t"]
    assert spaced(first) == spaced(text)
    assert spaced(second) == (spaced(other) or "(empty)")


@given(HOSTILE)
def test_a_block_ends_where_it_is_to(text: str) -> None:
    fence, after = [token for token in tokens_of(f"{block(text)}\n\nafter\n") if token.type in ("fence", "inline")]
    assert spaced(fence.content) == spaced(text)
    assert after.content == "after"


def test_what_is_not_known_is_said_to_be_so() -> None:
    assert escape(None) == "not recorded"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ImageFolder.root = '/home/me/my data/imagenet'", "ImageFolder.root = 'imagenet'"),
        ("ImageFolder.root = '/data/'", "ImageFolder.root = 'data'"),
        ("ImageFolder.root = '~/imagenet'", "ImageFolder.root = 'imagenet'"),
        ('TimmFeatures.model = "local-dir:/home/me/exported"', 'TimmFeatures.model = "local-dir:exported"'),
        ("PosixPath('/home/me/x')", "PosixPath('x')"),
        ("/home/me/x/y.gin", "y.gin"),
        ("uri = 'sqlite:////home/me/mlflow.db'", "uri = 'sqlite:mlflow.db'"),
        ("uri = 'https://me:secret@host/a/b'", "uri = 'https://***@host/a/b'"),
        ("TimmDataset.name = 'hfds/owner/name'", "TimmDataset.name = 'hfds/owner/name'"),
        ("include 'data/digit_scenes.gin'", "include 'data/digit_scenes.gin'"),
        ("Ramp.end = 1 / 2", "Ramp.end = 1 / 2"),
    ],
)
def test_of_paths_the_last_part_is_told(text: str, expected: str) -> None:
    assert shareable(text) == expected
