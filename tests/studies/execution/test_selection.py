"""A search chooses on validation images: with the labels of the test images shuffled it chooses the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from studies.analysis.results import study_results
from studies.execution.storage import load_study, open_storage

Study = Callable[..., subprocess.CompletedProcess[str]]

SEARCH = """
Search.base = ['tiny.gin']
Search.bindings = ['MLflowTracker.enabled = False', 'Trainer.source = @ShuffledScenes()', 'IMG_SIZE = 16',
                   'ShuffledScenes.img_size = 16', 'ShuffledScenes.train_size = 160',
                   'ShuffledScenes.shuffled = {shuffled}']
Search.space = {{'Ramp.end': 'Float(0, 1)', 'Schedule.blr': 'Float(1e-4, 1e-1, log=True)'}}
Search.metric = 'validation/ridge/pretrained'
Search.sampler = @TPESampler
TPESampler.n_startup_trials = 2
Search.pruner = @MedianPruner()
MedianPruner.n_startup_trials = 1
MedianPruner.n_warmup_steps = 0
"""


@pytest.mark.usefixtures("small")
def test_the_labels_of_test_images_choose_nothing(study: Study) -> None:
    best, scores = {}, {}
    for name, shuffled in (("true", False), ("shuffled", True)):
        Path(f"{name}.gin").write_text("import shuffled_scenes\n" + SEARCH.format(shuffled=shuffled))
        ran = study("search", f"{name}.gin", "--trials", 4, "--poll", 0.1)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        told = " ".join(ran.stdout.split())
        assert "chosen on validation images; on test images ridge/pretrained is" in told
        assert re.search(
            r"best setting, of \d complete trials: trial \d, .* %; Ramp\.end is .* and Schedule\.blr", told
        )
        assert re.search(rf"-b 'Ramp\.end = .*' -b 'Schedule\.blr = .*' as a config: runs/{name}/best\.gin", told), told
        text = Path(f"runs/{name}/best.gin").read_text()
        best[name] = re.sub(r"ShuffledScenes.shuffled = \w+|runs/\w+|study \w+", "", text)
        results = study_results(load_study(open_storage("sqlite:///runs/studies.db"), name))
        scores[name] = [run.metrics for run in results]
    assert best["true"] == best["shuffled"]
    true, shuffled = scores["true"], scores["shuffled"]
    assert [run["validation/ridge/pretrained"] for run in true] == [
        run["validation/ridge/pretrained"] for run in shuffled
    ]
    assert [run["ridge/pretrained"] for run in true] != [run["ridge/pretrained"] for run in shuffled]
