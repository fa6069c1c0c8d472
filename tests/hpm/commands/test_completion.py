"""What shells complete, and what every command answers at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import studies.cli
from hpm import __version__
from hpm.commands._completion import PROTOCOLS, complete_config, complete_config_or_folder, complete_protocol
from hpm.evaluation import discovery
from hpm.runtime.config_files import config_names

Hpm = Callable[..., int]
COMMANDS = [
    "pretrain",
    "evaluate",
    "embed",
    "export",
    "visualize",
    "plan",
    "list",
    "configs",
    "show",
    "data",
    "data export",
]


def test_a_shell_is_given_the_names_of_shipped_configs_without_the_seconds_that_torch_takes() -> None:
    program = (
        "import sys\nsys.argv = ['hpm']\nfrom hpm.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    asked = {"_HPM_COMPLETE": "complete_bash", "COMP_WORDS": "hpm pretrain curricula/att", "COMP_CWORD": "2"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    wanted = [name for name in config_names() if name.startswith("curricula/att")]
    assert ended.stdout.split() == wanted != []
    assert ended.stderr == "False\n"


def test_own_files_and_folders_are_completed_beside_the_shipped_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quiet").mkdir()
    for name in ("quick.gin", "quick.txt", ".quick.gin", "quiet/own.gin"):
        (tmp_path / name).touch()
    assert complete_config("qui") == ["quickstart", "quick.gin", "quiet/"]
    assert complete_config("quiet/") == ["quiet/own.gin"]
    assert complete_config(f"{tmp_path}/quick") == [f"{tmp_path}/quick.gin"]
    assert complete_config_or_folder("model")[:2] == ["models", "models/boot_mae_tiny"]


def test_protocols_are_completed_the_last_of_several() -> None:
    assert complete_protocol("kn") == ["knn"]
    assert complete_protocol("knn,seg") == ["knn,segmentation", "knn,segmentation-finetune"]
    assert list(PROTOCOLS) == list(discovery.protocols()), "what is completed is what there is"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_help_and_the_version(
    hpm: Hpm, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for words in ((command.split()), [*command.split(), "anything"] if command != "data" else ["data"]):
        assert hpm(*words, "--version") == 0
        assert capsys.readouterr().out == f"curriculum-masking {__version__}\n"
    for word in ("-h", "--help"):
        assert hpm(*command.split(), word) == 0
        assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["ablate", "search", "compare", "power"])
def test_every_command_of_studies_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    for word, told in (("--version", f"curriculum-masking {__version__}\n"), ("-h", "Usage:")):
        monkeypatch.setattr(sys, "argv", ["hpm-study", command, word])
        with pytest.raises(SystemExit) as stopped:
            studies.cli.main()
        assert not stopped.value.code
        assert told in capsys.readouterr().out
