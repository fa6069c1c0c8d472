"""Whatever a file of annotations holds, reading it ends in objects or in a sentence."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from coco_folders import annotation, coco_layout, content_of
from hypothesis import given, settings
from hypothesis import strategies as st

from hpm.data import CocoDetection
from hpm.errors import Notice, UserError

NUMBERS = st.integers(-40, 700) | st.floats() | st.sampled_from([2**31, 2**63, 10**40, 10**400, -(2**33)])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8) | st.sampled_from(["", "..", "/", "a\0b", "\ud800"]),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """Annotations of every kind in which up to three things are replaced, removed or doubled."""
    crowd = {"size": [20, 30], "counts": [82, 100, 418]}
    compressed = {"size": [20, 30], "counts": "b2T3R="}
    content: Any = copy.deepcopy(
        content_of(
            [annotation(7), annotation(8, segmentation=crowd, iscrowd=1), annotation(9, segmentation=compressed)]
        )
    )
    for _ in range(draw(st.integers(1, 3))):
        holder, key = content, draw(st.sampled_from(["annotations"] * 3 * ("annotations" in content) + list(content)))
        while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 9)):
            holder = holder[key]
            key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else list(range(len(holder)))))
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "double"]))
        if change == "replace":
            is_number = isinstance(holder[key], int | float)
            holder[key] = draw(NUMBERS if is_number and draw(st.booleans()) else VALUES)
        elif change == "remove" and len(holder) > 1:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
    return content


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return coco_layout(tmp_path_factory.mktemp("coco"))


def outcome(file: Path) -> str:
    """Read all that there is; what was wrong, or ""."""
    source = CocoDetection(root=file.parents[1], img_size=8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            split = source.train()
        indices_N = torch.arange(len(split))
        for objects, map_HW in zip(split.objects(indices_N), split.class_maps(indices_N), strict=True):
            count = len(objects.labels_O)
            assert objects.boxes_O4.shape == (count, 4)
            assert objects.masks_OHW.shape == (count, *map_HW.shape)
            assert bool(objects.boxes_O4.isfinite().all())
            assert bool((objects.labels_O < len(source.object_classes)).all())
        assert source.describe().startswith("CocoDetection")
    except UserError as error:
        return str(error)
    return ""


def test_what_is_mutated_can_be_read(file: Path) -> None:
    """Before it is mutated."""
    for segmentation in ({"size": [20, 30], "counts": [82, 100, 418]}, {"size": [20, 30], "counts": "b2T3R="}):
        file.write_text(json.dumps(content_of([annotation(7, segmentation=segmentation)])))
        assert outcome(file) == ""


@settings(deadline=None, max_examples=250)
@given(content=mutated())
def test_any_content_ends_in_objects_or_in_a_sentence(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content))
    text = outcome(file)
    assert text == "" or str(file.parents[1]) in text


@settings(deadline=None, max_examples=100)
@given(place=st.integers(0, 1_200), removed=st.integers(0, 40), put=st.binary(max_size=4))
def test_any_bytes_end_in_objects_or_in_a_sentence(file: Path, place: int, removed: int, put: bytes) -> None:
    whole = json.dumps(content_of()).encode()
    file.write_bytes(whole[:place] + put + whole[place + removed :])
    text = outcome(file)
    assert text == "" or str(file.parents[1]) in text
