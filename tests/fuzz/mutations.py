"""Ways in which a text, a JSON document or a file is damaged."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

_ODD_BYTES = [
    b"",
    b"{",
    b"}",
    b"[" * 100_000,
    b"\x00",
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b"NaN",
    b"1e999",
    b"\n",
    b"'",
    b"%A",
]
_ODD_JSON: list[Any] = [None, True, -1, 0, 10**9, 2**70, 1.5, float("nan"), "", "x", "../..", [], {}, [1], {"a": 1}]


@st.composite
def damaged(draw: st.DrawFn, content: bytes, *, times: int = 3) -> bytes:
    """Some bytes, with pieces of them missing, repeated, changed, or something odd put among them."""
    for _ in range(draw(st.integers(1, times))):
        first, last = sorted(draw(st.tuples(st.integers(0, len(content)), st.integers(0, len(content)))))
        piece = content[first:last]
        instead = draw(
            st.one_of(
                st.just(b""),
                st.just(piece * 2),
                st.sampled_from(_ODD_BYTES),
                st.binary(max_size=4),
                st.just(piece[::-1]),
            )
        )
        content = content[:first] + instead + content[last:]
    return content


@st.composite
def changed_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON document of another schema: something in it is missing, or is another thing."""
    document = json.loads(content)
    places = list(_places(document))
    if not places:
        return json.dumps(draw(st.sampled_from(_ODD_JSON))).encode()
    owner, key = draw(st.sampled_from(places))
    if draw(st.booleans()):
        owner[key] = draw(st.sampled_from(_ODD_JSON))
    else:
        del owner[key]
    return json.dumps(document).encode()


def _places(document: Any) -> list[tuple[Any, Any]]:
    """Everything that a document holds, as its owner and its key there."""
    keys = (
        list(document)
        if isinstance(document, dict)
        else list(range(len(document)))
        if isinstance(document, list)
        else []
    )
    return [place for key in keys for place in ((document, key), *_places(document[key]))]
