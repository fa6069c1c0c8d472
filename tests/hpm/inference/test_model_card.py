"""The model card beside an exported encoder: what the run has recorded, and nothing that it has not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cards import plain, run_program, split_card, tables_of, tokens_of
from huggingface_hub import ModelCard
from PIL import Image

from hpm import __version__
from hpm.config import parse_config
from hpm.evaluation.features import pooled
from hpm.inference.evaluation_results import summarize
from hpm.inference.loading import load_model
from hpm.planning.plan import make_plan
from hpm.runs.checkpoint import list_checkpoints

Hpm = Callable[..., int]


@pytest.fixture
def run(pretrained: Callable[..., Path], tmp_path: Path) -> Path:
    trained = pretrained("Schedule.epochs = 2", "HorizonDecay.fraction = 0.2", "Monitoring.evaluations = [@Ridge()]")
    return Path(shutil.copytree(trained, tmp_path / "run", symlinks=True))


def exported(hpm: Hpm, run: Path, *options: object) -> tuple[str, dict[str, list[list[str]]]]:
    """A card's page and its tables."""
    assert hpm("export", run, "--out", "exported", *options) == 0
    page = split_card(Path("exported"))[1]
    return page, tables_of(page)


def test_the_hub_reads_its_head(hpm: Hpm, run: Path) -> None:
    exported(hpm, run)
    head, page = split_card(Path("exported"))
    assert head["library_name"] == "timm"
    assert {"timm", "masked-image-modeling"} <= set(head["tags"])
    assert "license" not in head  # nobody said one
    assert "datasets" not in head
    assert ModelCard.load("exported/README.md").data.pipeline_tag == "image-feature-extraction"
    assert "The license of these weights is not recorded." in page


def test_it_tells_what_the_run_has_recorded(hpm: Hpm, run: Path) -> None:
    page, tables = exported(hpm, run)
    manifest, summary = (json.loads((run / name).read_text()) for name in ("run.json", "summary.json"))
    rows = {title: dict(table) for title, table in tables.items() if len(table[0]) == 2}
    assert "`PredictedLoss`" in page
    assert "student's weights after 20 steps" in page
    curriculum = rows["Curriculum"]
    assert curriculum["scheduler"] == "Ramp(begin=0.0, end=0.5, shape=linear, start=0.0, until=1.0)"
    assert curriculum["sampler"] == "HardestFirst()"
    assert curriculum["mask ratio"] == "0.75"
    assert curriculum["alpha"] == "0.25 in the first step, 0.50 in the last"  # after one and two epochs of two
    data = rows["Data"]
    assert data["source"].startswith("DigitScenes(")
    assert data["training images"] == f"160, fingerprint {manifest['data']['fingerprint']}"
    assert data["test images"].startswith("48, ")
    assert data["mean of each channel"] == ", ".join(f"{value:g}" for value in manifest["mean"])
    training = rows["Training"]
    assert (training["steps"], training["epochs"], training["seed"]) == ("20 of 20", "2 of 2", "0")
    assert training["learning rate"].startswith("6.25e-05 (base 0.001 for 256 images)")
    assert training["optimizer"].startswith("AdamW, Optimization(betas=(0.9, 0.95)")
    assert training["precision"] == manifest["precision"]
    cost = rows["Cost"]
    assert cost["device"] == summary["device"]
    assert cost["training"] == f"{summary['training_seconds']:,.0f} s"
    assert float(cost["hours of all devices together"]) == pytest.approx(summary["training_seconds"] / 3600, rel=1e-3)
    plan = make_plan(parse_config([str(run / "config.gin")]))
    assert cost["operations of the training, counted from the configuration"].startswith(f"{plan.flops:.3g} FLOPs")
    versions = rows["Versions"]
    assert versions["exported by"] == f"curriculum-masking {__version__}"
    assert versions["curriculum-masking, version or commit"] == manifest["versions"]["source"]
    assert versions["PyTorch"] == torch.__version__
    final = {row[0]: row[1:] for row in tables["When training ended"]}
    assert set(final) == set(summary["metrics"])
    assert final["ridge/pretrained"] == [f"{100 * summary['metrics']['ridge/pretrained']:.2f} %", "none", "1"]


