"""Every mistake in the input ends in one clear sentence and exit code 2, before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Hpm = Callable[..., int]


def refused(hpm: Hpm, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a refused command."""
    capsys.readouterr()
    assert hpm("pretrain", *arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert not Path("runs").exists()
    return " ".join(message.split())


@pytest.mark.parametrize(
    ("bindings", "expected"),
    [
        (["Ramp.fnish = 0.7"], ["fnish", "Ramp"]),
        (["Rampe.end = 0.7"], ["Rampe"]),
        (["Curriculum.scheduler = @Rampe()"], ["Rampe"]),
        (["Ramp.end = 'oops'"], ["Ramp.end = 'oops'", "float"]),
        (["MaskedAutoencoder.depth = 2.5"], ["MaskedAutoencoder.depth = 2.5", "int"]),
        (["Ramp.end 0.7"], ["Ramp.end 0.7", "="]),
        (["Ramp.end = %END"], ["END"]),
        (["END = 'oops'", "Ramp.end = %END"], ["Ramp.end = 'oops'", "float"]),
        (
            ["Curriculum.scheduler = @MetricPaced()", "MetricPaced.metric = 'accuracy'"],
            ["MetricPaced watches the metric 'accuracy'", "reconstruction_loss"],
        ),
        (["Paced.end = 0.3"], ["there is no part called Paced", "hpm list"]),
        (["SelfPaced.end = 0.3"], ["SelfPaced.end (-b) cannot be bound", "SelfPaced takes share, growth"]),
        (["END = 0.7"], ["END", "nothing in this run uses it"]),
        (["Constant.value = 0.3"], ["Constant.value (-b)", "nothing in this run uses", "@Constant()"]),
        (["Curriculum.scheduler = @Constant()", "Ramp.end = 0.3"], ["Ramp.end (-b)"]),
        (["Curriculum.scheduler = @Ramp"], ["Curriculum.scheduler", "call it"]),
        (["Curriculum.scheduler = @Uniform()"], ["Curriculum.scheduler must be a Scheduler, got Uniform"]),
        (["MaskedAutoencoder.patch_size = 5"], ["patch_size = 5 does not divide", "img_size = 16"]),
        (["Curriculum.mask_ratio = 1.0"], ["Curriculum.mask_ratio = 1.0", "between 0 and 1"]),
        (["Curriculum.mask_ratio = 0.0"], ["Curriculum.mask_ratio = 0.0", "between 0 and 1"]),
        (["Curriculum.mask_ratio = 0.97"], ["mask_ratio = 0.97 of 16 patches", "at least one visible"]),
        (["Ramp.end = 1.5"], ["Ramp gives alpha", "[0, 1]"]),
        (["Curriculum.scheduler = @Plateau()", "Plateau.end = 3"], ["Plateau.end leads alpha to 3.0", "[0, 1]"]),
        ([f"Schedule.epochs = {10**21}"], ["Schedule.epochs", "64 bits"]),
        (["Schedule.min_lr = 1.0"], ["Schedule.min_lr = 1.0", "Schedule.blr"]),
        (["Runtime.device = 'meta'"], ["Runtime.device = 'meta'", "cpu"]),
        (
            ["MaskedAutoencoder.loss_predictor_depth = None"],
            ["PredictedLoss needs", "no loss predictor", "MaskedAutoencoder.loss_predictor_depth"],
        ),
        (["MaskedAutoencoder.img_size = 32"], ["MaskedAutoencoder.img_size = 32", "16 pixels"]),
        (["Schedule.batch_size = 1000"], ["batch_size = 1000", "160"]),
        (["Schedule.warmup_epochs = 9"], ["Schedule.warmup_epochs = 9", "Schedule.epochs = 4"]),
        (["Runtime.device = 'cuda:77'"], ["Runtime.device", "cuda:77"]),
        (["Runtime.precision = 'fp8'"], ["Runtime.precision = 'fp8'", "bf16"]),
        (["Trainer.progress_per = 'batch'"], ["Trainer.progress_per = 'batch'", "epoch"]),
        (["Trainer.source = @Uniform()"], ["Trainer.source must be an ImageSource"]),
        (["Method.target = @Uniform()"], ["Method.target must be a Target"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) and "=" in value[0] else "",
)
def test_bindings(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], bindings: list[str], expected: list[str]
) -> None:
    message = refused(hpm, capsys, tiny, *(word for binding in bindings for word in ("-b", binding)))
    for part in expected:
        assert part in message


def test_a_binding_in_a_file_is_named_with_its_line(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(tiny.read_text() + "Cyclic.cycles = 3\n")
    lines = len(tiny.read_text().splitlines())
    assert f"Cyclic.cycles (tiny.gin, line {lines})" in refused(hpm, capsys, tiny)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["embed", "run", "", "--out", "f"], "what follows run is empty"),
        (["pretrain", "tiny.gin", "--output", ""], "what follows --output is empty"),
        (["evaluate", " "], "what follows evaluate is empty"),
        ([""], "what follows the command is empty"),
    ],
)
def test_what_is_empty_names_nothing(hpm: Hpm, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    """A variable of the shell that is not set would name the current folder."""
    assert hpm(*words) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("binding", ["include 'mine.gin'", "import mine", "from mine import parts"])
def test_what_no_option_binds(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], binding: str) -> None:
    assert hpm("pretrain", tiny, "--dry-run", "-b", binding) == 2
    assert "it binds nothing; write it into a config" in " ".join(capsys.readouterr().err.split())


