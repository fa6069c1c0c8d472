"""Every command and every code block of the documentation is run, on small data and for a few steps.

A page is worked through from top to bottom in a folder of its own, as a reader would. There `quickstart` and the other
complete configs are short versions of what is shipped, `photos` holds pictures, and `runs/NAME` a trained run. What
needs ImageNet or another machine is planned, parsed or built instead of trained; `NOT_RUN` says of the rest why not.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from doc_pages import ROOT, Block, blocks, commands, pages
from PIL import Image

from hpm.config import configs_folder, find_config, parse_config
from hpm.config.parser import Reader
from hpm.planning.plan import make_plan
from studies.definition.loading import load_definition

SHORT = """
Schedule.epochs = 2
Schedule.warmup_epochs = 0
Monitoring.log_every = 1
Monitoring.probes = [@RankMe()]
Monitoring.probe_every = 1
RankMe.images = 20
"""
SHORT_CONFIGS = {
    "quickstart": "DigitScenes.train_size = 96\nDigitScenes.validation_size = 20\nDigitScenes.test_size = 20\n"
    "Checkpointing.every = 2\nMonitoring.evaluations = [@RankMe()]\n",
    "own_images": "Schedule.batch_size = 8\nLoading.num_workers = 0\nMonitoring.evaluations = [@HardnessShare()]\n"
    "HardnessShare.images = 16\n",
    "fashion_mnist": "FashionMNIST.train_size = 96\nMonitoring.evaluations = [@RankMe()]\n",
    "stamp_scenes": "StampScenes.train_size = 96\nStampScenes.validation_size = 20\nStampScenes.test_size = 20\n"
    "Monitoring.evaluations = [@RankMe()]\n",
}
# Of words that a command may hold, those that say why it is not run here.
NOT_RUN = {
    "mae_pretrain_vit_base.pth": "a published file, which is not at hand",
    "/data/coco": "COCO, which is not at hand",
    "/data/ADEChallengeData2016": "ADE20K, which is not at hand",
    "benchmarks/": "programs that take from minutes to hours; tests/benchmarks runs some",
    "apt-get": "the system's packages",
    "my-experiment": "an experiment of a reader's own in MLflow",
    "/data/cutouts": "cut-outs of a reader's own; tests/hpm/data makes some",
    "hf auth": "a Hub; tests/hpm/inference has a stand-in for it",
    "--push": "likewise",
    "--format folder": "asks for scenes of all 100 classes; tests of the export have it",
    "compare mask_strategy": "a study of hours; the pages of results compare theirs",
    "compare frameworks": "likewise",
    "compare zoo": "likewise",
    "compare runs/zoo": "likewise",
    "power zoo": "likewise",
    "-$seed": "minutes of training, three times",
    "runs/fm-": "minutes of training, three times",
    "models/vit_small": "seconds of a step on a CPU",
    "runs/my_search/best.gin": "what a search of minutes has found",
    "my_search.gin": "a search of minutes; tests/studies has short ones",
    "my_ablation.gin": "an ablation of minutes; the page on choosing has a short one",
    "power mine": "asks for seeds that scatter, and so few images do not",
    "mine_confirmed": "the same ablation with other seeds",
    "mlflow": "a server, which does not end by itself",
    "optuna-dashboard": "a server, which does not end by itself",
}
PASSED = {"source", "ls", "cd", "export", "echo", "srun", "scontrol", "if", "fi"}
# Bindings over a config of data alone, which is not one of SHORT_CONFIGS.
FEW_SCENES = ["StampScenes.train_size = 400", "StampScenes.validation_size = 10", "StampScenes.test_size = 10"]
# What is bound of a command that holds a word, so that it takes seconds: no data set here has many images.
SMALL = {
    "image_curricula/prototypes": ["PrototypeDistance.clusters = 5"],
    "knn,linear,low-shot": ["LowShot.labels = 10", "LowShot.epochs = 1", "LowShot.batch_size = 10"],
    "segmentation,unsupervised-segmentation,rankme": ["Segmentation.k = [3]", "RankMe.images = 20"],
    "finetune": [
        "FineTune.epochs = 2",
        "FineTune.warmup_epochs = 0",
        "FineTune.min_epochs = 1",
        "FineTune.batch_size = 32",
    ],
    "IMG_SIZE = (128, 224)": ["ImageFolder.root = 'photos'", "Loading.num_workers = 0", "Schedule.batch_size = 8"],
    "segmentation,linear": ["Segmentation.k = [3]"],
}
FEWER = {"IMG_SIZE = 96": "IMG_SIZE = 32", "[0, 1, 2]": "[0]", "validation_images = 50": "validation_images = 4"}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, forks) -> Path:  # type: ignore[no-untyped-def]
    """A run of a short quickstart."""
    folder = tmp_path_factory.mktemp("trained")
    write_short_configs(folder)
    arguments = ("pretrain", "quickstart", "curricula/hpm_easy_to_hard", "--output", "run")
    forks.run("hpm", *arguments, cwd=folder).check_returncode()
    return folder / "run"


def write_short_configs(folder: Path) -> None:
    """Complete configs that take precedence over the shipped ones, of which they are short versions."""
    for name, own in SHORT_CONFIGS.items():
        text = find_config(name).read_text()
        dropped = r"^(LowShot|Linear|Ridge|KNN|final/KNN|Monitoring)\.(?!tracker).*\n"
        (folder / f"{name}.gin").write_text(re.sub(dropped, "", text, flags=re.MULTILINE) + SHORT + own)


@pytest.fixture
def desk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path, fashion_mnist: Path, stamp_files: Path
) -> Path:
    """The folder in which a reader works."""
    monkeypatch.chdir(tmp_path)
    write_short_configs(tmp_path)
    with (tmp_path / "stamp_scenes.gin").open("a") as file:
        file.write(f"StampScenes.root = '{stamp_files}'\n")
    generator = np.random.default_rng(0)
    for number in range(24):
        for folder in ("photos", f"photos/train/{'ab'[number % 2]}", f"photos/val/{'ab'[number % 2]}"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.jpg")
    (tmp_path / "my.gin").write_text("include 'quickstart.gin'\n")
    for page in (ROOT / "docs" / "results").iterdir():
        shutil.copytree(page, tmp_path / "docs" / "results" / page.name, ignore=shutil.ignore_patterns("*.png"))
    for name in ("NAME", "memory"):
        shutil.copytree(trained, tmp_path / "runs" / name, symlinks=True)
    return tmp_path


class Reading:
    """Somebody who works through a page.

    Args:
        desk: the folder.
        hpm: runs the command of that name.
        stamps: the folder that stands for StampScenes' packages.
    """

    def __init__(self, desk: Path, hpm: Callable[..., int], stamps: Path) -> None:
        self.desk = desk
        self.stamps = stamps
        self.names: dict[str, object] = {"__name__": "page"}
        self._hpm = hpm

    def read(self, block: Block) -> None:
        if block.title is not None and block.language != "sh":
            text = block.body
            for many, few in FEWER.items():
                text = text.replace(many, few)
            (self.desk / block.title).write_text(text)
            if found := re.search(r"^(Ablation|Search)\.base", text, flags=re.MULTILINE):
                load_definition(found[1].lower(), [block.title])
        elif block.language == "sh" and block.title is not None:
            subprocess.run(["bash", "-n"], input=block.body, text=True, check=True)
        elif block.language == "sh":
            text = block.body
            for many, few in FEWER.items():
                text = text.replace(many, few)
            for words in commands(text):
                self.run(words)
        elif block.language == "python":
            exec(compile(block.body, "page", "exec"), self.names)
        elif block.language == "gin":
            Reader([configs_folder()], run_imports=False).read_text(block.body, "page")
        else:
            assert block.language in ("text", "toml"), f"line {block.line}: say in which language the block is"

    def run(self, words: list[str]) -> None:
        if words[0] in PASSED or any(part in " ".join(words) for part in NOT_RUN):
            return
        if words[0] == "torchrun":
            words = words[words.index("-m") + 1 :]
        elif words[:3] == ["python", "-m", "pytest"]:
            subprocess.run([sys.executable, *words[1:], "-p", "no:cacheprovider"], check=True, cwd=self.desk)
            return
        program, *arguments = words
        known = {"hpm": self.run_hpm, "hpm-study": self.run_study, "make": self.run_make, "pip": self.run_pip}
        known[program](arguments)

    def run_hpm(self, arguments: list[str]) -> None:
        if arguments[0] == "pretrain" and any(word.startswith("recipes/") for word in arguments):
            configs, bindings = configs_and_bindings(arguments[1:])
            make_plan(parse_config(configs, bindings))
            return
        if "data/stamp_scenes" in arguments:
            few = [*FEW_SCENES, f"StampScenes.root = '{self.stamps}'"]
            arguments = [*arguments, *(word for binding in few for word in ("-b", binding))]
        small = next((own for word, own in SMALL.items() if word in arguments), [])
        arguments = [*arguments, *(word for binding in small for word in ("-b", binding))]
        output = Path(arguments[arguments.index("--output") + 1]) if "--output" in arguments else None
        if output is not None and arguments[0] == "pretrain" and "--resume" not in arguments:
            shutil.rmtree(self.desk / output, ignore_errors=True)
        assert self._hpm(*arguments) == 0, arguments

    def run_study(self, arguments: list[str]) -> None:
        if arguments[0] in ("ablate", "search") and "/" in arguments[1]:
            find_config(arguments[1])  # tests/studies builds every run of it
            return
        done = subprocess.run(
            [sys.executable, "-m", "studies", *arguments], cwd=self.desk, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def run_make(self, arguments: list[str]) -> None:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert arguments[0] in targets

    def run_pip(self, arguments: list[str]) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        (wanted,) = re.findall(r"^curriculum-masking\[(\w+)\]$", arguments[-1])
        assert wanted in project["optional-dependencies"]


def configs_and_bindings(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What `hpm pretrain` would read."""
    valued = {"--output", "--init-from", "-b"}
    bindings = [word for before, word in itertools.pairwise(arguments) if before == "-b"]
    plain = [word for before, word in zip(["", *arguments], arguments, strict=False) if before not in valued]
    return [word for word in plain if not word.startswith("-")], bindings


def test_what_is_not_run_is_in_some_page() -> None:
    """A reason that no command needs any longer would hide others."""
    lines = [" ".join(words) for page in pages() for block in blocks(page) for words in words_of(block)]
    assert not [part for part in NOT_RUN if not any(part in line for line in lines)]


def words_of(block: Block) -> list[list[str]]:
    """The commands of a block of the shell's that is no file."""
    return commands(block.body) if block.language == "sh" and block.title is None else []


@pytest.mark.parametrize("page", [page for page in pages() if list(blocks(page))], ids=lambda page: page.stem)
def test_a_page_is_worked_through(page: Path, desk: Path, hpm: Callable[..., int], stamp_files: Path) -> None:
    reading = Reading(desk, hpm, stamp_files)
    for block in blocks(page):
        try:
            reading.read(block)
        except Exception as error:
            raise AssertionError(f"{page.relative_to(ROOT)}, line {block.line}: {error}") from error
