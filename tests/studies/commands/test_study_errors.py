"""What a user gets wrong in a study: one sentence, before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from hpm.data import FashionMNIST
from hpm.errors import UserError
from hpm.evaluation import Ridge
from studies.cli import main
from studies.definition.metric_check import require_metric

Command = Callable[..., tuple[int, str]]

ABLATION = "Ablation.base = ['tiny.gin']\nAblation.metric = 'ridge/pretrained'\n"
SEARCH = "Search.base = ['tiny.gin']\nSearch.metric = 'validation/ridge/pretrained'\n"
CSV = (
    "source,variant,seed,data,device,commit,knn/pretrained\n"
    "mine,a,0,D,cpu,x,0.5\nmine,a,1,D,cpu,x,0.6\nmine,b,0,D,cpu,x,0.7\nmine,b,1,D,cpu,x,0.5\n"
)
SPACE = "Search.space = {'Ramp.end': 'Float(0, 1)'}\n"
MEASURED = "Search.bindings = ['Monitoring.evaluations = [@HardnessShare()]']\n"


@pytest.fixture
def command(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`hpm-study` in this process; its exit code and what it says of a mistake."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str, text: str = "") -> tuple[int, str]:
        Path("my.gin").write_text(text)
        monkeypatch.setattr(sys, "argv", ["hpm-study", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ABLATION, "ariants"),
        (ABLATION + "Ablation.variants = {}", "at least one variant"),
        (ABLATION + "Ablation.variants = {'a': ['Ramp.edn = 1']}", "variant a: "),
        (ABLATION + "Ablation.variants = {'a': [], 'b': ['Ramp.end = 2.0']}", "variant b: "),
        (ABLATION + "Ablation.variants = {'a': ['curricula/none']}", "no config file 'curricula/none'"),
        (ABLATION + "Ablation.variants = {'a/b': []}", "names folders"),
        (ABLATION + "Ablation.variants = {'..': []}", "'..' names folders"),
        (ABLATION + f"Ablation.variants = {{'{'a' * 101}': []}}", "names folders; use at most 100 characters"),
        (
            ABLATION + "Ablation.variants = {'a': [], 'a': []}",
            "my.gin, line 3: Ablation.variants has the key 'a' twice",
        ),
        (ABLATION + "Ablation.variants = {'a': 'Ramp.end = 1'}", "must be a list"),
        (ABLATION + "Ablation.variants = {'a': []}\nAblation.seeds = []", "at least one seed"),
        (ABLATION + "Ablation.variants = {'a': []}\nAblation.seeds = [0, 0]", "each once"),
        (ABLATION + "Ablation.variants = {'a': []}\nAblation.baseline = 'b'", "is not a variant; choose one of a"),
        (ABLATION + "Ablation.variants = {'a': []}\nAblation.metric = 'knn/pretrained'", "none of the evaluations"),
        (ABLATION + "Ablation.variants = {'a': []}\nAblation.direction = 'up'", "choose 'maximize', 'minimize'"),
        (ABLATION + "Ablation.variants = {'a': []}\nAblation.speed = 1", "speed"),
        ("Ramp.end = 1.0", "binds nothing of Ablation"),
    ],
)
def test_ablations(command: Command, text: str, expected: str) -> None:
    code, message = command("ablate", "my.gin", text=text)
    assert (code, expected in message) == (2, True), message
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SEARCH, "space"),
        (SEARCH + "Search.space = {'Ramp.ned': 'Float(0, 1)'}", "space at Ramp.ned = 0.0: "),
        (SEARCH + "Search.space = {'Cyclic.cycles': 'Int(1, 3)'}", "nothing in this run uses Cyclic"),
        (SEARCH + "Search.space = {'Ramp.end': 'Float(0, 2)'}", "space at Ramp.end = 2.0: "),
        (SEARCH + "Search.space = {'Ramp.end': 'Float(1)'}", "Search.space['Ramp.end']"),
        (SEARCH + SPACE + "Search.cost = 'money'", "choose 'flops', 'training_seconds', None"),
        (SEARCH + SPACE + "Search.cost = 'flops'\nSearch.pruner = @MedianPruner()", "do not go together"),
        (SEARCH + SPACE + "Search.pruner = @WilcoxonPruner()", "five or more"),
        (
            SEARCH + SPACE + "Search.pruner = @MedianPruner()\nSearch.probe = 'validation/knn/pretrained'",
            "Search.probe = 'validation/knn/pretrained' is measured by none",
        ),
        (
            SEARCH + SPACE + "Search.metric = 'ridge/pretrained'",
            "Search.metric = 'ridge/pretrained' is not measured on validation images, by which alone a search chooses; "
            "name a metric that begins with 'validation/', e.g. 'validation/ridge/pretrained'",
        ),
        (
            SEARCH + SPACE + MEASURED + "Search.metric = 'validation/curriculum/hardness_share'",
            "Search.metric = 'validation/curriculum/hardness_share' is measured on training images in space at "
            "Ramp.end = 0.0; name it 'curriculum/hardness_share'",
        ),
        (
            # Of training images, so it may be chosen by: what is refused is the next binding.
            SEARCH
            + SPACE
            + MEASURED
            + "Search.metric = 'curriculum/hardness_share'\nSearch.probe = 'ridge/pretrained'",
            "Search.probe = 'ridge/pretrained' is not measured on v",
        ),
        (
            SEARCH + SPACE + "Search.metric = 'loss'",
            "Search.metric = 'loss' is not measured on validation images, by which alone a search chooses; name a "
            "metric that begins with 'validation/', e.g. 'validation/low_shot/pretrained'",
        ),
        (
            SEARCH + SPACE + "Search.probe = 'ridge/pretrained'",
            "Search.probe = 'ridge/pretrained' is not measured on v",
        ),
        (SEARCH + SPACE + "Search.first = [{'Ramp.start': 0.1}]", "which is not in Search.space"),
        (SEARCH + SPACE + "Search.first = [{'Ramp.end': 3.0}]", "Search.first sets Ramp.end = 3.0, which"),
        (SEARCH + SPACE + "Search.sampler = @TPESampler\nTPESampler.n_startup = 3", "n_startup"),
        (SEARCH + SPACE + "TPESampler.n_startup_trials = 3", "nothing in this run uses TPESampler"),
    ],
)
def test_searches(command: Command, text: str, expected: str) -> None:
    code, message = command("search", "my.gin", "--trials", "2", text=text)
    assert (code, expected in message) == (2, True), message
    assert not Path("runs").exists()


NO_VALIDATION = [
    "FashionMNIST.validation_images = 0",
    "Monitoring.evaluations = [@final/KNN()]",
    "Monitoring.probe_every = 0",
    "Monitoring.probes = []",
]
NONE_LEFT = " is measured on validation images, of which FashionMNIST.validation_images = 0 leaves none in "


@pytest.mark.parametrize("name", ["metric", "probe"])
@pytest.mark.parametrize("metric", ["low_shot/pretrained/lr", "validation/low_shot/pretrained/epochs/draw0"])
def test_what_was_chosen_does_not_choose(command: Command, name: str, metric: str) -> None:
    code, message = command("search", "my.gin", "--trials", "2", text=SEARCH + SPACE + f"Search.{name} = '{metric}'")
    assert code == 2
    assert f"Search.{name} = '{metric}' says nothing of how good a run is" in message


@pytest.mark.usefixtures("fashion_mnist")
def test_validation_images_that_are_switched_off(command: Command) -> None:
    """Nothing is trained before it is known that no run can have the metric; test images are there all the same."""
    fashion = f".base = ['ablations/fashion_mnist_small']\n{{0}}.bindings = {NO_VALIDATION}\n"
    metric = ".metric = 'validation/knn/pretrained'"
    text = "Ablation" + fashion.format("Ablation") + "Ablation.variants = {'a': []}\nAblation" + metric
    code, message = command("ablate", "my.gin", text=text)
    assert (code, "Ablation" + metric + NONE_LEFT + "variant a" in message) == (2, True), message
    code, message = command(
        "search", "my.gin", "--trials", "2", text="Search" + fashion.format("Search") + SPACE + "Search" + metric
    )
    assert (code, "Search" + metric + NONE_LEFT + "space at Ramp.end" in message) == (2, True), message
    assert not Path("runs").exists()


@pytest.mark.usefixtures("fashion_mnist", "command")
def test_a_probe_of_validation_images_that_are_switched_off() -> None:
    source, probe = FashionMNIST(validation_images=0), "validation/ridge/pretrained"
    with pytest.raises(
        UserError, match="Search.probe = 'validation/ridge/pretrained'" + NONE_LEFT + "Monitoring.probes"
    ):
        require_metric(probe, [Ridge()], source, "Search.probe", "Monitoring.probes")
    require_metric("ridge/pretrained", [Ridge()], source, "Ablation.metric", "variant a")
    require_metric(probe, [Ridge()], FashionMNIST(), "Search.probe", "Monitoring.probes")


def test_options(command: Command) -> None:
    fine = ABLATION + "Ablation.variants = {'a': []}"
    Path("my.gin.csv").write_text(CSV)
    Path("done").mkdir()
    Path("done/results.csv").write_text(CSV)
    Path("images/train").mkdir(parents=True)
    Path("mine").mkdir()
    Path("mine/report.html").write_text("mine")
    for words, expected in (
        (("ablate", "none.gin"), "no config file 'none.gin'"),
        (("ablate", "my.gin", "--workers", "5000"), "--workers 5000 must be 1 to 1,024"),
        (("ablate", "my.gin", "--heartbeat", "60", "--grace", "60"), "must be more than"),
        (("ablate", "my.gin", "--storage", "postgresql://127.0.0.1:1/x"), "cannot be opened"),
        (("search", "my.gin", "--trials", "0"), "--trials 0 must be 1 to 100,000"),
        (("search", "my.gin", "--trials", "1000000000"), "--trials 1000000000 must be 1 to 100,000"),
        (("ablate", "my.gin", "--study", ""), "what follows --study is empty"),
        (("ablate", "my.gin", "--storage="), "--storage= is empty"),
        (("ablate", "my.gin", "--output", "images"), "--output images is not empty, and holds nothing of a study"),
        (("ablate", "my.gin", "--output", "mine"), "--output would replace mine/report.html, which no study and no"),
        (("compare", "done"), "no MLflow experiment 'done'; done is a folder: name done/results.csv, which is in it"),
        (("compare", "images"), "no MLflow experiment 'images'; images is a folder"),
        (("compare", "nobody", "--storage", "sqlite:///images"), "the file of --storage images is a folder; name a"),
        (("compare", "nobody", "--metric", "m"), "there is no study and"),
        (("compare", "nobody", "--markdown", "--csv"), "two formats"),
        (("compare", "nobody.csv", "--metric", "m"), "nobody.csv cannot be read as a results.csv of a study"),
        (("compare", "my.gin.csv"), "--metric is needed where no study says which; choose one of knn/pretrained"),
        (("compare", "my.gin.csv", "--metric", "knn/pretrained", "--equivalent-within", "0"), "must be more than 0"),
        (("power", "nobody", "--effect", "1", "--metric", "m"), "there is no study and"),
        (("power", "my.gin.csv", "--effect", "0"), "--effect 0 must be more than 0, in the unit"),
        (("power", "my.gin.csv", "--effect", "-0.4"), "--effect -0.4 must be more than 0"),
        (("power", "my.gin.csv", "--effect", "1", "--power", "1"), "--power 1 must lie between 0 and 1"),
        (("power", "my.gin.csv", "--effect", "1", "--variants", "1"), "--variants 1 must be 2 to 100,000"),
        (("power", "my.gin.csv", "--effect", "1", "--variants", f"1{400 * '0'}"), "must be 2 to 100,000"),
        (("power", "my.gin.csv", "--effect", "1", "--metric", "knn/x"), "--metric knn/x was measured in no run"),
        (
            ("power", "my.gin.csv", "--effect", "1", "--metric", "knn/pretrained"),
            "mine cannot tell how much knn/pretrained scatters: no variant shares 3 or more seeds with its baseline",
        ),
    ):
        code, message = command(*words, text=fine)
        assert (code, expected in message) == (2, True), message


def test_looking_for_what_is_not_there_makes_nothing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    before = {*tmp_path.iterdir(), tmp_path / "my.gin"}
    for storage in ("sqlite:///deep/no.db", "sqlite:///empty.db"):
        for words in (("compare", "nobody"), ("power", "nobody", "--effect", "1")):
            code, message = command(*words, "--storage", storage)
            assert (code, "there is no study and, at sqlite:///" in message) == (2, True), message
    assert set(tmp_path.iterdir()) == before
    assert not (tmp_path / "empty.db").read_bytes()


def test_help_and_comparing_need_no_heavy_import(tmp_path: Path) -> None:
    import subprocess

    optuna.create_study(storage=f"sqlite:///{tmp_path}/studies.db", study_name="another")
    results = str(Path(__file__).parents[3] / "docs" / "results" / "hardness" / "results.csv")
    compared = ["compare", results, "--metric", "linear/pretrained", "--storage", f"sqlite:///{tmp_path}/studies.db"]
    for words, light in ((["--help"], ["optuna", "numpy"]), (compared, []), ([*compared, "--csv"], [])):
        code = (
            f"import sys; sys.argv = {['hpm-study', *words]}\nfrom studies.cli import main\n"
            "try: main()\nexcept SystemExit as ended: assert not ended.code, ended.code\n"
            f"assert not {{'torch', 'mlflow', 'timm', 'gin', 'matplotlib', *{light}}} & sys.modules.keys()"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