def test_a_replaced_part_takes_its_bindings_with_it(hpm: Hpm, tiny: Path) -> None:
    """`curricula/random` after a config with a Ramp is no mistake."""
    assert hpm("pretrain", tiny, "curricula/random", "-b", "Schedule.epochs = 2", "--output", "run") == 0
    assert "Ramp" not in Path("run/config.gin").read_text()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("quikstart", "quickstart?"),
        ("curricula/atention", "curricula/attention"),
        ("atention", "curricula/attention?"),
        ("vit_bse", "models/vit_base?"),
        ("configs/models/vit_bse.gin", "models/vit_base"),
        ("pixio", "curricula/pixio or recipes/pixio?"),
    ],
)
def test_a_misspelt_config_is_answered_with_the_nearest(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], name: str, meant: str
) -> None:
    message = refused(hpm, capsys, name)
    assert f"no config file '{name}'. Did you mean {meant}" in message
    assert "`hpm configs` shows all" in message


@pytest.mark.parametrize("name", [".", "/", "..", "x" * 300, "x/" * 3000])
def test_what_is_no_config(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    message = refused(hpm, capsys, name)
    assert "no config file" in message or "File name too long" in message


@pytest.mark.parametrize("option", ["--output", "--init-from"])
def test_a_path_that_no_file_system_takes(
    hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert "File name too long" in refused(hpm, capsys, tiny, option, "x" * 300)


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "tiny", "--init-from=~/nowhere"],
        ["pretrain", "--resume", "--output=~/nowhere"],
        ["evaluate", "~/nowhere", "--protocol", "knn"],
        ["visualize", "~/nowhere"],
        ["export", "~/nowhere", "--out=x"],
        ["embed", "~/nowhere", "~/images", "--out=x.parquet"],
    ],
)
def test_the_home_folder_is_known_in_every_path(
    hpm: Hpm, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words
) -> None:
    """Which no shell expands within --output=~/run."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert hpm(*words) == 2
    assert str(tmp_path / "home") in capsys.readouterr().err.replace("\n", "")
    assert not Path("~").exists()


def test_a_config_in_the_home_folder(hpm: Hpm, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert hpm("list", "~/tiny.gin") == hpm("list", "~/tiny") == 0


def test_no_config(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name at least one config" in refused(hpm, capsys)


def test_missing_include(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text("include 'nowhere.gin'\n")
    assert "nowhere.gin" in refused(hpm, capsys, tiny)


def test_an_output_that_holds_a_run(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("pretrain", tiny, "--output", "run", "-b", "Schedule.epochs = 2") == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for words in ((), ("--dry-run",)):
        message = refused(hpm, capsys, tiny, "--output", "run", *words)
        assert "run already holds a run" in message
        assert "--resume" in message
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_resume_refuses_another_config(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hpm("pretrain", tiny, "--output", "run", "-b", "Schedule.epochs = 2") == 0
    message = refused(hpm, capsys, tiny, "--resume", "--output", "run", "-b", "Schedule.epochs = 3")
    assert "Schedule.epochs: 2 -> 3" in message
    with Path("run/config.gin").open("a") as config:
        config.write("\nRamp.end = 0.9\n")
    for words in ((), (tiny, "-b", "Schedule.epochs = 2")):
        message = refused(hpm, capsys, *words, "--resume", "--output", "run")
        assert "run/config.gin was altered since run/checkpoints/checkpoint-00000020 was written" in message
        assert "Ramp.end: 0.5 -> 0.9" in message


def test_resume_where_there_is_no_run(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere is not a run" in refused(hpm, capsys, "--resume", "--output", "nowhere")
    assert "--resume needs --output" in refused(hpm, capsys, "--resume")


def test_init_from(hpm: Hpm, tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nothing.pt" in refused(hpm, capsys, tiny, "--init-from", "nothing.pt", "--output", "a")
    foreign = tmp_path / "foreign.pt"
    foreign.write_bytes(b"not a checkpoint")
    assert "foreign.pt" in refused(hpm, capsys, tiny, "--init-from", foreign, "--output", "b")


@pytest.fixture
def folder_config(tiny: Path) -> Path:
    text = tiny.read_text().replace("data/digit_scenes.gin", "data/image_folder.gin")
    lines = [line for line in text.splitlines() if not line.startswith("DigitScenes")]
    tiny.write_text(
        "\n".join([*lines, "ImageFolder.root = 'images'", "ImageFolder.img_size = 16", "Loading.num_workers = 0", ""])
    )
    return tiny


def test_missing_and_empty_image_folder(
    hpm: Hpm, folder_config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "images" in refused(hpm, capsys, folder_config)
    (tmp_path / "images").mkdir()
    assert "images" in refused(hpm, capsys, folder_config)


def test_unreadable_images_are_named_and_skipped(
    hpm: Hpm, folder_config: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "images" / "cats"
    folder.mkdir(parents=True)
    for number in range(32):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(folder / f"{number:02}.png")
    content = (folder / "17.png").read_bytes()
    (folder / "17.png").write_bytes(content[: len(content) // 2])
    tolerant = ["-b", "Loading.max_unreadable = 0.05", "-b", "Monitoring.log_every = 1"]
    assert hpm("pretrain", folder_config, *tolerant, "--output", "run") == 0
    assert "17.png" in Path("run/unreadable.txt").read_text()
    assert capsys.readouterr().out.replace("\n", "").count("17.png") == 1
    # The default forgives one of a hundred.
    assert hpm("pretrain", folder_config, "--output", "strict") == 3
    told = " ".join(capsys.readouterr().err.split())
    assert "17.png" in told
    assert "Loading.max_unreadable = 0.01" in told
