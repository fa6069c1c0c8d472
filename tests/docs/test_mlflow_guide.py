"""The page of MLflow: its study is one, and its filters find what they say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from mlflow import MlflowClient

from studies.definition.loading import load_definition

PAGE = (Path(__file__).parents[2] / "docs" / "mlflow.md").read_text()


def test_its_study_can_be_started(tmp_path: Path) -> None:
    (text,) = re.findall(r"```gin[^\n]*\n(Ablation.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "curricula.gin").write_text(text)
    definition = load_definition("ablation", [str(tmp_path / "curricula.gin")])
    definition.check()
    named = re.findall(r"`(Curriculum\.\w+)`", PAGE)
    assert len(named) > 3
    assert {name for variant in definition.variant_names for name in definition.varied(variant)} >= set(named)


def test_its_filters_find_what_they_say(empty_mlflow: Path, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{shutil.copy(empty_mlflow, tmp_path / 'mlflow.db')}")
    experiment = client.create_experiment("s")
    for name, tags, seeds in (("study", {}, 3), ("variant", {}, 3), ("seed", {"seed": "0"}, None)):
        run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        client.log_param(run, "variant", "random" if name != "study" else "")
        if seeds is not None:
            client.log_metric(run, "study/seeds", seeds)

    def found(text: str) -> set[str]:
        return {run.info.run_name for run in client.search_runs([experiment], text)}

    filters = re.findall(r"`+ ?((?:params|tags|metrics)\..+?[=\"3])(?: ?`+)", PAGE)
    assert {text: found(text) for text in filters} == {
        'params.variant = "random"': {"variant", "seed"},
        'tags.seed = "0"': {"seed"},
        "metrics.`study/seeds` = 3": {"study", "variant"},
        'tags.seed != ""': {"seed"},
    }
