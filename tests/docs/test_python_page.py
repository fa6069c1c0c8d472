"""The page about Python: what its example of a training loop draws."""

from __future__ import annotations

from doc_pages import ROOT, blocks


def test_the_curriculum_in_somebody_elses_loop() -> None:
    (code,) = [block.body for block in blocks(ROOT / "docs" / "python.md") if "class MyTeacher" in block.body]
    names: dict[str, object] = {}
    exec(code, names)
    mask = names["mask"]
    assert mask.visible.shape == (8, 49)  # type: ignore[attr-defined]
    assert mask.masked.shape == (8, 147)  # type: ignore[attr-defined]
    # At the end of the run half of the mask follows the teacher: more contrast than in a random patch.
    scores = names["curriculum"].scores  # type: ignore[attr-defined]
    hard = scores.topk(73, dim=1).indices
    assert mask.to_bool().gather(1, hard).all()  # type: ignore[attr-defined]
