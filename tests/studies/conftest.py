"""Studies over runs that take seconds, on SQLite and on a PostgreSQL server of the tests' own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks
from made_results import HARD, RANDOM, results

from studies.analysis.comparison import Comparison, compare

Study = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def small(tiny: Path) -> Path:
    """A run of 40 steps with a probe an epoch, for studies to vary."""
    tiny.write_text(
        f"{tiny.read_text()}\nMonitoring.probe_every = 2\nMonitoring.probes = [@Ridge()]\n"
        "Monitoring.evaluations = [@Ridge()]\n"
    )
    return tiny


@pytest.fixture
def comparison() -> Comparison:
    """Two variants with five seeds each, of which `hard` is better."""
    return compare(results("random", RANDOM) + results("hard", HARD), "low_shot/pretrained", against="random")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forks: Forks) -> Study:
    """The `hpm-study` command as a process, in an empty folder; what it starts itself are processes as ever."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        plugins = ROOT / "tests" / "plugins"
        surroundings = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{plugins}",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "160",
            **environment,
        }
        return forks.run("studies", *arguments, env=surroundings)

    return run


def postgresql_programs() -> Path | None:
    """The folder of a PostgreSQL server's programs; None where there is no server."""
    initdb = shutil.which("initdb")
    folders = [] if initdb is None else [Path(initdb).resolve().parent]
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").is_file()), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a PostgreSQL server where there is none."""
    if item.get_closest_marker("needs_postgresql") and postgresql_programs() is None:
        pytest.skip("needs a PostgreSQL server, Debian's package postgresql")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a server, without a database, for tests marked `needs_postgresql`."""
    programs = postgresql_programs()
    assert programs is not None
    # Not among pytest's folders, which every other pytest of this user closes to others.
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The server refuses to be root, and its user must own the folder.
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    os.chown(folder, user.pw_uid, user.pw_gid)

    def call(program: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
            **({"user": user.pw_uid, "group": user.pw_gid} if os.getuid() == 0 else {}),
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
        )

    data = str(folder / "data")
    call("initdb", "-D", data, "-U", "study", "-E", "UTF8", "--auth=trust", "--no-sync")
    call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", f"-p {port} -h 127.0.0.1 -k {folder} -F", "start")
    try:
        yield f"postgresql://study@127.0.0.1:{port}"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def postgresql(postgresql_server: str) -> str:
    """The URL of a fresh database."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(
        f"{postgresql_server}/postgres".replace("://", "+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        count = connection.execute(sqlalchemy.text("SELECT count(*) FROM pg_database")).scalar()
        connection.execute(sqlalchemy.text(f"CREATE DATABASE study{count}"))
    engine.dispose()
    return f"{postgresql_server}/study{count}"
