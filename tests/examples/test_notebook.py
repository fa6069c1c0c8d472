"""The notebook runs from top to bottom, and what is committed with its pictures is what stands in the program."""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

from hpm.config import find_config

EXAMPLES = Path(__file__).parents[2] / "examples"
SHORT = """
DigitScenes.train_size = 96
DigitScenes.validation_size = 20
DigitScenes.test_size = 20
HardnessShare.images = 16
"""


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return jupytext.read(EXAMPLES / "notebook.py")


def test_it_runs_from_top_to_bottom(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel of its own, with a short quickstart in the folder in which it runs."""
    text = re.sub(r"^LowShot\..*\n", "", find_config("quickstart").read_text(), flags=re.MULTILINE)
    (tmp_path / "quickstart.gin").write_text(text + SHORT)
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    printed = "".join(output.get("text", "") for output in outputs)
    assert re.search(r"random masks +hardness share +-?0%", printed)
    assert "true loss" in printed
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_the_executed_notebook_is_the_program_with_its_outputs(notebook: nbformat.NotebookNode) -> None:
    executed = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert [cell.source for cell in executed.cells] == [cell.source for cell in notebook.cells]
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not [output for output in outputs if output.output_type == "error"]
    assert ".venv" not in str(outputs)  # what is printed depends on no machine
