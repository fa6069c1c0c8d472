"""Exported encoders on the Hugging Face Hub: what arrives there, what is loaded from there, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hub import TOKEN, Hub, running_hub

from hpm.evaluation.features import pooled
from hpm.inference.loading import load_model

Hpm = Callable[..., int]

# huggingface_hub reads HF_ENDPOINT when it is imported: one process of its own gives all commands, each in its
# environment, and then loads what it has pushed.
PROGRAM = """
import contextlib, io, json, os, sys
import timm, torch
from hpm.cli import main

ends = []
for token, words in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"], sys.argv = token, ["hpm", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as stopped:
            ends.append((stopped.code or 0, out.getvalue(), err.getvalue()))
images = torch.load("images.pt")
with torch.no_grad():
    found = [
        timm.create_model(name, pretrained=True).eval()(images) for name in ("hf-hub:me/encoder", "local-dir:exported")
    ]
torch.save(found, "features.pt")
print(json.dumps(ends))
"""


@dataclass(frozen=True)
class Pushed:
    """What was given, and what came of it.

    Args:
        hub: as it was left.
        folder: where the commands were given.
        ends: the exit code, output and error of each, by the repository's name.
        ours: the run's own features of some images.
        features: those of timm's model of the Hub, and of the exported folder.
        written: all that the process wrote.
    """

    hub: Hub
    folder: Path
    ends: dict[str, tuple[int, str, str]]
    ours: torch.Tensor
    features: list[torch.Tensor]
    written: str


COMMANDS: dict[str, tuple[str, str, list[str]]] = {
    "me/encoder": (TOKEN, "exported", []),
    "me/hidden": (TOKEN, "hidden", ["--private"]),
    "me/public": (TOKEN, "public", []),
    "me/public again": (TOKEN, "public again", ["--private"]),
    "somebody/model": (TOKEN, "forbidden", []),
    "me/untrusted": ("hf_anotherToken", "untrusted", []),
    "silence/model": (TOKEN, "silent", []),
    "silence/hidden": (TOKEN, "silent and hidden", ["--private"]),
    "me/nobody": ("", "nobody", []),
}


@pytest.fixture(scope="module")
def pushed(pretrained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    run, folder = pretrained("Schedule.epochs = 2"), tmp_path_factory.mktemp("pushed")
    context = load_model(run).context()
    images = context.source.load(context.source.test(), torch.arange(4))
    with torch.no_grad():
        ours = pooled(context.model.encoder, images, "token")
    torch.save(images, folder / "images.pt")
    commands = [
        (token, ["export", str(run), "--out", out, "--push", name.split()[0], *options])
        for name, (token, out, options) in COMMANDS.items()
    ]
    with running_hub() as hub:
        # The Hub's own uploads by xet, which no stand-in speaks, are turned off; large files go by LFS then.
        own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps(commands)],
            cwd=folder,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        ends = dict(zip(COMMANDS, map(tuple, json.loads(done.stdout)), strict=True))
        features = torch.load(folder / "features.pt")
        yield Pushed(hub, folder, ends, ours, features, done.stdout + done.stderr)


def test_the_folder_arrives_as_it_is(pushed: Pushed) -> None:
    code, out, err = pushed.ends["me/encoder"]
    assert code == 0, err
    assert f"pushed: {pushed.hub.endpoint}/me/encoder/commit/" in out
    assert "timm.create_model('hf-hub:me/encoder', pretrained=True" in out
    files = {path.name: path.read_bytes() for path in (pushed.folder / "exported").iterdir()}
    assert set(files) == {"README.md", "config.json", "model.safetensors"}
    assert pushed.hub.repositories["me/encoder"] == files
    assert b"timm.create_model('hf-hub:me/encoder', pretrained=True)" in files["README.md"]
    assert pushed.hub.messages[0].startswith("run: the student after 20 steps, exported by curriculum-masking ")


def test_timm_loads_it_from_the_hub(pushed: Pushed) -> None:
    from_hub, from_folder = pushed.features
    assert torch.equal(from_hub, from_folder)
    torch.testing.assert_close(from_hub, pushed.ours, rtol=1e-5, atol=1e-5)


def test_private_is_private(pushed: Pushed) -> None:
    assert pushed.ends["me/hidden"][0] == 0
    assert pushed.hub.private == {"me/hidden"}
    # A repository that everybody sees is not filled with what nobody was to see.
    code, _, err = pushed.ends["me/public again"]
    assert code == 2
    assert "me/public is there already and everybody sees it, so nothing was uploaded" in err
    assert "hf upload" not in err
    assert b"public again" not in pushed.hub.repositories["me/public"]["README.md"]
    assert len(pushed.hub.messages) == 3


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("somebody/model", "the token may not write there; choose an OWNER of yours"),
        ("me/untrusted", "does not accept the token; run `hf auth login` again"),
        ("silence/model", "no upload to http://127.0.0.1:"),
    ],
)
def test_a_failed_push_leaves_the_folder(pushed: Pushed, name: str, told: str) -> None:
    code, _, err = pushed.ends[name]
    assert code == 2
    assert err.startswith(f"error: --push {name}: ")
    assert err.count("\n") == 1
    assert told in err
    folder = pushed.folder / COMMANDS[name][1]
    assert len(list(folder.iterdir())) == 3
    assert f"`hf upload {name} {shlex.quote(folder.name)}` pushes it" in err
    assert not pushed.hub.repositories.get(name)


def test_no_advice_shows_what_is_to_be_private(pushed: Pushed) -> None:
    """`hf upload --private` fills a repository that is there already, whoever sees it."""
    code, _, err = pushed.ends["silence/hidden"]
    assert code == 2
    assert "hf upload" not in err
    assert "the same command with another --out tries it again" in err


def test_without_a_token_nothing_is_begun(pushed: Pushed) -> None:
    code, _, err = pushed.ends["me/nobody"]
    assert code == 2
    assert "--push me/nobody needs a token of the Hugging Face Hub that may write: run `hf auth login`" in err
    assert not (pushed.folder / "nobody").exists()


def test_the_token_is_written_nowhere(pushed: Pushed) -> None:
    texts: list[Any] = [
        pushed.written,
        *(file for files in pushed.hub.repositories.values() for file in files.values()),
    ]
    for token in (TOKEN, "hf_anotherToken"):
        assert all((token.encode() if isinstance(text, bytes) else token) not in text for text in texts)


def test_what_is_refused_before_the_work(hpm: Hpm, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, told in (
        (["--push", "encoder"], "--push encoder must be OWNER/NAME"),
        (["--push", "me/a/b"], "--push me/a/b must be OWNER/NAME"),
        (["--push", "me/a..b"], "--push me/a..b cannot be a repository's name: "),
        (["--push", "me/a", "--format", "onnx"], "--push me/a goes with --format timm"),
        (["--private"], "--private goes with --push OWNER/NAME"),
    ):
        assert hpm("export", tmp_path / "run", "--out", tmp_path / "new", *options) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
