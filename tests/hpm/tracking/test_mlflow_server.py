"""The tracker against a real server that comes and goes, under an address with a password."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from tracked_runs import Eager, rows_of, runs, start, steps, track, until

from hpm.tracking.redact import without_password


@contextmanager
def server(store: Path, port: int) -> Iterator[int]:
    """A real one; its process group."""
    arguments = [
        "--backend-store-uri",
        f"sqlite:///{store / 'tracking.db'}",
        "--artifacts-destination",
        str(store / "files"),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with (store / "server.log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments], stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(lambda: _answers(port))
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.mark.usefixtures("uri")
def test_a_server_that_comes_and_goes(
    folder: Path,
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Absent at the start, there, away, there again; and its password is nowhere but in the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://me:pass%20word@127.0.0.1:{port}"
    config = folder / "config.gin"
    config.write_text(f"MLflowTracker.uri = '{address}'\n")
    tracker = start(Eager(uri=address), folder, **{"MLflowTracker.uri": address})
    tracker.send(rows_of(3), [config])
    until(lambda: tracker.problem)
    with server(tmp_path, port) as group:
        tracker.send(rows_of(6))
        until(lambda: tracker.problem is None)
        (run_id,) = runs(address)
        assert steps(address, run_id) == [1, 2, 3, 4, 5, 6]
        os.killpg(group, signal.SIGSTOP)  # it takes connections and does not answer
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        tracker.send(rows_of(9))
        tracker.finish("FINISHED")
        assert tracker.problem is not None
        assert not tracker.has_all_of(folder)
        os.killpg(group, signal.SIGCONT)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
        assert track(address, folder, rows_of(9)).has_all_of(folder)  # as `--resume` does it
        assert runs(address) == [run_id]
        assert steps(address, run_id) == list(range(1, 10))
        client = MlflowClient(tracking_uri=address)
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert run.data.params == {"Ramp.end": "0.5", "MLflowTracker.uri": without_password(address)}
        assert [item.path for item in client.list_artifacts(run_id)] == ["config.gin"]
    config.unlink()  # the one place where the user put it
    output = "".join([*capfd.readouterr(), *(str(warning.message) for warning in recwarn)])
    assert f"http://***@127.0.0.1:{port}" in output
    assert "MLFLOW_TRACKING_PASSWORD" in output
    assert "lacks 3 of 9 rows of metrics" in output
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in ("pass%20word", "pass word"):
        assert secret not in output
        assert secret.encode() not in written