def test_its_program_computes_our_features(hpm: Hpm, run: Path) -> None:
    exported(hpm, run)
    pixels = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save("image.png")
    context = load_model(run).context()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (context.source.mean, context.source.std))
    with torch.no_grad():
        expected = pooled(context.model.encoder, ((pixels.movedim(2, 0) / 255 - mean) / std).unsqueeze(0), "token")
    torch.testing.assert_close(run_program(Path("exported"))["features"], expected, rtol=1e-5, atol=1e-5)


def test_its_configuration_repeats_the_run(hpm: Hpm, run: Path) -> None:
    page, _ = exported(hpm, run)
    (config,) = [token.content for token in tokens_of(page) if token.type == "fence" and "Ramp.end" in token.content]
    Path("again.gin").write_text(config)
    assert hpm("pretrain", "again.gin", "--output", "again", "-b", "MLflowTracker.enabled = False") == 0
    ours, again = (load_model(path).method.student.state_dict() for path in (run, Path("again")))
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_it_has_the_evaluations_of_its_weights(hpm: Hpm, run: Path) -> None:
    assert hpm("evaluate", run, "--protocol", "ridge", "-b", "Ridge.baselines = True") == 0
    assert hpm("evaluate", run, "--protocol", "knn", "--weights", "teacher") == 0
    (entry,) = entries = json.loads((run / "evaluation-ridge.json").read_text())
    several = {"ridge/pretrained": [0.25, 0.5], "ridge/pretrained/blr": [0.002, 0.004]}
    entries.append(entry | {"seeds": 2, "bindings": ["Files.root = '/home/me/x|y'"], "metrics": summarize(several)})
    (run / "evaluation-ridge.json").write_text(json.dumps(entries))
    page, _ = exported(hpm, run)
    measured = f"| `ridge/initialization` | {100 * entry['metrics']['ridge/initialization']['mean']:.2f} % | none | 1 |"
    assert measured in page
    # Student's t with one degree of freedom: 12.706 times the standard error, 0.125.
    assert "| `ridge/pretrained` | 37.50 % | ± 158.83 | 2 |" in page
    assert "Files.root = 'x\\|y'" in page
    assert "/home/me" not in page
    assert "left out here: 1." in page
    assert "knn" not in page
    assert hpm("export", run, "--out", "other", "--weights", "teacher") == 0
    other = split_card(Path("other"))[1]
    assert "### knn" in other
    assert "left out here: 2." in other


def test_an_earlier_checkpoint_has_no_figures_of_the_last(hpm: Hpm, run: Path) -> None:
    _, tables = exported(hpm, list_checkpoints(run / "checkpoints")[1])
    assert dict(tables["Training"])["steps"] == "14 of 20"
    assert set(dict(tables["Cost"]).values()) == {"not recorded"}
    assert "When training ended" not in tables


def test_what_is_bound_for_the_export_changes_no_record(hpm: Hpm, run: Path) -> None:
    page, tables = exported(hpm, run, "-b", "Curriculum.mask_ratio = 0.5", "-b", "DigitScenes.train_size = 20")
    assert "under these bindings" in page
    assert "`Curriculum.mask_ratio = 0.5`" in page
    assert dict(tables["Curriculum"])["mask ratio"] == "0.75"
    assert "train_size=160" in dict(tables["Data"])["source"]


LISTED = """
import gin
import torch
from curriculum import Scheduler


@gin.register
class Listed(Scheduler):
    '''Alphas that are read from a tensor at once, which the meta device has no values of.'''

    def __init__(self) -> None:
        self.alphas = torch.linspace(0, 0.5, 11).tolist()

    def __call__(self, progress: float) -> float:
        return self.alphas[int(10 * progress)]
"""


def test_a_part_that_cannot_be_counted_is_exported_all_the_same(
    hpm: Hpm, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("listed.py").write_text(LISTED)
    monkeypatch.syspath_prepend(Path().resolve())
    tiny.write_text(f"import listed\n{tiny.read_text()}\nCurriculum.scheduler = @Listed()\nSchedule.epochs = 2\n")
    assert hpm("pretrain", tiny, "--output", "run") == 0
    _, tables = exported(hpm, Path("run"))
    assert dict(tables["Curriculum"])["alpha"] == "0.25 in the first step, 0.50 in the last"
    assert dict(tables["Cost"])["operations of the training, counted from the configuration"] == "not recorded"


def test_parts_within_parts_are_spelled_each_with_its_own_parameters(hpm: Hpm, tiny: Path) -> None:
    """Ramps in two scopes, one of them within another part, and what both have without a scope."""
    bindings = (
        "Curriculum.mask_ratio = @ratio/Ramp()",
        "ratio/Ramp.start = 0.5",
        "ratio/Ramp.end = 0.75",
        "Curriculum.scheduler = @Stepped()",
        "Stepped.scheduler = @inner/Ramp()",
        "Stepped.steps = 4",
        "Curriculum.difficulty = @Mixture()",
        "Mixture.estimators = [@PredictedLoss(), @EdgeDensity()]",
        "Mixture.weights = [0.5, 1.0]",
        "Ramp.end = 0.6",
        "Schedule.epochs = 2",
    )
    assert hpm("pretrain", tiny, "--output", "run", *(word for text in bindings for word in ("-b", text))) == 0
    curriculum = dict(exported(hpm, Path("run"))[1]["Curriculum"])
    ramp = "Ramp(begin=0.0, end=0.6, shape=linear, start=0.0, until=1.0)"
    assert curriculum["scheduler"] == f"Stepped(scheduler={ramp}, steps=4)"
    assert curriculum["mask ratio"] == "0.50 -> 0.75"
    estimators = "[PredictedLoss(probes=0), EdgeDensity()]"
    assert curriculum["difficulty"] == f"Mixture(estimators={estimators}, weights=[0.5, 1.0])"


def test_weights_of_others_have_no_records(hpm: Hpm, run: Path) -> None:
    torch.save({"model": load_model(run).context().model.encoder.state_dict()}, "mae.pth")
    page, tables = exported(hpm, Path("mae.pth"))
    assert "weights that do not say how they were trained" in page
    assert set(tables) == {"Encoder", "Versions"}
    assert "Ramp" not in page
    assert page.count("Not recorded.") == 2


def test_nothing_of_this_machine_is_told(hpm: Hpm, tiny: Path, tmp_path: Path) -> None:
    bindings = ("MLflowTracker.uri = 'https://me:secret@tracker.example'", "Schedule.epochs = 2")
    assert hpm("pretrain", tiny, "--output", "run", *(word for text in bindings for word in ("-b", text))) == 0
    page, _ = exported(hpm, Path("run").resolve())
    for private in ("secret", "tracker.example", str(tmp_path)):
        assert private not in page
    assert "Monitoring.tracker = @MLflowTracker()" in page


def test_names_cannot_break_out_of_the_page(hpm: Hpm, tiny: Path) -> None:
    name = "a|b*c*_d_ <img src=x> `e` [f](http:g) # --- &amp; ``` https:www.h.org"
    assert hpm("pretrain", tiny, "--output", name, "-b", "Schedule.epochs = 2") == 0
    page, tables = exported(hpm, Path(name))
    tokens = tokens_of(page)
    html = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert html == ["<details>\n<summary>config.gin</summary>", "</details>"]
    title = next(tokens[place + 1] for place, token in enumerate(tokens) if token.tag == "h1")
    assert plain(title) == name
    assert {len(row) for table in tables.values() for row in table} == {2}
    assert "hr" not in {token.type for token in tokens}
